# docker build -t bn-export . && docker run --rm -v "$PWD:/models" bn-export model.h5 out.json
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
RUN useradd --create-home reader
USER reader
WORKDIR /models
ENTRYPOINT ["bn-export"]

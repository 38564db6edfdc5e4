"""The examples: the commands of each README are run as they stand, and what the program prints is what the layer gives."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import exporter
from tests.make.layers import ROOT

EXAMPLES = ROOT / "examples"
NEEDS = {"pytorch": ["torch"], "flax": ["flax"], "onnx": ["onnx", "onnxruntime"], "browser": ["chromium"], "arduino": ["g++"],
         "rust": ["cargo"], "go": ["go"], "java": ["javac", "java"]}
CRATES = Path("/usr/share/cargo/registry")
X = np.array([[0.5, -0.25, 1, 2]], np.float32)


def has(tool):
    return shutil.which(tool) is not None or (tool.isidentifier() and importlib.util.find_spec(tool) is not None)


@pytest.fixture
def ran(tmp_path):
    """ran(name) -> (folder, what the commands printed) of an example, run in a copy of its folder beside the real runtimes and models."""
    def call(name):
        for tool in NEEDS[name]:
            if not has(tool):
                pytest.skip(f"{tool} is not installed")
        folder = tmp_path / "examples" / name
        shutil.copytree(EXAMPLES / name, folder)
        for beside in ("runtimes", "sample_models"):
            (tmp_path / beside).symlink_to(ROOT / beside)
        commands = re.search(r"```bash\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)[1]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                       "JAX_PLATFORMS": "cpu", "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
        if name == "rust":
            offline(tmp_path)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder, done.stdout

    return call


def offline(folder):
    """Cargo without a network: the crates of Debian's packages."""
    if not list(CRATES.glob("serde_json-*")):
        pytest.skip("the crate serde_json is not installed (Debian: librust-serde-json-dev)")
    (folder / ".cargo").mkdir()
    (folder / ".cargo" / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "debian"\n[source.debian]\ndirectory = "{CRATES}"\n[net]\noffline = true\n')


def numbers(line):
    return np.array(line.split(), np.float64)


def right(got, layer="head_bn", x=X):
    """Within the error bound of single precision."""
    from exporter.batchnorm import vectors

    found = exporter.read(EXAMPLES.parent / "sample_models" / "encoder_keras3" / "model.keras")[layer]
    want = found.replace(axis=(-1,), ndim=None)(x.astype(np.float64))
    return bool((np.abs(got.reshape(want.shape) - want) <= vectors.bound(found, x)).all())


def test_the_table_lists_every_folder():
    text = (EXAMPLES / "README.md").read_text("utf-8")
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders == set(NEEDS)
    assert all(f"({name})" in text and (EXAMPLES / name / "README.md").is_file() for name in folders)
    for path in EXAMPLES.rglob("*.*"):
        if path.suffix in (".py", ".rs", ".go", ".java", ".ino", ".html"):
            assert len([line for line in path.read_text("utf-8").splitlines() if line.strip()]) <= 50, path


@pytest.mark.thorough("compilers and flax")
@pytest.mark.parametrize("name", ["flax", "arduino", "rust", "go", "java"])
def test_the_head_of_the_encoder(ran, name):
    _, out = ran(name)
    line = next(line for line in out.splitlines() if re.fullmatch(r"[-\d.eE ]+", line.strip()))
    assert right(numbers(line))


@pytest.mark.thorough("flax")
def test_flax_is_verified(ran):
    _, out = ran("flax")
    assert "the 8 layers are equal bit for bit" in out


@pytest.mark.thorough("PyTorch")
def test_a_whole_network_in_pytorch(ran):
    _, out = ran("pytorch")
    assert "8 of 8 layers paired" in out
    assert "the 8 layers are equal bit for bit" in out
    keras = pytest.importorskip("keras")
    model = keras.models.load_model(ROOT / "sample_models" / "encoder_keras3" / "model.keras")
    want = np.asarray(model(np.arange(8 * 8 * 3, dtype=np.float32).reshape(1, 8, 8, 3) / 100, training=False))
    assert np.allclose(numbers(out.splitlines()[0]), want.ravel(), rtol=1e-3, atol=1e-3)


def test_a_splice_in_onnx(ran):
    _, out = ran("onnx")
    image = np.arange(24, dtype=np.float32).reshape(6, 4) / 10
    assert right(numbers(out.splitlines()[-1]).reshape(6, 4).T, "stem_bn", image.T)


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, *_):
        pass


@pytest.mark.thorough("Chromium")
def test_a_page_in_chromium(ran, tmp_path):
    folder, _ = ran("browser")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
                   "--virtual-time-budget=10000", "--dump-dom", f"http://127.0.0.1:{server.server_address[1]}/"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        server.shutdown()
    found = re.search(r'<output id="result">([-\d.e ]+)</output>', shown)
    assert found, shown[-500:]
    assert right(numbers(found[1]))

"""A web server for one folder that records its requests. It can support range requests or not, and fail in various ways."""

from __future__ import annotations

import contextlib
import http.server
import mmap
import pathlib
import re
import threading
import urllib.parse

BOUNDARY = "a-boundary"
POLL_SECONDS = 0.01  # how long the end of a server may take


class Server(http.server.ThreadingHTTPServer):
    """requests: (method, path, bytes sent) of each. ranges, sizes, several, status: what it does; several: many ranges in one answer.

    trouble: called with the number of a request, its method and its headers; says what goes wrong: a status, (status, headers), "drop" for
    no answer, "cut" for half of one, "other" for one with another ETag; None for nothing.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, folder, *, ranges=True, sizes=True, several=False, status=200, trouble=lambda number, method, headers: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.sizes, self.several, self.status = pathlib.Path(folder), ranges, sizes, several, status
        self.trouble, self.requests = trouble, []
        self.version = {}
        self.lock = threading.Lock()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    @property
    def bytes_sent(self):
        return sum(count for _, _, count in self.requests)

    def note(self, *request):
        """The number of this request."""
        with self.lock:
            self.requests.append(request)
            return len(self.requests) - 1

    def handle_error(self, request, client_address):
        """A reader that goes away is no error of the server."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _fails(self, status, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self):
        server, path = self.server, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        file = server.folder / path.lstrip("/")
        number = server.note(self.command, self.path, 0)
        trouble = server.trouble(number, self.command, self.headers)
        if trouble is None and server.status != 200:
            trouble = server.status
        if trouble is None and not file.is_file():
            trouble = 404
        if isinstance(trouble, (int, tuple)):
            self._fails(*(trouble if isinstance(trouble, tuple) else (trouble,)))
            return
        if trouble == "drop":
            self.close_connection = True
            return
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            status, headers, body = self._ranges(data)
        headers["ETag"] = f'"{server.version.get(path.lstrip("/"), 1)}{"b" if trouble == "other" else ""}"'
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            self._fails(412)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if server.sizes:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if trouble == "cut":
            body = body[: len(body) // 2]
        if trouble == "cut" or not server.sizes:
            self.close_connection = True
        if self.command == "GET":
            server.requests[number] = (self.command, self.path, len(body))
            self.wfile.write(body)

    def _ranges(self, data):
        """(status, headers, body) of what is asked for."""
        asked = re.fullmatch(r"bytes=(\d+-\d+(?:, *\d+-\d+)*)", self.headers.get("Range", "")) if self.server.ranges else None
        pieces = [tuple(map(int, piece.split("-"))) for piece in asked[1].split(",")] if asked else []
        pieces = [(first, min(last, len(data) - 1)) for first, last in pieces]
        if not pieces or (len(pieces) > 1 and not self.server.several):
            return 200, {}, data[:]
        if len(pieces) == 1:
            (first, last), = pieces
            return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first:last + 1]
        head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes "
        parts = [f"{head}{first}-{last}/{len(data)}\r\n\r\n".encode() + data[first:last + 1] for first, last in pieces]
        return 206, {"Content-Type": f"multipart/byteranges; boundary={BOUNDARY}"}, b"".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode()


@contextlib.contextmanager
def serving(folder, **behavior):
    """A running Server."""
    server = Server(folder, **behavior)
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

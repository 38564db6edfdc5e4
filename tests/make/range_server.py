"""A web server of one folder that counts what is asked of it, with and without support for ranges."""

from __future__ import annotations

import contextlib
import http.server
import pathlib
import re
import threading
import urllib.parse


class Server(http.server.ThreadingHTTPServer):
    """requests: (method, path, bytes sent) of each. ranges, sizes, statuses: what it does."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, folder, *, ranges=True, sizes=True, status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.sizes, self.status = pathlib.Path(folder), ranges, sizes, status
        self.requests = []
        self.version = {}

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    @property
    def bytes_sent(self):
        return sum(count for _, _, count in self.requests)

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

    def _answer(self):
        server, path = self.server, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        file = server.folder / path.lstrip("/")
        if server.status != 200 or not file.is_file():
            server.requests.append((self.command, self.path, 0))
            self.send_error(server.status if server.status != 200 else 404)
            return
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.ranges else None
        first, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
        with file.open("rb") as opened:
            opened.seek(first)
            body = opened.read(last + 1 - first)
        if asked:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{server.version.get(path.lstrip("/"), 1)}"')
        if server.sizes:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        sends = self.command == "GET"
        server.requests.append((self.command, self.path, len(body) if sends else 0))
        if sends:
            self.wfile.write(body)


@contextlib.contextmanager
def serving(folder, **behaviour):
    """A running Server."""
    server = Server(folder, **behaviour)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

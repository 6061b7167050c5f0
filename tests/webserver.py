"""A web server on this machine that misbehaves as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """What it serves, how it fails, and what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag = '"1"'
        self.drops: list[int] = []
        """Bytes after which each of the next answers is cut off."""
        self.knows_ranges = True
        self.asked: list[str | None] = []
        """The Range header of each request."""
        self.url = ""


@contextmanager
def serving() -> Iterator[Server]:
    """A server at `Server.url` while the context lasts."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.headers.get("Range"))
            if self.path not in server.files:
                self.send_error(404)
                return
            body, start = server.files[self.path], 0
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if server.knows_ranges and wanted and condition in (None, server.etag):
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("ETag", server.etag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            part = body[start:]
            self.wfile.write(part[: server.drops.pop(0)] if server.drops else part)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()

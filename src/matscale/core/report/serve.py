"""Serve a report on runs that are still training; the page is built again when a record has changed."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from markupsafe import Markup

from matscale.core.errors import MatscaleError
from matscale.core.report.page import scripts
from matscale.core.report.records import folders_of
from matscale.core.runs.files import INFO, METRICS

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def version_of(sources: Sequence[str]) -> str:
    """Version of the records of runs: a text that changes when a run appears or a record grows.

    Sources without any run have a version as well.
    """
    try:
        folders = folders_of(sources)
    except MatscaleError as error:
        return hashlib.sha256(str(error).encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    for path in (folder / name for folder in folders for name in (INFO, METRICS)):
        state = path.stat() if path.exists() else None
        digest.update(f"{path} {state.st_size if state else 0} {state.st_mtime_ns if state else 0}\n".encode())
    return digest.hexdigest()[:16]


WAITING = Markup(
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>waiting</title>'
    "<p>{}</p><p>This page looks again every three seconds.</p>"
)
NOTHING = "default-src 'none'"


def policy_of(scripts: Iterable[str]) -> str:
    """Content security policy of a page: it allows the given scripts, by their hashes, and nothing from other places.

    The scripts come from the package, not from the page, into which the name of a run could inject a script.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Pages:
    """Cache of the page that a server sends. The page is built once per version, by one thread at a time."""

    def __init__(self, sources: Sequence[str], build: Callable[[str], str]) -> None:
        """Set up the cache; `build` makes the page from its version.

        If it raises MatscaleError, a page with the error is sent instead.
        """
        self.sources, self.build = sources, build
        self.lock = threading.Lock()
        self.version, self.text, self.policy = "", "", policy_of(scripts())

    def current(self) -> tuple[str, str]:
        """Current page, and its content security policy."""
        with self.lock:
            version = version_of(self.sources)
            if version != self.version:
                self.text = self._page(version)
                self.version = version
            return self.text, self.policy

    def _page(self, version: str) -> str:
        try:
            return self.build(version)
        except MatscaleError as error:
            return WAITING.format(error)


def server(pages: Pages, host: str, port: int) -> ThreadingHTTPServer:
    """Make a server that sends the pages, ready for `serve_forever`; `port` 0 takes a free port."""
    handler = type("Handler", (_Handler,), {"pages": pages, "is_local": host in LOOPBACK})
    return (_OverIPv6 if ":" in host else ThreadingHTTPServer)((host, port), handler)


class _OverIPv6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    is_local: bool
    policy = NOTHING

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        # Another site's name may resolve to this machine (DNS rebinding); such requests get no answer.
        name = (self.headers.get("Host") or "").rsplit(":", 1)[0].strip("[]")
        if self.is_local and name not in LOOPBACK:
            self.send_error(403, "use the address localhost")
        elif self.path.partition("?")[0] == "/":
            self._answer("text/html", *self.pages.current())
        elif self.path == "/version":
            self._answer("text/plain", version_of(self.pages.sources))
        else:
            self.send_error(404)

    def _answer(self, kind: str, text: str, policy: str = NOTHING) -> None:
        body = text.encode(errors="replace")
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.policy = policy
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Add security headers to every answer, even to errors: browsers must not guess its type or send a referrer."""
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a log of requests would hide the output of the command."""


def url(running: ThreadingHTTPServer) -> str:
    host, port = running.server_address[:2]
    name = f"[{host!s}]" if ":" in str(host) else str(host)
    return f"http://{name}:{port}/"

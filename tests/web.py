"""An HTTP server on loopback whose answers a function gives."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the server saw it."""

    method: str
    path: str  #: with the query; of a proxy, the whole URL
    headers: Mapping[str, str]  #: keys in lower case
    body: bytes

    @property
    def url(self) -> SplitResult:
        """The parts of what was asked for."""
        return urlsplit(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of the server."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


#: Gives the answer to a request; None closes the connection without one.
Answerer = Callable[[Request], Reply | None]


class Handler(BaseHTTPRequestHandler):
    """Passes each request to the function of its server."""

    protocol_version = "HTTP/1.1"
    server: Server

    def url(self) -> str:
        """Return the address that was asked for."""
        return self.path

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.answer(Request(self.command, self.url(), headers, body))
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status not in (204, 304):
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server with its function."""

    daemon_threads = True
    answer: Answerer

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: a client may end the connection, as one does that does not trust the certificate."""


@contextmanager
def http_server(answer: Answerer, tls: ssl.SSLContext | None = None, handler: type[Handler] = Handler) -> Iterator[int]:
    """Answer requests at a port until the end of the block."""
    with Server(("127.0.0.1", 0), handler) as server:
        server.answer = answer
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()

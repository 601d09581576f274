"""`send`: the answer of a target."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from cloudtasks_nb.handlers.send import send

_LARGE = b'"' + b"x" * 3_000_000 + b'"'


def test_a_large_answer_is_read_to_its_end() -> None:
    """An answer that arrives in many parts is whole."""

    class Target(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(_LARGE)))
            self.end_headers()
            self.wfile.write(_LARGE)

        def log_message(self, *_args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Target) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answer = send("POST", f"http://127.0.0.1:{server.server_port}/", {}, b"", 20.0)
        thread.join()
    assert (answer.status, answer.result) == (200, _LARGE)

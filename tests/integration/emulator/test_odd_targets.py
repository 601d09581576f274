"""Targets that redirect, cut the connection, or answer with something that is not HTTP."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.conftest import Answer, Emulator, Target

SLOW = {"min_backoff": {"seconds": 100}}


class RawServer:
    """Reads the head of a request, sends some bytes and closes the connection, again and again."""

    def __init__(self) -> None:
        self.reply = b""
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65_536))
                connection.sendall(self.reply)

    def close(self) -> None:
        """Stop serving."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def raw() -> Iterator[RawServer]:
    """Run a raw server."""
    server = RawServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    "reply",
    [b"", b"hello\r\n\r\n", b"HTTP/1.1 banana\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"],
    ids=["closed", "not http", "no status", "cut in the head"],
)
def test_no_answer(emulator: Emulator, raw: RawServer, reply: bytes) -> None:
    """An invalid answer is one failed attempt without a response."""
    raw.reply = reply
    task = emulator.tried(emulator.enqueue(emulator.make_queue(retry_config=SLOW), raw.url).name)
    assert task.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 0"
    assert (task.dispatch_count, task.response_count) == (1, 0)
    assert len(raw.requests) == 1


def test_an_answer_of_http_1_0(emulator: Emulator, queue: str, raw: RawServer) -> None:
    """An old server that ends its answer by closing is understood."""
    raw.reply = b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 300_000
    emulator.gone(emulator.enqueue(queue, raw.url).name)


def test_a_redirect_is_followed(emulator: Emulator, queue: str, target: Target) -> None:
    """A redirect with a location is followed within the attempt."""
    target.script(Answer(status=307, headers={"Location": "/moved"}))
    emulator.gone(emulator.enqueue(queue, target.url, {"body": b"kept"}).name)
    first, second = target.received
    assert (first.path, second.path) == ("/job", "/moved")
    assert (second.method, second.body) == ("POST", b"kept")
    assert second.headers["x-cloudtasks-taskretrycount"] == "0"


def test_a_redirect_in_a_circle(emulator: Emulator, target: Target) -> None:
    """Endless redirects are a failed attempt."""
    target.script(*[Answer(status=307, headers={"Location": "/job"})] * 50)
    task = emulator.tried(emulator.enqueue(emulator.make_queue(retry_config=SLOW), target.url).name)
    assert task.dispatch_count == 1
    assert task.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 307"


@pytest.mark.parametrize("place", ["[oops/", "", "127.0.0.1:99999/", "127.0.0.1:port/", "exa mple/", "a%zz/"])
def test_a_url_without_a_server(emulator: Emulator, place: str) -> None:
    """The attempts of a URL without a server fail, and other tasks are still sent."""
    queue = emulator.make_queue(retry_config={"max_attempts": 1}, rate_limits={"max_concurrent_dispatches": 1})
    for task in [emulator.enqueue(queue, f"http://{place}") for _ in range(2)]:
        emulator.gone(task.name)


@pytest.mark.parametrize("headers", [{"X-A": "a\r\nX-Evil: 1"}, {"X-A": "a\x00b"}])
def test_headers_cannot_be_smuggled(emulator: Emulator, target: Target, headers: dict[str, str]) -> None:
    """A header value with a line break never adds a header."""
    task = emulator.enqueue(emulator.make_queue(retry_config={"max_attempts": 1}), target.url, {"headers": headers})
    emulator.gone(task.name)
    assert not any("x-evil" in request.headers for request in target.received)

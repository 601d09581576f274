"""Targets that redirect in a circle, or that are none, and headers that would be two."""

import pytest

from tests.integration.conftest import Answer, Emulator, Target


def test_a_redirect_in_a_circle(emulator: Emulator, target: Target) -> None:
    """Endless redirects are a failed attempt."""
    target.script(*[Answer(status=307, headers={"Location": "/job"})] * 50)
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 100}})
    task = emulator.tried(emulator.enqueue(queue, target.url).name)
    assert task.dispatch_count == 1
    assert task.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 307"


@pytest.mark.parametrize("place", ["[oops/", "", "127.0.0.1:99999/", "127.0.0.1:port/", "exa mple/", "a%zz/"])
def test_a_url_without_a_server(emulator: Emulator, place: str) -> None:
    """A task with a URL without a server is taken; its attempts fail, and other tasks are still sent."""
    queue = emulator.make_queue(retry_config={"max_attempts": 1}, rate_limits={"max_concurrent_dispatches": 1})
    for task in [emulator.enqueue(queue, f"http://{place}") for _ in range(2)]:
        emulator.gone(task.name)


@pytest.mark.parametrize("headers", [{"X-A": "a\r\nX-Evil: 1"}, {"X-A": "a\x00b"}])
def test_headers_cannot_be_smuggled(emulator: Emulator, target: Target, headers: dict[str, str]) -> None:
    """A header value with a line break never adds a header."""
    task = emulator.enqueue(emulator.make_queue(retry_config={"max_attempts": 1}), target.url, {"headers": headers})
    emulator.gone(task.name)
    assert not any("x-evil" in request.headers for request in target.received)

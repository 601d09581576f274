"""A Handler: what it shows, and how it closes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cloudtasks_nb import handlers
from cloudtasks_nb.handlers import handler as handler_module
from cloudtasks_nb.handlers import serve
from tests.cases import cases
from tests.unit.handlers.conftest import Gate, post, report


def test_a_with_statement_closes() -> None:
    """A handler is a context manager; its text is its URL."""
    with handlers.serve(report) as handler:
        assert (str(handler), handler.name) == (handler.url, "report")
        assert repr(handler) == f"<Handler report at {handler.url}>"
    assert handler.closed
    with pytest.raises(ConnectionRefusedError):
        post(handler.url)


def shown(handler: handlers.Handler) -> tuple[list[str], str]:
    """Return what a notebook shows of a handler: the lines of its text, and its HTML."""
    bundle = handler._repr_mimebundle_(include=None, exclude=None)
    return bundle["text/plain"].splitlines(), bundle["text/html"]


def test_a_card_has_state_url_counts_last_error_and_the_next_line() -> None:
    """Text and HTML say how many calls there were, and how the last one failed."""
    handler = serve(report)
    post(handler.url, b'{"day": "mon"}')
    assert "1 call: 1 succeeded, 0 failed" in shown(handler)[0]
    post(handler.url, b'{"day": "never"}')
    text, html = shown(handler)
    counts = ["2 calls: 1 succeeded, 1 failed", "last error: LookupError: no such day: never"]
    assert text == ["report: waiting for tasks", handler.url, *counts, "→ handler.calls()"]
    assert all(line.removeprefix("report: ").removeprefix("→ ") in html for line in text)


def test_a_card_is_escaped_and_bounded() -> None:
    """Whatever a task sends or a function returns is shown as text, and shortened; the newest five calls are listed."""
    evil = "<img src=x onerror=alert(1)>"

    def echo(*, fail: bool) -> str:
        if fail:
            raise RuntimeError(f"two\n  lines {evil * 100}")
        return evil * 100

    handler = serve(echo, name=evil)
    assert "<table" not in shown(handler)[1]
    for fail in (*["false"] * 6, "true"):
        post(handler.url, f'{{"fail": {fail}}}'.encode(), X_CloudTasks_TaskName=evil)
    text, html = shown(handler)
    assert text[3].startswith("last error: RuntimeError: two lines <img")
    assert ("<img" in html, "&lt;img src=x onerror" in html, html.count("<tr>")) == (False, True, 6)
    assert len(html) < 5000


@cases(
    (lambda day, origin="JFK", *, shop: None, '{"day": ..., "shop": ...}'),  # noqa: ARG005 - only its parameters matter
    (lambda *rest, **more: None, "{}"),  # noqa: ARG005 - only its parameters matter
    (dict, "{...}"),
)
def test_the_next_line_fits_the_function(fn: Any, arguments: str) -> None:
    """Before the first call, the next line has the function's own arguments."""
    assert shown(serve(fn, name="fn"))[0][-1] == f"→ queue.enqueue(handler, {arguments})"


def test_a_closed_handler_shows_how_to_serve_it_again() -> None:
    """Repr and card of a closed handler name the next step; a temporary URL cannot be served again."""
    lasting, temporary = serve(report), serve(lambda: None)
    lasting.close()
    temporary.close()
    assert repr(lasting) == f"<Handler report at {lasting.url}, closed: ct.serve(report) serves it again>"
    assert "closed: its tasks will reach no other" in repr(temporary)
    for handler, words in ((lasting, "→ ct.serve(report) serves it again"), (temporary, 'name="report"')):
        text, _ = shown(handler)
        assert "closed; its tasks wait with ct.local(), elsewhere they fail" in text[0]
        assert words in text[-1]


def test_closing_leaves_no_thread_behind() -> None:
    """Workers and the loop for coroutines end with the handler."""

    async def hello() -> str:
        return "hello"

    with handlers.serve(hello) as handler:
        assert post(handler.url, b"").status == 200
        names = {thread.name for thread in threading.enumerate()}
        assert {"hello-0", "hello-7", "hello-coroutines"} <= names
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("hello")]


def test_closing_waits_for_calls_that_run() -> None:
    """A call that has begun is answered before the handler is closed."""
    gate = Gate()
    handler = serve(gate.function("done"), name="slow")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(post, handler.url, b"")
        assert gate.entered()
        closing = pool.submit(handler.close)
        gate.open()
        assert running.result(240).body == b'"done"'
        closing.result(240)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the times for which closing waits."""
    monkeypatch.setattr(handler_module, "_GRACE", 0.05)
    monkeypatch.setattr(handler_module, "_JOIN", 0.05)


def test_closing_does_not_wait_for_ever(impatient: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The connection of a call that hangs is closed, with a message; when the call ends at last, it is recorded."""
    gate = Gate()
    handler = serve(gate.function("late"), name="stuck")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(post, handler.url, b"")
        assert gate.entered()
        handler.close()
        assert isinstance(running.exception(240), ConnectionError | OSError)
    assert "stuck still runs (calls: 1)" in capsys.readouterr().out
    gate.open()
    for thread in threading.enumerate():
        if thread.name.startswith("stuck-"):
            thread.join(240)
    assert list(handler.calls()["result"]) == ["late"]

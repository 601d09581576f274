"""A body becomes arguments, and a result or an exception becomes an answer."""

import asyncio
import datetime as dt
import json
import re
from collections.abc import Coroutine
from typing import Any
from unittest.mock import Mock

from cloudtasks_nb import errors
from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import call, decode
from cloudtasks_nb.handlers.convert import display_name
from tests.cases import cases


def run(fn: Any, body: bytes) -> Answer:
    """Call with a clock that ticks half a second a reading."""
    ticks = iter(n / 2 for n in range(10))
    return call(fn, body, run=asyncio.run, clock=lambda: next(ticks))


@cases(
    *((body, (), {}) for body in (b"", b"{}")),
    (b'{"day": "2026-01-01", "n": [1]}', (), {"day": "2026-01-01", "n": [1]}),
    ('{"größe": "日本"}'.encode(), (), {"größe": "日本"}),
    *((b"[1, 2]", ([1, 2],), {}), (b'"text"', ("text",), {}), (b"3.5", (3.5,), {}), (b"null", (None,), {})),
    *((b"true", (True,), {}), (b"123456789012345678901", (123456789012345678901,), {})),
    (b"\xff\x00", (b"\xff\x00",), {}),
    *((text.encode(), (text,), {}) for text in ("plain text", "não", " ", '{"day": ', "[" * 100_000)),
)
def test_a_body_becomes_arguments(body: bytes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """An object becomes keyword arguments, anything else one argument; in `calls()` an empty body is None."""
    see = Mock(return_value=True)
    answer = run(see, body)
    assert (answer.result, answer.ok, answer.error) == (b"true", True, None)
    see.assert_called_once_with(*args, **kwargs)
    assert body or decode(body) is None


@cases(
    *(KeyError("x"), IndexError("x"), FileNotFoundError("x"), PermissionError("x"), TimeoutError("x"), TypeError("x")),
    *(json.JSONDecodeError("x", "", 0), NotImplementedError("x"), ExceptionGroup("x", [ValueError("y")])),
    *(errors.QueueNotFoundError("x", code="NOT_FOUND"), KeyboardInterrupt(), SystemExit(3)),
)
def test_every_exception_is_answered_with_500(error: BaseException) -> None:
    """Its class says nothing about a service: a KeyError is no 404."""
    answer = run(Mock(side_effect=error), b"")
    assert (answer.status, answer.upstream, answer.ok, answer.duration) == (500, None, False, 0.5)


def test_the_traceback_begins_in_the_function_and_the_answer_has_one_line() -> None:
    """The whole traceback is recorded; the answer has only type and message."""

    def inner(day: str) -> None:
        raise KeyError(day)

    def outer(day: str) -> None:
        inner(day)

    answer = run(outer, b'{"day": "monday"}')
    assert re.match(r"Traceback \(most recent call last\):\n.*in outer\n[\s\S]*in inner", str(answer.error))
    assert "handlers/call.py" not in str(answer.error)
    assert answer.content() == (b"KeyError: 'monday'", "text/plain")


def test_other_awaitables_are_results() -> None:
    """An awaitable that is no coroutine, such as a batch, is not awaited."""

    class Batch:
        def __await__(self) -> Any:
            raise AssertionError

        def __str__(self) -> str:
            return "a91f03c2"

    Batch.__module__ = "cloudtasks_nb.fanout.batch.batch"
    assert run(Batch, b"").result == b'"a91f03c2"'


def report(day: Any, origin: str = "JFK") -> str:
    """Serve as an ordinary function."""
    return f"{day + 'x'} {origin}"


class _Unreadable(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("closed")


# A function, a body, whether the function is called, and what the answer says.
@cases(
    (report, b"{}", False, ["report(day, origin)", "missing a required argument: 'day'", "no names"]),
    (report, b'{"day": 1, "shop": 2}', False, ["unexpected keyword argument 'shop'", "the names day, shop"]),
    (report, b"", False, ["missing a required argument: 'day'"]),
    (
        lambda: None,
        b"[1]",
        False,
        ["too many positional arguments", "one value (list); only a JSON object becomes key"],
    ),
    (report, b"1", True, ["in report"]),
    (dict, b"1", True, ["TypeError"]),
    (object, b"", True, ["returned a object", "object cannot be written as JSON", "return its path"]),
    (lambda: {"model": {1, 2}}, b"", True, ["returned a dict", "set cannot be written as JSON", "sorted(value)"]),
    (lambda: _Unreadable(a=1), b"", True, ["_Unreadable", "RuntimeError: closed"]),
)
def test_failures(fn: Any, body: bytes, *, called: bool, words: list[str]) -> None:
    """What does not fit is a 400 that names the argument, without a call; what the call comes to is a 500."""
    answer = run(fn, body)
    assert (answer.status, answer.result) == (500 if called else 400, None)
    assert (answer.duration is not None) == called
    assert [word for word in words if word not in f"{answer.message} {answer.error}"] == []


def test_functions_of_any_kind_are_called() -> None:
    """Builtins without a signature, and objects, whose class is their name; one value is the first argument."""

    class Report:
        def __call__(self) -> int:
            return 1

    assert run(dict, b'{"a": 1}').result == b'{"a":1}'
    assert run(report, b'"mon"').result == b'"monx JFK"'
    assert (display_name(Report()), run(Report(), b"").result) == ("Report", b"1")


def test_an_exception_that_cannot_be_shown_is_still_an_answer() -> None:
    """A broken __str__, a lone surrogate and a very long message still give a short answer."""

    class BrokenError(ValueError):
        def __str__(self) -> str:
            raise RuntimeError

    def fail(kind: str) -> None:
        raise {"broken": BrokenError(), "surrogate": ValueError("\ud800"), "long": ValueError("x" * 10**6)}[kind]

    assert run(fail, b'"broken"').message == "BrokenError: <exception str() failed>"
    assert run(fail, b'"surrogate"').content()[0] == b"ValueError: ?"
    assert len(run(fail, b'"long"').content()[0]) < 3000


@cases((None, b"null"), ({"n": 2**70, "day": dt.date(2026, 1, 2)}, b'{"n":1180591620717411303424,"day":"2026-01-02"}'))
def test_a_result_is_answered_as_json(result: Any, content: bytes) -> None:
    """The answer has the result as JSON, written as the body of a task is."""
    assert run(lambda: result, b"").content() == (content, "application/json")


def test_our_own_frames_are_in_the_traceback_only_if_there_are_no_others() -> None:
    """A coroutine that was cancelled before it began has no frames of its own, and still a traceback."""

    async def never() -> None:
        """Do nothing."""

    def cancel(coroutine: Coroutine[Any, Any, Any]) -> None:
        coroutine.close()
        raise asyncio.CancelledError

    answer = call(never, b"", run=cancel)
    assert answer.status == 500
    assert "CancelledError" in str(answer.error)

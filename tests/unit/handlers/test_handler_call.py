from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb import errors
from cloudtasks_nb.handlers.call import Outcome, call, decode, display_name, encode, status_of

__all__: list[str] = []


def run(fn: Any, body: bytes) -> Outcome:
    """Call with a clock that ticks half a second a reading."""
    ticks = iter(n / 2 for n in range(10))
    return call(fn, body, wait=asyncio.run, clock=lambda: next(ticks))


def echo(*args: Any, **kwargs: Any) -> Any:
    """Return what came."""
    return args, kwargs


@pytest.mark.parametrize(
    ("body", "args", "kwargs"),
    [
        (b"", (), {}),
        (b"{}", (), {}),
        (b'{"day": "2026-01-01", "n": [1]}', (), {"day": "2026-01-01", "n": [1]}),
        ('{"größe": "日本"}'.encode(), (), {"größe": "日本"}),
        (b"[1, 2]", ([1, 2],), {}),
        (b'"text"', ("text",), {}),
        (b"3.5", (3.5,), {}),
        (b"123456789012345678901", (123456789012345678901,), {}),
        (b"null", (None,), {}),
        (b"true", (True,), {}),
        (b"plain text", ("plain text",), {}),
        ("não".encode(), ("não",), {}),
        (b"\xff\x00", (b"\xff\x00",), {}),
        (b" ", (" ",), {}),
        (b'{"day": ', ('{"day": ',), {}),
        (b"[" * 100_000, ("[" * 100_000,), {}),
    ],
)
def test_an_object_becomes_keyword_arguments_and_anything_else_one_argument(
    body: bytes, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """A body says with which arguments the function is called."""
    outcome = run(echo, body)
    assert outcome.result == (args, kwargs)
    assert outcome.ok
    assert outcome.error is None


def test_an_empty_body_decodes_to_none() -> None:
    """What is shown of an empty body is that there was none."""
    assert decode(b"") is None


class TwoKindsError(KeyError, ValueError):
    """Nearer to the first of its kinds."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), 400),
        (TypeError("x"), 400),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), 400),
        (json.JSONDecodeError("x", "", 0), 400),
        (errors.InvalidInputError("x"), 400),
        (PermissionError("x"), 403),
        (LookupError("x"), 404),
        (KeyError("x"), 404),
        (IndexError("x"), 404),
        (FileNotFoundError("x"), 404),
        (errors.QueueNotFoundError("x"), 404),
        (TwoKindsError("x"), 404),
        (NotImplementedError("x"), 501),
        (TimeoutError("x"), 504),
        (errors.BatchTimeoutError("x"), 504),
        (RuntimeError("x"), 500),
        (OSError("x"), 500),
        (ConnectionResetError("x"), 500),
        (ZeroDivisionError("x"), 500),
        (ExceptionGroup("x", [ValueError("y")]), 500),
        (SystemExit(3), 500),
        (KeyboardInterrupt(), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_the_kind_of_an_exception_is_the_status(error: BaseException, status: int) -> None:
    """Every exception becomes an answer, and its nearest known class says which; never 429 or 503."""

    def fail() -> None:
        raise error

    outcome = run(fail, b"")
    assert (outcome.status, status_of(error)) == (status, status)
    assert not outcome.ok
    assert outcome.duration == 0.5


def test_the_traceback_begins_in_the_function_and_the_answer_has_one_line() -> None:
    """The whole traceback is for the record; the answer says type and message."""

    def inner(day: str) -> None:
        raise KeyError(day)

    def outer(day: str) -> None:
        inner(day)

    outcome = run(outer, b'{"day": "monday"}')
    lines = str(outcome.error).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in outer")
    assert "in inner" in str(outcome.error)
    assert "handlers/_call.py" not in str(outcome.error)
    assert outcome.content() == (b"KeyError: 'monday'", "text/plain")


def test_a_coroutine_is_run_to_its_end() -> None:
    """An async function's result is what it returns, and its exception what it raises."""

    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n if n else 1 // n

    assert run(double, b'{"n": 21}').result == 42
    assert run(double, b'{"n": 0}').message == "ZeroDivisionError: integer division or modulo by zero"


def test_other_awaitables_are_results() -> None:
    """Something that can be awaited but is no coroutine, such as a batch, is not waited for."""

    class Batch:
        def __await__(self) -> Any:
            raise AssertionError

    batch = Batch()
    assert run(lambda: batch, b"").result is batch


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", ["report(day, origin)", "missing a required argument: 'day'", "no names"]),
        (b'{"day": 1, "shop": 2}', ["unexpected keyword argument 'shop'", "the names day, shop"]),
        (b"[1, 2]", []),
        (b"", ["missing a required argument: 'day'"]),
    ],
)
def test_arguments_that_do_not_fit_are_named(body: bytes, words: list[str]) -> None:
    """A body that does not fit the function is a 400 that names the argument; the function is not called."""

    def report(day: Any, origin: str = "JFK") -> str:
        return f"{day} {origin}"

    outcome = run(report, body)
    assert outcome.status == (400 if words else 200)
    assert (outcome.duration is None) is bool(words)
    assert all(word in str(outcome.message) for word in words)


def test_one_value_too_many_is_explained() -> None:
    """A list for a function without parameters says what would become keyword arguments."""
    outcome = run(lambda: None, b"[1]")
    assert "too many positional arguments" in str(outcome.error)
    assert "one value (list); only a JSON object becomes keyword arguments" in str(outcome.error)


def test_a_function_without_a_signature_is_called_all_the_same() -> None:
    """Some builtins do not tell their parameters; they refuse for themselves."""
    assert run(dict, b'{"a": 1}').result == {"a": 1}
    assert run(dict, b"1").status == 400


def test_a_type_error_of_the_function_keeps_its_traceback() -> None:
    """Only binding is checked before the call; a TypeError inside is the function's own."""

    def add(a: Any) -> Any:
        return a + "x"

    outcome = run(add, b'{"a": 1}')
    assert outcome.status == 400
    assert "in add" in str(outcome.error)


def test_an_exception_that_cannot_be_shown_is_still_an_answer() -> None:
    """A broken __str__, a lone surrogate and a message without end do no harm."""

    class BrokenError(ValueError):
        def __str__(self) -> str:
            raise RuntimeError

    def fail(kind: str) -> None:
        raise {"broken": BrokenError(), "surrogate": ValueError("\ud800"), "long": ValueError("x" * 10**6)}[kind]

    assert run(fail, b'"broken"').message == "BrokenError: <exception str() failed>"
    assert run(fail, b'"surrogate"').content()[0] == b"ValueError: ?"
    assert len(run(fail, b'"long"').content()[0]) < 3000


@pytest.mark.parametrize(
    ("result", "content"),
    [
        (None, b"null"),
        ({"n": 1, "day": dt.date(2026, 1, 2)}, b'{"n":1,"day":"2026-01-02"}'),
        ({1: "é"}, '{"1":"é"}'.encode()),
        (np.int64(3), b"3"),
        (np.float32(0.5), b"0.5"),
        (np.array([1, 2]), b"[1,2]"),
        (pd.Timestamp("2026-01-02", tz="UTC"), b'"2026-01-02 00:00:00+00:00"'),
        ([float("nan")], b"[null]"),
        (2**70, b""),
        ({(1, 2): 3}, b""),
    ],
    ids=repr,
)
def test_a_result_is_json_where_it_can_be(result: Any, content: bytes) -> None:
    """The answer has the result as JSON, or nothing."""
    assert encode(result) == content


def test_a_result_whose_text_fails_is_no_failure() -> None:
    """The function did its work; an answer without a body says so."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    outcome = run(Broken, b"")
    assert (outcome.status, outcome.content()) == (200, (b"", "application/json"))


def test_a_callable_object_has_its_class_for_a_name() -> None:
    """A sentence about something callable needs a word for it."""

    class Report:
        def __call__(self) -> int:
            return 1

    assert display_name(Report()) == "Report"
    assert run(Report(), b"").result == 1


def test_the_waiting_is_part_of_the_traceback_only_if_nothing_else_is() -> None:
    """A coroutine that was cancelled before it began has no frames of its own, and still a traceback."""

    async def never() -> None:
        """Do nothing."""

    def cancel(coroutine: Coroutine[Any, Any, Any]) -> None:
        coroutine.close()
        raise asyncio.CancelledError

    outcome = call(never, b"", wait=cancel)
    assert outcome.status == 500
    assert "CancelledError" in str(outcome.error)

"""Messages that differ only in numbers, ids and quoted values are one cause."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.causes import cause_of, kind_of
from tests.cases import cases
from tests.unit.fanout.conftest import tables_of

TABLES = tables_of(__file__)


def filled(cause: str, values: Sequence[str]) -> str:
    """Return a message with values in the places that its cause leaves out."""
    return cause.replace("…", "{}").format(*values)


@cases(*TABLES["one_cause"])
def test_messages_with_other_values_are_one_cause(cause: str, one: Sequence[str], other: Sequence[str]) -> None:
    """Messages of real programs, each twice; the module of the exception does not matter."""
    assert cause_of(f"lib.errors.{filled(cause, one)}") == cause_of(filled(cause, other)) == cause


@cases(*TABLES["written"])
def test_how_a_cause_is_written(message: str, cause: str) -> None:
    """With the name of the exception, the words as they are, and without the quotes of a key."""
    assert cause_of(message) == cause


def chained() -> None:
    """Raise an error because of another one."""
    try:
        raise KeyError("a17")  # noqa: TRY301 - as the functions of analysts do
    except KeyError as error:
        raise ValueError("no day 2026-01-05") from error


def grouped() -> None:
    """Raise errors of several tasks together."""
    raise ExceptionGroup("unhandled errors in a TaskGroup", [ValueError(1), KeyError("x")])


def several_lines() -> None:
    """Raise an error whose text has several lines, and a note."""
    error = RuntimeError("query 17 failed\n  at line 3\nSELECT 1")
    error.add_note("see the log")
    raise error


@cases(
    (chained, "ValueError: no day …"),
    (grouped, "ExceptionGroup: unhandled errors in a TaskGroup (… sub-exceptions)"),
    (several_lines, "RuntimeError: query … failed"),
    (lambda: compile("x =", "a", "exec"), "SyntaxError: invalid syntax"),
)
def test_the_cause_of_a_traceback_is_its_exception(fails: Callable[[], Any], cause: str) -> None:
    """Frames, earlier exceptions and notes do not matter."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each fails in its own way
        fails()
    assert cause_of("".join(traceback.format_exception(raised.value))) == cause


@cases("", " ", "INTERNAL(13): HTTP status code 502", "UNKNOWN(2)", "INTERNAL", "…", "'a'")
def test_some_messages_tell_no_more_than_the_status(message: str) -> None:
    """Then the status is the cause."""
    assert cause_of(message) is None


@given(st.text() | st.from_regex(r"([a-zA-Z]+\.)?[A-Z][a-z]+Error: ['\"a-z0-9 …./:@\\-]{,60}\n?", fullmatch=True))
@example("1'a'")
@example("a.b.C: 5'x'")
@example("ValueError: " + "word 17 'x' " * 100)
def test_a_cause_is_its_own_cause(message: str) -> None:
    """So rows of `errors()` can be named by their cause."""
    cause = cause_of(message)
    assert cause is None or cause_of(cause) == cause


def test_the_type_alone() -> None:
    """What is left of a cause when a batch has too many of them."""
    assert kind_of("KeyError: no such day") == "KeyError: …"
    assert kind_of("the disk is full: /data") is None

"""What a traceback or a message tells of a failure: its cause, the exception, and the line of the user's code."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.causes import Fault, cause_of, exception_line, kind_of
from tests.cases import cases
from tests.unit.fanout.conftest import tables_of

HEADER = "Traceback (most recent call last):\n"
CELL = '  File "cell [1]", line 12, in report\n    x = y[z]\n        ~^^^\n'
ETL = '  File "/home/ada/lib/etl.py", line 7, in load\n'
MODELS = '  File "/opt/venv/lib/python3.12/site-packages/requests/models.py", line 1021, in raise_for_status\n'


@cases(
    (HEADER + CELL + "KeyError: 'a'", ("KeyError", "report, cell [1] line 12")),
    (HEADER + CELL + ETL + "KeyError: 'a'", ("KeyError", "load, etl.py line 7")),
    (HEADER + CELL + MODELS + "requests.exceptions.HTTPError: 404", ("HTTPError", "report, cell [1] line 12")),
    (HEADER + CELL + ETL + MODELS + "requests.exceptions.HTTPError: 404", ("HTTPError", "load, etl.py line 7")),
    (HEADER + MODELS + CELL + "TimeoutError\n", ("TimeoutError", "report, cell [1] line 12")),
    (HEADER + MODELS + MODELS.replace("1021", "9") + "E: 1", ("E", "raise_for_status, models.py line 1021")),
    (
        HEADER + CELL + "KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{HEADER}{ETL}ValueError: no",
        ("ValueError", "load, etl.py line 7"),
    ),
    (HEADER + ETL + "__main__.load.<locals>.Bad: no", ("Bad", "load, etl.py line 7")),
    ("TypeError: f() missing 1 required positional argument: 'day'", None),
    (HEADER + "KeyError: 'a'", None),
)
def test_failures_have_a_line_of_the_users_code(text: str, expected: tuple[str, str] | None) -> None:
    """The last one that is not in a library, of the exception that was raised last; else that of the function."""
    fault = Fault.of(text)
    assert fault == (None if expected is None else (*expected, ""))
    assert Fault.parse(None if fault is None else str(fault)) == fault


LIBRARIES = (
    "/usr/lib/python3.11/json/decoder.py",
    "/usr/lib/python3/dist-packages/pandas/core/frame.py",
    "/layers/google.python.pip/pip/lib/python3.14/site-packages/requests/api.py",
    "/Library/Frameworks/Python.framework/Versions/3.13/lib/python3.13/asyncio/tasks.py",
    r"C:\Users\ada\AppData\Local\Programs\Python\Python312\Lib\json\decoder.py",
    r"C:\work\.venv\Lib\site-packages\requests\models.py",
    *("<frozen importlib._bootstrap>", "<string>", "<__array_function__ internals>"),
)


@cases(
    *((file, "report, cell [1] line 12") for file in LIBRARIES),
    *((file, "f, main.py line 3") for file in ("/workspace/main.py", r"C:\work\main.py")),
    *((file, f"f, {file} line 3") for file in ("<stdin>", "<python-input-3>")),
)
def test_libraries_are_known_by_their_places(file: str, place: str) -> None:
    """Of Linux, macOS, Windows and Cloud Run; also code that has no file. Others are the user's, without a folder."""
    fault: Any = Fault.of(f'{HEADER}{CELL}  File "{file}", line 3, in f\n    g()\nKeyError: 1')
    assert fault.place == place


def fetch(status: int) -> None:
    """Fail as a service answers."""
    response = requests.Response()
    response.status_code, response.url = status, "https://api.example/places/17"
    response.raise_for_status()


def test_the_status_of_a_service_is_part_of_it() -> None:
    """What a service does not know and what it refuses are two causes, though one line has called it."""
    found = []
    for status in (404, 429):
        with pytest.raises(requests.HTTPError) as raised:
            fetch(status)
        found.append(Fault.of("".join(traceback.format_exception(raised.value)), status))
    line = fetch.__code__.co_firstlineno + 4
    assert found == [("HTTPError", f"fetch, test_faults.py line {line}", status) for status in ("404", "429")]


def several() -> None:
    """Raise the errors of several tasks, of which one was raised before."""
    try:
        raise KeyError("x")  # noqa: TRY301 - it has a traceback of its own then
    except KeyError as error:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ValueError(1), error]) from None


def test_a_group_has_its_own_line() -> None:
    """It is not that of its last member, whose traceback comes last."""
    with pytest.raises(ExceptionGroup) as raised:
        several()
    text = "".join(traceback.format_exception(raised.value))
    assert exception_line(text) == "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)"
    fault: Any = Fault.of(text)
    assert fault.place == f"several, test_faults.py line {several.__code__.co_firstlineno + 5}"


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

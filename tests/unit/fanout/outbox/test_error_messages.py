"""Messages that differ only in numbers, ids and quoted values are one cause."""

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.causes import cause_of, kind_of
from tests.cases import cases

NO_FILE = "FileNotFoundError: [Errno 2] No such file or directory: "
SERVER_ERROR = "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: https://a.test/items?id="
RETRIES = "ConnectionError: Max retries exceeded with url: /v1/x/{} (Caused by <HTTPSConnection object at 0x{}>)"
DUPLICATE = (
    'psycopg2.errors.UniqueViolation: duplicate key value violates unique constraint "pk"\nDETAIL: Key (id)=({})'
)
NO_OBJECT = "google.api_core.exceptions.NotFound: 404 GET https://storage.test/b/{0}: No such object: b/day=2026-01-{0}"
NO_DAY = "ValueError: time data {} does not match format {}"
ORDER = "RuntimeError: order {}b8c1e-aaaa-bbbb-cccc-0123456789ab of {}@shop.test is unknown"


@cases(
    ("KeyError: 'a17'", "KeyError: 'a18'", "KeyError: …"),
    ("KeyError: 17", "KeyError: 'x'", "KeyError: …"),
    ("KeyError: 'no price of day 0'", "KeyError: 'no price of day 12'", "KeyError: no price of day …"),
    ('KeyError: "day 0 isn\'t there"', 'KeyError: "day 1 isn\'t there"', "KeyError: day … isn't there"),
    (
        NO_DAY.format("'2026-13-01'", "'%Y-%m-%d'"),
        NO_DAY.format('"it\'s"', '"%H"'),
        NO_DAY.format("…", "…"),
    ),
    (
        f"{NO_FILE}'/data/x17.csv'",
        f"{NO_FILE}'C:\\\\data\\\\x.csv'",
        "FileNotFoundError: [Errno …] No such file or directory: …",
    ),
    (f"{SERVER_ERROR}17", f"{SERVER_ERROR}x", "HTTPError: 503 Server Error: Service Unavailable for url: …"),
    (
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "JSONDecodeError: Expecting value: line 7 column 12 (char 940)",
        "JSONDecodeError: Expecting value: line … column … (char …)",
    ),
    (
        "urllib.error.HTTPError: HTTP Error 404: Not Found",
        "HTTPError: HTTP Error 404: Not Found",
        "HTTPError: HTTP Error 404: Not Found",
    ),
    (
        "TypeError: f() missing 1 required positional argument: 'day'",
        "TypeError: f() missing 2 required positional argument: 'shop'",
        "TypeError: f() missing … required positional argument: …",
    ),
    (
        "TypeError: can't multiply sequence by non-int of type 'float'",
        "TypeError: can't multiply sequence by non-int of type 'str'",
        "TypeError: can't multiply sequence by non-int of type …",
    ),
    (
        RETRIES.format(17, "7f3c"),
        RETRIES.format("a_b", "7f4d"),
        "ConnectionError: Max retries exceeded with url: … (Caused by <HTTPSConnection object at …>)",
    ),
    (
        DUPLICATE.format(17),
        DUPLICATE.format(18),
        "UniqueViolation: duplicate key value violates unique constraint … DETAIL: Key (id)=(…)",
    ),
    (
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "UnicodeDecodeError: 'ascii' codec can't decode byte 0xfe in position 91: invalid start byte",
        "UnicodeDecodeError: … codec can't decode byte … in position …: invalid start byte",
    ),
    ("TimeoutError", "builtins.TimeoutError\n", "TimeoutError"),
    (NO_OBJECT.format("05"), NO_OBJECT.format("06"), "NotFound: … GET … No such object: b/day=…"),
    (
        "ValueError: cannot convert float NaN to int64",
        "ValueError:  cannot convert float NaN to int64 ",
        "ValueError: cannot convert float NaN to int64",
    ),
    (
        "MemoryError: Unable to allocate 7.45 GiB for an array with shape (1000, 10) and data type float64",
        "MemoryError: Unable to allocate 11 GiB for an array with shape (5, 20) and data type float64",
        "MemoryError: Unable to allocate … GiB for an array with shape (…) and data type float64",
    ),
    (
        "AssertionError: shop-17: expected 5, got -3.2e-7",
        "AssertionError: shop-18: expected 12, got 1,204",
        "AssertionError: shop-…: expected …, got …",
    ),
    (ORDER.format("3f2", "kim"), ORDER.format("4a1", "lee.x"), "RuntimeError: order … of … is unknown"),
    (
        "RuntimeError: status 502 after 3 tries",
        "RuntimeError: status 502 after 12 tries",
        "RuntimeError: status 502 after … tries",
    ),
    (
        "ZeroDivisionError: division by zero",
        "ZeroDivisionError: division by zero",
        "ZeroDivisionError: division by zero",
    ),
)
def test_messages_with_other_values_are_one_cause(one: str, other: str, cause: str) -> None:
    """Twenty messages of real programs, each twice."""
    assert cause_of(one) == cause_of(other) == cause


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

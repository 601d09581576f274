from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb.handlers.call import Outcome
from cloudtasks_nb.handlers.card import Shown, html, next_line, text
from cloudtasks_nb.handlers.record import Call, Record

__all__: list[str] = []

DTYPES = {
    "time": "datetime64[us, UTC]",
    "task": "string",
    "queue": "string",
    "attempt": "Int64",
    "body": "object",
    "status": "Int64",
    "result": "object",
    "error": "string",
    "duration": "timedelta64[us]",
}
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


def made(result: Any = None, *, second: int = 0, body: bytes = b"{}", **outcome: Any) -> Call:
    """Return a call of some second after noon."""
    return Call(
        time=NOON + dt.timedelta(seconds=second),
        task=f"t{second}",
        queue="q",
        attempt=1,
        body=body,
        outcome=Outcome(**({"status": 200, "result": result, "duration": 0.25} | outcome)),
    )


def recorded(*calls: Call, newest: int = 100) -> Record:
    """Return a record of these calls."""
    record = Record(newest)
    for call in calls:
        record.begin()
        record.end(call)
    return record


@pytest.mark.parametrize(
    "record",
    [
        recorded(),
        recorded(made(1)),
        recorded(made([1]), made([2]), made(status=500, error="x", message="x", duration=None)),
    ],
    ids=["empty", "one", "three"],
)
def test_columns_and_dtypes_are_always_the_same(record: Record) -> None:
    """A frame of no calls has the columns and dtypes of one of many."""
    frame = record.frame()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == DTYPES
    assert isinstance(frame.index, pd.RangeIndex)


def test_a_call_keeps_what_there_was() -> None:
    """Times, names, body, result and duration are what they were; what is not known is NA."""
    result = {"rows": 3}
    call = made(result, body=b'{"day": "2026-01-01"}')
    stranger = Call(
        time=NOON + dt.timedelta(seconds=1),
        task=None,
        queue=None,
        attempt=None,
        body=b"",
        outcome=Outcome(status=401, error="the request has no Bearer token"),
    )
    first, second = recorded(call, stranger).frame().to_dict("records")
    assert first["time"] == pd.Timestamp("2026-01-02 12:00:00+00:00")
    assert (first["task"], first["queue"], first["attempt"], first["status"]) == ("t0", "q", 1, 200)
    assert first["body"] == {"day": "2026-01-01"}
    assert first["result"] is result
    assert first["duration"] == pd.Timedelta("250ms")
    assert all(pd.isna(second[name]) for name in ("task", "queue", "attempt", "body", "result", "duration"))
    assert second["error"] == "the request has no Bearer token"


def test_results_of_any_shape_are_kept_as_they_are() -> None:
    """Lists, arrays and frames of one length are not taken apart into columns."""
    results = [[1, 2], np.array([3, 4]), pd.DataFrame({"a": [1, 2]}), np.zeros((2, 2)), "text", {1: 2}]
    frame = recorded(*(made(result, second=number) for number, result in enumerate(results))).frame()
    assert [kept is result for kept, result in zip(frame["result"], results, strict=True)] == [True] * 6


def test_calls_stand_in_the_order_in_which_they_came() -> None:
    """A long call that began first comes first, though it ended last; only the newest are kept."""
    frame = recorded(made(second=3), made(second=1), made(second=4), made(second=2), newest=3).frame()
    assert list(frame["task"]) == ["t1", "t2", "t4"]


def test_text_that_is_no_unicode_can_be_shown() -> None:
    """Header bytes and messages that are no valid text do not break the frame."""
    call = made(status=500, error="bad \udcff", message="bad \udcff")
    odd = Call(time=NOON, task="\udcfe", queue="q", attempt=1, body=b"", outcome=call.outcome)
    assert list(recorded(odd).frame()[["task", "error"]].iloc[0]) == ["?", "bad ?"]


def test_the_body_is_what_came_even_if_the_function_changed_it() -> None:
    """Bodies are kept as bytes; a function that empties its argument does not empty the record."""
    record = recorded(made(body=b"[1, 2]"))
    record.frame()["body"][0].clear()
    assert record.frame()["body"][0] == [1, 2]


def test_a_summary_counts_everything() -> None:
    """Counts are of all calls, also of those that are no longer kept."""
    record = recorded(*(made(second=n) for n in range(5)), made(status=404, message="KeyError: 'x'"), newest=2)
    record.begin()
    summary = record.summary()
    assert (summary.succeeded, summary.failed, summary.running, summary.total) == (5, 1, 1, 6)
    assert summary.last_error == "KeyError: 'x'"
    assert len(summary.latest) == 2


def shown(record: Record, **other: Any) -> Shown:
    """Return what is shown of a handler with this record."""
    usual: dict[str, Any] = {
        "name": "report",
        "url": "http://127.0.0.1:1/report/x",
        "closed": False,
        "next_line": "handler.calls()",
    }
    return Shown(summary=record.summary(), **(usual | other))


def test_the_text_has_name_url_counts_last_error_and_the_next_line() -> None:
    """A few lines tell how it goes."""
    record = recorded(made(), made(status=500, message="RuntimeError: first line\nsecond   line"))
    record.begin()
    assert text(shown(record)).splitlines() == [
        "report: waiting for tasks",
        "http://127.0.0.1:1/report/x",
        "2 calls: 1 succeeded, 1 failed, 1 running",
        "last error: RuntimeError: first line second line",
        "→ handler.calls()",
    ]
    assert text(shown(recorded(), closed=True)).startswith(
        "report: closed; its tasks wait with ct.local(), elsewhere they fail\n"
    )
    assert "\n1 call: 1 succeeded, 0 failed\n" in text(shown(recorded(made())))


def test_the_html_is_escaped_and_bounded() -> None:
    """Whatever a task sends or a function returns is shown as text, and not at full length."""
    evil = "<img src=x onerror=alert(1)>"
    calls = [made(evil * 100, second=n) for n in range(7)]
    calls.append(made(status=500, message=evil * 100, second=8))
    markup = html(shown(recorded(*calls), name=evil, next_line=evil, url=f"http://x/{evil}"))
    assert "<img" not in markup
    assert "&lt;img src=x onerror" in markup
    assert markup.count("<tr>") == 6
    assert len(markup) < 5000
    assert "<table" not in html(shown(recorded()))


@pytest.mark.parametrize(
    ("fn", "line"),
    [
        (lambda day, origin="JFK", *, shop: None, 'queue.enqueue(handler, {"day": ..., "shop": ...})'),  # noqa: ARG005 - only its parameters matter
        (lambda *rest, **more: None, "queue.enqueue(handler, {})"),  # noqa: ARG005 - only its parameters matter
        (dict, "queue.enqueue(handler, {...})"),
    ],
)
def test_the_next_line_fits_the_function(fn: Any, line: str) -> None:
    """Before the first call, the line to type has the function's own arguments."""
    assert next_line(fn, recorded().summary()) == line
    assert next_line(fn, recorded(made()).summary()) == "handler.calls()"

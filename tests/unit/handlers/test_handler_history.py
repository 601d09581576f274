"""The history of a handler's calls, as a frame and as counts."""

import datetime as dt
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.handlers.answer import Answer, refuse
from cloudtasks_nb.handlers.call import ReceivedRequest
from cloudtasks_nb.handlers.history import Call, CallHistory
from cloudtasks_nb.store.encode import to_json

DTYPES = {"time": "datetime64[us, UTC]", "task": "string", "queue": "string", "attempt": "Int64", "body": "object"}
DTYPES |= {"status": "Int64", "result": "object", "error": "string", "duration": "timedelta64[us]"}
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


def made(result: Any = None, *, second: int = 0, body: bytes = b"{}", **answer: Any) -> Call:
    """Return a call of some second after noon."""
    time = NOON + dt.timedelta(seconds=second)
    request = ReceivedRequest(time=time, task=f"t{second}", queue="q", attempt=1, body=body)
    fields: dict[str, Any] = {"status": 200, "result": to_json(result), "duration": 0.25}
    return request, Answer(**(fields | answer))


def recorded(*calls: Call, newest: int = 100, **bounds: int) -> CallHistory:
    """Return a history of these calls."""
    history = CallHistory(newest, **bounds)
    for call in calls:
        history.begin()
        history.end(*call)
    return history


FAILED = made(status=500, error="x", message="x", duration=None)
HISTORIES = {"empty": recorded(), "one": recorded(made(1)), "three": recorded(made([1]), made([2]), FAILED)}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_columns_and_dtypes_are_always_the_same(history: CallHistory) -> None:
    """A frame of no calls has the columns and dtypes of one of many."""
    frame = history.frame()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == DTYPES
    assert isinstance(frame.index, pd.RangeIndex)


def test_a_call_has_a_row() -> None:
    """Times, names, body, result and duration are those of the call; unknown values are NA."""
    refused = (
        ReceivedRequest(time=NOON + dt.timedelta(seconds=1), body=b""),
        refuse(401, "the request has no Bearer token"),
    )
    first, second = recorded(made({"rows": 3}, body=b'{"day": 1}'), refused).frame().to_dict("records")
    expected = {"task": "t0", "queue": "q", "attempt": 1, "status": 200, "body": {"day": 1}, "result": {"rows": 3}}
    assert expected.items() <= first.items()
    assert (first["time"], first["duration"]) == (pd.Timestamp("2026-01-02 12:00:00+00:00"), pd.Timedelta("250ms"))
    assert all(pd.isna(second[name]) for name in ("task", "queue", "attempt", "body", "result", "duration"))
    assert second["error"] == "the request has no Bearer token"


def test_results_of_any_shape_are_kept_as_they_are() -> None:
    """Lists, arrays and frames of one length are not taken apart into columns."""
    results = [[1, 2], [3, 4], [{"a": 1}, {"a": 2}], [[0.0, 0.0], [0.0, 0.0]], "text", {"1": 2}]
    frame = recorded(*(made(result, second=number) for number, result in enumerate(results))).frame()
    assert list(frame["result"]) == results


def test_values_of_the_newest_calls_are_kept() -> None:
    """Bodies and results are kept up to a number of bytes, newest first; older calls keep their other columns."""
    history = recorded(*(made("x" * 40, second=second) for second in range(5)), newest=3, most_bytes=100)
    frame = history.frame()
    assert list(frame["task"]) == ["t2", "t3", "t4"]
    assert list(frame["result"].isna()) == list(frame["body"].isna()) == [True, False, False]
    words = "the newest 3 of 5 calls; bodies and results of the newest 2 only; batch.results()"
    assert str(frame.attrs["cut"]).startswith(words)
    assert history.summary().cut == frame.attrs["cut"]
    assert list(recorded(made("x" * 200), most_bytes=100).frame()["result"].isna()) == [True]
    assert "cut" not in recorded(made()).frame().attrs


def test_calls_are_in_the_order_of_their_requests() -> None:
    """Calls are sorted by their start, though a long one may end last; only the newest are kept."""
    frame = recorded(made(second=3), made(second=1), made(second=4), made(second=2), newest=3).frame()
    assert list(frame["task"]) == ["t1", "t2", "t4"]


def test_text_that_is_no_unicode_has_a_row() -> None:
    """Header bytes and messages that are no valid text do not break the frame."""
    _, answer = made(status=500, error="bad \udcff", message="bad \udcff")
    odd = ReceivedRequest(time=NOON, task="\udcfe", queue="q", body=b"")
    assert list(recorded((odd, answer)).frame()[["task", "error"]].iloc[0]) == ["?", "bad ?"]


def test_the_body_is_as_received_even_if_the_function_changed_it() -> None:
    """Bodies are kept as bytes; a function that empties its argument does not empty the history."""
    history = recorded(made(body=b"[1, 2]"))
    history.frame()["body"][0].clear()
    assert history.frame()["body"][0] == [1, 2]


def test_a_summary_counts_everything() -> None:
    """Counts are of all calls, also of those that are no longer kept."""
    history = recorded(*(made(second=n) for n in range(5)), made(status=404, message="KeyError: 'x'"), newest=2)
    history.begin()
    summary = history.summary()
    assert (summary.succeeded, summary.failed, summary.running, summary.total) == (5, 1, 1, 6)
    assert summary.last_error == "KeyError: 'x'"
    assert len(summary.latest) == 2

"""`queue.map`: from a function and data to the results, in one call."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb.client.mapping import callee, rows_for
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.handlers import serving
from tests.cases import cases

ACCOUNT = "caller@demo.iam.gserviceaccount.com"


def half(n: int, by: int = 2) -> dict[str, float]:
    """Raise for zero."""
    return {"half": n / by, "inverse": 1 / n}


def test_a_function_over_rows(queue: ct.Queue) -> None:
    """The frame has the input's index and columns; a row that failed does not raise."""
    found = queue.map(half, pd.DataFrame({"n": [2, 0], "by": [4, 4]}, index=["a", "b"]))
    assert found.index.tolist() == ["a", "b"]
    assert [*found.columns] == ["n", "by", "state", "half", "inverse", "error"]
    assert found["state"].tolist() == ["succeeded", "failed"]
    assert (found.loc["a", "half"], found.loc["b", "error"]) == (0.5, "ZeroDivisionError: division by zero")


def formulas(calls: list[int]) -> list[Callable[[int], int]]:
    """Return a function before and after it was edited."""

    def first() -> Callable[[int], int]:
        def times(n: int) -> int:
            calls.append(n)
            return 2 * n

        return times

    def second() -> Callable[[int], int]:
        def times(n: int) -> int:
            calls.append(n)
            return 3 * n

        return times

    return [first(), second()]


def test_rows_of_an_earlier_version_are_computed_again(queue: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever edits a cell wants the new result, unless they say that it is to be kept; each version runs once."""
    calls = list[int]()
    old, new = formulas(calls)
    for fn, words, expected in [(old, {}, 2), (new, {"stale": "keep"}, 2), (new, {}, 3), (new, {}, 3)]:
        assert queue.map(fn, [1, 2], **words)["result"].tolist() == [expected, 2 * expected]  # type: ignore[arg-type]
    assert sorted(calls) == [1, 1, 2, 2]
    said = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    kept, again = said  # nobody has a `batch` here
    assert kept.endswith('computed by an earlier version of times: stale="resend" computes them again')
    assert again == 'computing 2 rows again; stale="keep" keeps them'
    with pytest.raises(errors.InvalidInputError, match="stale='old'"):
        queue.map(new, [1, 2], stale="old")  # type: ignore[arg-type]


SERIES = pd.Series([1, 2], index=["x", "y"], name="other")
FRAME = pd.DataFrame({"n": [1, 2]})
LAZY = pl.LazyFrame({"n": [1]})
RECORDS = np.array([(1, 2.0)], dtype=[("n", "i8"), ("by", "f8")])  # which `fan_out` refuses, and says what would do


@cases(
    (SERIES, FRAME.set_axis(["x", "y"])),
    (np.array([1, 2]), FRAME),
    (pd.Index([1, 2]), FRAME),
    (pd.array([1, 2], dtype="Int64"), FRAME.astype("Int64")),
    (pa.array([2**60 + 1, None]), [{"n": 2**60 + 1}, {"n": None}]),
    (range(1, 3), [{"n": 1}, {"n": 2}]),
    (([1, 2], None), [{"n": [1, 2]}, {"n": None}]),
    ([], FRAME[:0].astype(object)),
    ([{"n": 1}], [{"n": 1}]),
    ([FRAME], [FRAME]),
    ("rows.csv", "rows.csv"),
    (RECORDS, RECORDS),
    (LAZY, LAZY),
)
def test_values_become_the_column_of_the_first_parameter(data: Any, rows: Any) -> None:
    """Rows, frames and paths stay what they are."""
    found = rows_for(half, data)
    if isinstance(rows, pd.DataFrame):
        pd.testing.assert_frame_equal(found, rows, check_index_type=False, check_column_type=False)
    else:
        assert found is data or found == rows


def test_a_series_of_polars_becomes_that_column_too() -> None:
    """Its own name does not count, as that of one of pandas."""
    assert rows_for(half, pl.Series("other", [1, None])).to_dict(as_series=False) == {"n": [1, None]}


@cases(np.zeros((2, 2)), np.array(1), np.int64(1))
def test_an_array_of_other_dimensions_is_no_list_of_values(data: Any) -> None:
    """The error says so, and not one of pandas."""
    with pytest.raises(errors.InvalidInputError, match=f"an array of {data.ndim} dimensions"):
        rows_for(half, data)


@cases(lambda *values: values, lambda: 1, lambda **row: row)
def test_a_function_without_a_parameter_takes_no_values(fn: Callable[..., Any]) -> None:
    """The error says what would do."""
    with pytest.raises(errors.InvalidInputError, match="has no parameter that values could be for"):
        rows_for(fn, [1])


def test_the_same_cell_attaches(queue: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """A lambda does so by the name of its batch; `workers` is an option of serve, `name` of both."""
    for data in ([1], [1, 2]):
        assert queue.map(lambda n: n + 1, data, name="more", workers=1)["result"].tolist() == [n + 1 for n in data]
    assert "batch more" in capsys.readouterr().out
    assert len(queue.attempts()) == 2


def test_the_account_signs_and_is_asked_for(queue: ct.Queue) -> None:
    """Both the tasks and the handler get it."""
    assert queue.map(half, [1], service_account=ACCOUNT)["state"].tolist() == ["succeeded"]
    handler = serving.served_at(next(iter(serving._served.values())).url)
    assert handler is not None
    unsigned = queue.wait(queue.enqueue(handler, {"n": 1}, retry={"max_attempts": 1}), "20s")
    assert unsigned["last_status"].tolist() == ["UNAUTHENTICATED"]


def test_the_index_of_a_series_is_no_argument(queue: ct.Queue) -> None:
    """Also if it has a name, which a body of whole rows would have; the results have it as their index."""
    prices = pd.Series([2, 4], index=pd.Index(["a", "b"], name="shop"))
    found = queue.map(half, prices)
    assert (found.index.name, found["half"].to_dict()) == ("shop", {"a": 1.0, "b": 2.0})
    assert queue.map(half, prices, body={"n": "{n}", "by": 4}, name="own body")["half"].tolist() == [0.5, 1.0]


def test_what_is_served_already(queue: ct.Queue) -> None:
    """A handler is taken as it is, with the name of its parameter; options of serve are too late."""
    handler = ct.serve(half, name="other")
    assert queue.map(handler, [1])["half"].tolist() == [0.5]
    with pytest.raises(errors.InvalidInputError, match="workers: other is served already"):
        queue.map(handler, [1], workers=2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, errors.PreconditionError("rows are held back")])
def test_a_wait_that_ends_early(
    paused: ct.Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any
) -> None:
    """The batch goes on, and a line says how to come back to it."""

    def wait(_: Batch) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Batch, "wait", wait)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            paused.map(half, [1])
    line = next(line for line in capsys.readouterr().out.splitlines() if "was not cancelled" in line)
    assert 'batch = tasks.batch("' in line
    paused.resume()
    assert paused.map(half, [1])["half"].tolist() == [0.5]


def test_google_cannot_call_a_function_of_this_machine() -> None:
    """The error names what makes a service of it; a deployment is taken."""
    google: Any = SimpleNamespace(transport=SimpleNamespace(google=True))
    with pytest.raises(errors.InvalidInputError, match=r"Google cannot call half") as caught:
        callee(google, half, {})
    assert "service = ct.deploy(half, …, run=True)" in str(caught.value)
    service = SimpleNamespace(url="https://half.a.run.app", name="half")
    assert callee(google, service, {}) is service

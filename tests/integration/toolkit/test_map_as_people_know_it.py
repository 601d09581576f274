"""`queue.map` behaves as `map` of Python and `apply` of pandas have taught; each hint is followed."""

import datetime as dt
import decimal
import functools
import uuid
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import ArgumentError, InvalidInputError


def sq(x: Any) -> Any:
    """Return the square."""
    return x * x


def add(a: Any, b: Any) -> Any:
    """Return the sum."""
    return a + b


def first_of(row: dict[str, Any]) -> Any:
    """Return a field of the row."""
    return row["a"]


def rest_of(a: Any, **rest: Any) -> Any:
    """Return the names of the other columns."""
    return {"fields": sorted(rest), "of": a}


FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})


@pytest.mark.parametrize(
    ("call", "results"),
    [
        pytest.param(lambda queue: queue.map(sq, [1, 1, 2]), [1, 1, 4], id="M1 equal values"),
        pytest.param(lambda queue: queue.map(sq, [2, 1, 2, 1], name="again"), [4, 1, 4, 1], id="M1 with a name"),
        pytest.param(lambda queue: queue.map(add, [1, 2], [3, 4]), [4, 6], id="M2 two lists"),
        pytest.param(lambda queue: queue.map(add, [1, 1], range(2, 4)), [3, 4], id="M2 a list and a range"),
        pytest.param(lambda queue: queue.map(functools.partial(add, b=5), [1, 2]), [6, 7], id="M4 a constant"),
        pytest.param(lambda queue: queue.map(lambda row: row["a"], FRAME), [1, 2], id="M5 the row in a lambda"),
        pytest.param(lambda queue: queue.map(first_of, FRAME), [1, 2], id="M5 the row"),
        pytest.param(lambda queue: queue.map(first_of, pd.concat([FRAME, FRAME])), [1, 2, 1, 2], id="M5 equal rows"),
    ],
)
def test_what_people_expect(
    queue: ct.Queue, capsys: pytest.CaptureFixture[str], call: Callable[[ct.Queue], pd.DataFrame], results: list[Any]
) -> None:
    """The results are those of Python and pandas, also when the cell runs again, and nothing is said of URLs."""
    assert call(queue)["result"].tolist() == results
    assert "URL" not in capsys.readouterr().out
    assert call(queue)["result"].tolist() == results


@pytest.mark.parametrize(
    ("call", "error", "follow", "results"),
    [
        pytest.param(
            lambda queue: queue.map(add, [(1, 2), (3, 4)]), InvalidInputError, "{}", [3, 7], id="M3 a list of tuples"
        ),
        pytest.param(
            lambda queue: queue.map(add, [1, 2], b=5),
            ArgumentError,
            "queue.map({}, [1, 2])",
            [6, 7],
            id="M4 a constant",
        ),
        pytest.param(
            lambda queue: queue.map(add, pd.DataFrame({"aa": [1], "bb": [2]})),
            InvalidInputError,
            'queue.map(add, pd.DataFrame({{"aa": [1], "bb": [2]}}), {})',
            [3],
            id="D4 columns with other names",
        ),
    ],
)
def test_each_hint_is_code_that_runs(
    queue: ct.Queue, call: Callable[[ct.Queue], Any], error: type[Exception], follow: str, results: list[Any]
) -> None:
    """Who follows the hint has the results."""
    with pytest.raises(error) as refused:
        call(queue)
    hint = refused.value.hint  # type: ignore[attr-defined]
    names = {"queue": queue, "add": add, "functools": functools, "pd": pd}
    assert eval(follow.format(hint), names)["result"].tolist() == results  # noqa: S307 - that is what is tested


def test_iterables_of_different_lengths(queue: ct.Queue) -> None:
    """The error names both lengths."""
    with pytest.raises(InvalidInputError, match="lengths: 3 and 2"):
        queue.map(add, [1, 2, 3], [4, 5])


def test_the_labels_of_equal_rows_stay(queue: ct.Queue) -> None:
    """Each row of the input has its label and the result of its equal."""
    found = queue.map(sq, pd.DataFrame({"x": [3, 3, 2]}, index=["a", "b", "c"]))
    assert found["result"].to_dict() == {"a": 9, "b": 9, "c": 4}


def test_columns_that_are_not_named(queue: ct.Queue) -> None:
    """They go to ``**kwargs``."""
    assert queue.map(rest_of, FRAME)["fields"].tolist() == [["b"], ["b"]]


def test_plain_functions_are_targets(queue: ct.Queue) -> None:
    """M12: `enqueue`, `schedule`, `fan_out` and `backfill` serve a function as `map` does."""
    for task in (queue.enqueue(sq, {"x": 3}), queue.schedule(sq, {"x": 3}, delay="1s")):
        assert queue.wait(task)["result"].tolist() == [9]
    batch = queue.fan_out(FRAME, first_of)
    batch.wait()
    assert batch.results()["result"].tolist() == [1, 2]
    months = queue.backfill("2013-01-01", "2013-02-28", "MS", lambda row: row["partition"])
    months.wait()
    assert months.results()["result"].tolist() == ["2013-01", "2013-02"]


def same(value: Any) -> Any:
    """Return it."""
    return value


def kind(value: Any) -> str:
    """Return the name of its type."""
    return type(value).__name__


def year(day: Any) -> int:
    """Return the year of a date."""
    return int(day.year)


VALUES = [
    dt.date(2013, 1, 1),
    dt.datetime(2013, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")),
    dt.time(1, 2),
    pd.Timestamp("2013-01-01 00:00:00.000000001"),
    pd.Timestamp("2013-07-01", tz="America/New_York"),
    pd.Timedelta("1ns"),
    decimal.Decimal("1.10"),
    uuid.UUID(int=1),
    b"\0\xff",
    np.float32(1.5),
    (1, b"a"),
    [1, dt.date(2013, 1, 1)],
]


@pytest.mark.parametrize("options", [{}, {"processes": 1}], ids=["threads", "processes"])
def test_values_keep_their_types(queue: ct.Queue, options: dict[str, Any]) -> None:
    """M7, M9, M10: to the function and back, without an annotation."""
    assert queue.map(kind, VALUES, **options)["result"].tolist() == [type(value).__name__ for value in VALUES]
    found = queue.map(same, VALUES, **options)["result"].tolist()
    assert found == VALUES
    assert [*map(type, found)] == [*map(type, VALUES)]


def test_columns_of_times(queue: ct.Queue) -> None:
    """M6: a cell is a Timestamp; results that are times are a column of times, NaN is NaN, and an annotation wins."""
    frame = pd.DataFrame({"day": pd.to_datetime(["2013-01-01", "2014-01-01"]).tz_localize("Europe/Berlin")})
    assert queue.map(year, frame)["result"].tolist() == [2013, 2014]
    assert queue.map(lambda day: {"next": day}, frame)["next"].dtype == frame["day"].dtype
    assert queue.map(kind, [float("nan"), 0.5])["result"].tolist() == ["float", "float"]

    def text(day: str) -> str:
        return day[:4]

    assert queue.map(text, frame)["result"].tolist() == ["2013", "2014"]


def test_frames_and_arrays_as_results(queue: ct.Queue) -> None:
    """M10: they are what was returned."""
    array, frame = queue.map(lambda n: np.arange(n) if n == 1 else pd.DataFrame({"n": [n]}), [1, 2])["result"]
    np.testing.assert_array_equal(array, np.arange(1))
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"n": [2]}))


def test_a_result_without_a_form(queue: ct.Queue) -> None:
    """M11: a set is final at the first attempt, with what to return instead."""
    batch = queue.fan_out([{"x": 1}], lambda x: {x})
    batch.wait()
    failed = batch.failed()
    assert failed["attempts"].tolist() == [1]
    assert "use sorted(value)" in batch.results()["error"].item()


def test_a_single_task_and_its_result(queue: ct.Queue) -> None:
    """`enqueue` sends types as `map` does, and `wait` returns those of the result; its body is plain JSON."""
    day = pd.Timestamp("2013-01-01", tz="Europe/Berlin")
    task = queue.enqueue(same, {"value": {"day": day}})
    assert queue.wait(task)["result"].tolist() == [{"day": day}]
    queue.pause().enqueue(same, {"value": day})
    assert queue.tasks(body=True)["body"].tolist() == [{"value": "2013-01-01T00:00:00+01:00"}]

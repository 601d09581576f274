"""When each row is due."""

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from cloudtasks_nb.errors import NaiveTimeError
from cloudtasks_nb.fanout.plan.recipe import compile_recipe
from cloudtasks_nb.fanout.plan.templates import Problems
from tests.cases import cases
from tests.unit.fanout.plan.conftest import block_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
START = int(NOW.timestamp()) * 1_000_000
HOUR = 3_600_000_000


def _schedule(**options: Any) -> Any:
    """Return the schedule of a recipe with these options."""
    return compile_recipe({"url": "https://svc", **options}).schedule


def _rows(schedule: Any, problems: Problems | None = None, **columns: Any) -> list[float]:
    """Return when the rows are due, in hours from now."""
    block = block_of(**columns)
    moments = schedule.render(block, NOW, problems or Problems())
    assert moments is not None
    return [(moment - START) / HOUR for moment in moments]


@cases(
    (_schedule(), None),
    (_schedule(delay="90min"), 1.5),
    (_schedule(delay=1800), 0.5),
    (_schedule(delay=pd.Timedelta("1h")), 1),
    (_schedule(delay=dt.timedelta(0)), 0),
    (_schedule(at="2026-01-01 06:00+00:00"), 6),
    (_schedule(at="2026-01-01 06:00+09:00"), -3),
    (_schedule(at="2026-01-01 06:00", tz="Asia/Tokyo"), -3),
    (_schedule(at=pd.Timestamp("2026-01-02", tz="UTC")), 24),
    (_schedule(at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC)), 24),
)
def test_same_for_all(schedule: Any, hours: float | None) -> None:
    """A literal time or duration holds for every row."""
    fixed = schedule.fixed(NOW)
    assert (None if fixed is None else (fixed - START) / HOUR) == hours
    assert (schedule.columns, schedule.immediate) == ((), hours is None)
    block = block_of(pd.DataFrame({"a": [1]}))
    assert schedule.render(block, NOW, Problems()) is None


DAY = pd.Timestamp("2026-01-02")
UTC = DAY.tz_localize("UTC")


@cases(
    (_schedule(at="{x}"), [UTC], [24]),
    (_schedule(at="{x}"), pd.Series([UTC]).astype("datetime64[s, UTC]"), [24]),
    (_schedule(at="{x}"), ["2026-01-02T09:00+09:00"], [24]),
    (_schedule(at="{x}", tz="Asia/Tokyo"), [DAY], [15]),
    (_schedule(at="{x}", tz="Asia/Tokyo"), [DAY.date()], [15]),
    (_schedule(at="{x}", tz="Asia/Tokyo"), ["2026-01-02"], [15]),
    (_schedule(at="{x}", tz="Asia/Tokyo"), pd.Series([UTC.to_pydatetime()], dtype=object), [24]),
    (_schedule(at="{x:%Y-%m-%d} 06:00", tz="UTC"), [DAY], [30]),
    (_schedule(at="{x}T06:00Z"), ["2026-01-02"], [30]),
    (_schedule(delay="{x}"), [pd.Timedelta("90min"), pd.Timedelta(0)], [1.5, 0]),
    (_schedule(delay="{x}"), [3600, 1800], [1, 0.5]),
    (_schedule(delay="{x}"), ["2h"], [2]),
    (_schedule(delay="{x}h"), [3], [3]),
    (_schedule(delay="{x}"), ["30d"], [720]),  # as far ahead as the service takes a task
)
def test_by_row(schedule: Any, cells: Any, hours: list[float]) -> None:
    """A column gives each row its time or duration, whether it holds times, numbers or text."""
    problems = Problems()
    assert (schedule.fixed(NOW), schedule.immediate) == (None, False)
    assert _rows(schedule, problems, x=cells) == hours
    assert problems.reasons == {}
    assert schedule.columns == ("x",)


@cases(
    ("2026-03-29 02:30", "2026-03-29 01:00"),
    ("2026-10-25 02:30", "2026-10-25 00:30"),
    ids=["skipped hour: the first instant after it", "hour that comes twice: the first of them"],
)
def test_daylight_saving(local: str, utc: str) -> None:
    """Where a clock is changed, a time that is missing or doubtful has one meaning."""
    now = dt.datetime.fromisoformat(utc).replace(tzinfo=dt.UTC)
    block = block_of(pd.DataFrame({"x": pd.to_datetime([local])}))
    moments = _schedule(at="{x}", tz="Europe/Zurich").render(block, now, Problems())
    assert moments == [int(now.timestamp()) * 1_000_000]


@pytest.mark.parametrize("make", [lambda time: time, pd.Timestamp], ids=["datetime", "Timestamp"])
@pytest.mark.parametrize("zone", [None, ZoneInfo("Europe/Zurich")], ids=["zone of tz=", "zone of its own"])
def test_an_hour_that_comes_twice(make: Any, zone: ZoneInfo | None) -> None:
    """`fold` tells its two times apart, also if a row before has the other one."""
    first = dt.datetime(2026, 10, 25, 2, 30, tzinfo=zone)
    cells = pd.Series([make(first), make(first.replace(fold=1)), make(first)], dtype=object)
    now = dt.datetime(2026, 10, 25, tzinfo=dt.UTC)
    block = block_of(pd.DataFrame({"x": cells}))
    moments = _schedule(at="{x}", tz="Europe/Zurich").render(block, now, Problems()) or []
    assert [(moment - int(now.timestamp()) * 1_000_000) / HOUR for moment in moments] == [0.5, 1.5, 0.5]


@cases(
    (_schedule(at="{x}"), None, '"x" is missing'),
    (_schedule(at="{x}"), 7, 'int is not a time; of seconds since 1970 pd.to_datetime(column, unit="s", utc=True)'),
    (_schedule(at="{x}"), "soon", "is not a time"),
    (_schedule(at="{x}"), UTC + pd.Timedelta(days=31), "32.0 days ahead"),
    (_schedule(at="{x}"), [1], "list is not a time"),
    (_schedule(delay="{x}"), None, '"x" is missing'),
    (_schedule(delay="{x}"), -5, "is not a duration"),
    (_schedule(delay="{x}"), "soon", "is not a duration"),
    (_schedule(delay="{x}"), "31d", "31.0 days ahead"),
    (_schedule(delay="{x}"), 1e300, "is not a duration"),
)
def test_bad_rows(schedule: Any, cell: Any, word: str) -> None:
    """A row whose time is missing, no time, or too far ahead has a problem; the others are scheduled."""
    good = UTC if schedule.what == "at" else 60
    problems = Problems()
    assert len(_rows(schedule, problems, x=pd.Series([cell, good], dtype=object))) == 2
    assert list(problems.reasons) == [0]
    assert word in problems.reasons[0]


@pytest.mark.parametrize("dtype", ["datetime64[us, UTC]", "datetime64[ns, UTC]", "category", "object", "string"])
def test_a_missing_time(dtype: Any) -> None:
    """A time that is missing is a problem whatever holds it, and never means at once."""
    problems, cells = Problems(), pd.Series([UTC, pd.NaT]).astype(dtype)
    _rows(_schedule(at="{x}"), problems, x=cells)
    assert problems.reasons == {1: 'at: "x" is missing'}


@pytest.mark.parametrize("cell", [DAY, "2026-01-02 06:00"])
def test_naive_column(cell: Any) -> None:
    """A column of times without a zone is refused as a whole, with the column and the way out."""
    with pytest.raises(NaiveTimeError, match=r'column "x"[\s\S]*tz="UTC"'):
        _rows(_schedule(at="{x}"), x=[cell])

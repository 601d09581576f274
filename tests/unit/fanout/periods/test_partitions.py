"""Whole periods on the clock of a zone: where they start, that none is missing, their names, and other values."""

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.periods.partitions import parse_freq, partition, period_rows
from tests.cases import cases
from tests.unit.fanout.conftest import tables_of

FREQS = ["D", "2D", "h", "6h", "15min", "7h", "W", "W-MON", "2W-THU", "MS", "ME", "2MS", "QS", "QE-JAN", "YS-APR", "YE"]
ZONES = [
    "UTC",
    "America/New_York",
    "America/Sao_Paulo",  # midnights that did not exist
    "America/Havana",  # midnights that come twice
    "Asia/Beirut",
    "Asia/Kolkata",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Europe/Dublin",  # winter time is the exception
    "Pacific/Apia",  # a day that did not exist
]
TABLES = tables_of(__file__)
MOMENTS = st.datetimes(min_value=dt.datetime(2005, 1, 1), max_value=dt.datetime(2045, 1, 1)).map(  # noqa: DTZ001 - naive
    lambda moment: moment.replace(microsecond=0)
)


@given(start=MOMENTS, hours=st.integers(0, 24 * 40), freq=st.sampled_from(FREQS), tz=st.sampled_from(ZONES))
def test_no_hole(start: dt.datetime, hours: int, freq: str, tz: str) -> None:
    """Partitions ascend, each ends where the next starts, they cover the range, and only the first holds its start.

    So a day has as many hours as it lasts, whatever its clock shows; their labels differ.
    """
    made = partition(start, start + dt.timedelta(hours=hours), freq=freq, tz=tz)
    frame = made.frame()
    utc = made.bounds.tz_convert("UTC")
    spans = utc[1:] - utc[:-1]
    assert (spans > pd.Timedelta(0)).all()
    assert freq != "h" or tz == "Australia/Lord_Howe" or (spans == pd.Timedelta("1h")).all()
    assert frame["end"].iloc[:-1].tolist() == frame["start"].iloc[1:].tolist()
    first, last = made.requested
    assert made.bounds[0] <= first < made.bounds[1]
    assert made.bounds[-2] <= last < made.bounds[-1]
    assert frame["partition"].is_unique


@given(
    start=MOMENTS,
    days=st.integers(0, 20),
    more=st.integers(0, 20),
    freq=st.sampled_from(FREQS),
    tz=st.sampled_from(ZONES),
)
def test_a_longer_range_has_the_same_boundaries(start: dt.datetime, days: int, more: int, freq: str, tz: str) -> None:
    """What a range has, a longer one has too: their rows have the same keys and labels."""
    end = start + dt.timedelta(days=days)
    short = partition(start, end, freq=freq, tz=tz).frame()
    longer = partition(start - dt.timedelta(days=more), end + dt.timedelta(days=more), freq=freq, tz=tz).frame()
    both = short.merge(longer, on=["start", "end", "partition"])
    assert len(both) == len(short)


@given(start=MOMENTS, tz=st.sampled_from(ZONES))
def test_days_are_those_of_the_zone(start: dt.datetime, tz: str) -> None:
    """A day's partition begins with the first instant of that date on the zone's clock, and ends with a later date."""
    made = partition(start, start + dt.timedelta(days=3), freq="D", tz=tz)
    bounds = [moment.to_pydatetime().astimezone(dt.UTC) for moment in made.bounds]
    second = dt.timedelta(seconds=1)

    def day(moment: dt.datetime) -> str:
        return moment.astimezone(ZoneInfo(tz)).date().isoformat()

    for begin, end, label in zip(bounds, bounds[1:], made.frame()["partition"], strict=False):
        assert day(begin - second) < label
        assert day(begin) == label
        assert day(end) > label


@cases(*TABLES["boundaries"])
def test_boundaries(start: str, end: str, freq: str, tz: str, boundaries: str) -> None:
    """The boundaries of clock and calendar, by hand: a part of each that tells it."""
    for moment, part in zip(partition(start, end, freq=freq, tz=tz).bounds, boundaries.split(), strict=True):
        assert part in moment.isoformat(timespec="minutes")


@cases(*TABLES["labels"])
def test_labels(start: str, end: str, freq: str, tz: str, expected: list[str]) -> None:
    """A label is as short as it can be and still unique in its series."""
    assert partition(start, end, freq=freq, tz=tz).frame()["partition"].tolist() == expected


@cases(
    "2026-01-01",
    "2026-01-01 00:00",
    dt.date(2026, 1, 1),
    dt.datetime(2026, 1, 1, 5),  # noqa: DTZ001 - naive is meant
    pd.Timestamp("2026-01-01"),
    pd.Timestamp("2025-12-31 15:00", tz="UTC"),
    "2025-12-31T16:00:00-01:00",
    np.datetime64("2026-01-01"),
)
def test_forms_of_a_moment(start: Any) -> None:
    """A time without a zone is one of the backfill's zone, others are converted to it."""
    made = partition(start, "2026-01-01 06:00", freq="D", tz="Asia/Tokyo")
    assert made.bounds.tolist() == [pd.Timestamp(f"2026-01-0{day}", tz="Asia/Tokyo") for day in (1, 2)]


@cases(*TABLES["names"], (dt.timedelta(days=1), "D"), (pd.offsets.Day(), "D"))
def test_same_periods_same_name(freq: Any, name: str) -> None:
    """However it is written, a frequency has one name, which means the same periods."""
    assert parse_freq(freq).name == name
    assert parse_freq(name) == parse_freq(freq)


@cases("B", "bh", "SMS", "BMS", "M", "H", "foo", "0D", "-1D", "100ms", 5, None, pd.DateOffset(months=1))
def test_bad_freq(freq: Any) -> None:
    """A frequency that pandas does not know, or that has holes, is refused with those that work, or was meant."""
    with pytest.raises(InvalidInputError, match="freq=") as caught:
        parse_freq(freq)
    assert '"MS"' in (caught.value.hint or "")
    assert str(freq) != "M" or 'did you mean "MS" or "ME"' in str(caught.value)


@cases(
    ({"start": "2026-02-01", "end": "2026-01-01"}, "before start="),
    ({"start": "soon"}, "start='soon' is not a date or time between 1700 and 2199"),
    ({"end": "2200-01-01"}, "end='2200-01-01'"),
    ({"start": "1699-12-31"}, "start='1699-12-31'"),
    ({"start": "now"}, "start='now'"),
    ({"end": 20260101}, "end=20260101"),
    ({"end": None}, "end=None"),
    ({"end": pd.NaT}, "end=NaT"),
    ({"end": True}, "end=True"),
    ({"start": "1492-01-01"}, "start='1492-01-01'"),
    ({"tz": "Mars/Olympus"}, "tz='Mars/Olympus'"),
    ({"start": "1970-01-01", "freq": "s"}, "767,059,200 seconds"),
)
def test_bad_range(arguments: dict[str, Any], message: str) -> None:
    """An error in a range names the argument."""
    given_ = {"start": "1994-01-01", "end": "1994-04-23", "freq": "D", **arguments}
    with pytest.raises(InvalidInputError, match=message):
        partition(given_.pop("start"), given_.pop("end"), **given_)


@cases(*TABLES["notes"])
def test_notes(start: str, end: str, freq: str, notes: list[str]) -> None:
    """A note reports partitions that reach beyond the range, or less far than a date may mean."""
    assert partition(start, end, freq=freq).notes == notes


@cases(*TABLES["text"])
def test_text(end: str, freq: str, text: str) -> None:
    """One line says from where to where, how many, and in which zone."""
    assert str(partition("2013-01-01", end, freq=freq, tz="America/New_York")) == f"{text} in America/New_York"


@cases(*TABLES["words"])
def test_words(freq: str, counted: str, plural: str) -> None:
    """Periods are counted in words, not in the names of pandas; what differs has another name."""
    assert (parse_freq(freq).counted(90), parse_freq(freq).plural) == (counted, plural)


def test_newest_first() -> None:
    """The newest can come first; it is the same rows."""
    made = partition("2026-01-01", "2026-01-03", freq="D")
    assert made.frame(newest_first=True)["partition"].tolist() == ["2026-01-03", "2026-01-02", "2026-01-01"]
    assert made.frame(newest_first=True).index.tolist() == [0, 1, 2]


def test_columns() -> None:
    """The columns have their dtypes, in the zone that was named."""
    frame = partition("2026-01-01", "2026-01-03", freq="D", tz="Asia/Tokyo").frame()
    assert [str(dtype) for dtype in frame.dtypes] == ["datetime64[us, Asia/Tokyo]"] * 2 + ["string"]


DAYS = partition("2026-01-01", "2026-01-02", freq="D")
SHOPS = pd.DataFrame({"shop": ["x", "y"], "kind": [1, 2]})


def rows(across: Any, *names: str) -> list[tuple[Any, ...]]:
    """Return partition and the named columns of each row."""
    return list(period_rows(DAYS, across)[["partition", *names]].itertuples(index=False, name=None))


@pytest.mark.parametrize(
    "values",
    [
        ["x", "y"],
        ("x", "y"),
        (letter for letter in "xy"),
        pd.Series(["x", "y"], index=[7, 8]),
        pd.Index(["x", "y"]),
        pd.array(["x", "y"], "string"),
        {"x": 1, "y": 2}.keys(),
    ],
)
def test_values(values: Any) -> None:
    """Each partition comes with each value, one partition after the other."""
    day = ["2026-01-01", "2026-01-02"]
    assert rows({"shop": values}, "shop") == [(day[0], "x"), (day[0], "y"), (day[1], "x"), (day[1], "y")]


def test_several_names() -> None:
    """Several names give each combination, in columns ordered by name however they were written."""
    one, other = period_rows(DAYS, {"shop": ["x"], "kind": [1, 2]}), period_rows(DAYS, {"kind": [1, 2], "shop": ["x"]})
    assert list(one.columns) == ["start", "end", "partition", "kind", "shop"]
    pd.testing.assert_frame_equal(one, other)
    assert len(one) == 4


def test_combinations_of_a_frame() -> None:
    """A DataFrame gives its rows as combinations, with the dtypes that it has."""
    assert rows(SHOPS, "kind", "shop")[:2] == [("2026-01-01", 1, "x"), ("2026-01-01", 2, "y")]
    assert period_rows(DAYS, SHOPS)["kind"].dtype == SHOPS["kind"].dtype


def test_index_of_a_frame() -> None:
    """A named level of the index is a column too, an unnamed one is none."""
    assert rows(SHOPS.set_index("shop"), "kind", "shop") == rows(SHOPS, "kind", "shop")
    assert rows(SHOPS.set_axis([5, 6]), "kind", "shop") == rows(SHOPS, "kind", "shop")


def test_nothing_aperiod_rows() -> None:
    """Without other values the partitions stay as they are."""
    assert period_rows(DAYS, None).equals(DAYS.frame())


@cases(["x", None], [1, "1"])
def test_values_that_differ(values: list[Any]) -> None:
    """A missing value is a value like others, and a number and its text are two."""
    assert len(period_rows(DAYS, {"shop": values})) == 4


@cases(
    ({}, "across is empty"),
    ({"shop": []}, "across is empty"),
    (SHOPS.head(0), "across is empty"),
    (pd.DataFrame(index=[1]), "across is empty"),
    ({"shop": "x"}, r'across\["shop"\]=\'x\' is not a list'),
    ({"shop": 3}, r'across\["shop"\]=3'),
    ({"start": [1]}, 'a column "start"'),
    ({"end": [1]}, 'a column "end"'),
    (SHOPS.rename(columns={"kind": "partition"}), 'a column "partition"'),
    (["x", "y"], "across=list names no columns"),
    (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "names of across have several levels"),
    ({"shop": ["x", "y", "x"]}, "1 combination twice: {'shop': 'x'}"),
    ({"shop": [["x"], ["x"]]}, "1 combination twice"),
    (pd.concat([SHOPS, SHOPS]), "2 combinations twice"),
    ({"a": range(4_000), "b": range(4_000)}, "4,000 rows crossed with 4,000 are more than"),
    ({"a": pd.RangeIndex(6_000_000)}, "2 rows crossed with 6,000,000"),
)
def test_bad_values(across: Any, message: str) -> None:
    """What cannot be crossed is refused by name, before it takes memory."""
    with pytest.raises(InvalidInputError, match=message):
        period_rows(DAYS, across)

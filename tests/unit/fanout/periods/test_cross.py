"""Partitions crossed with other values."""

from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.periods.partitions import cross, partition
from tests.cases import cases

DAYS = partition("2026-01-01", "2026-01-02", freq="D").frame()
SHOPS = pd.DataFrame({"shop": ["x", "y"], "kind": [1, 2]})


def rows(across: Any, *names: str) -> list[tuple[Any, ...]]:
    """Return partition and the named columns of each row."""
    return list(cross(DAYS, across)[["partition", *names]].itertuples(index=False, name=None))


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
    one, other = cross(DAYS, {"shop": ["x"], "kind": [1, 2]}), cross(DAYS, {"kind": [1, 2], "shop": ["x"]})
    assert list(one.columns) == ["start", "end", "partition", "kind", "shop"]
    pd.testing.assert_frame_equal(one, other)
    assert len(one) == 4


def test_combinations_of_a_frame() -> None:
    """A DataFrame gives its rows as combinations, with the dtypes that it has."""
    assert rows(SHOPS, "kind", "shop")[:2] == [("2026-01-01", 1, "x"), ("2026-01-01", 2, "y")]
    assert cross(DAYS, SHOPS)["kind"].dtype == SHOPS["kind"].dtype


def test_index_of_a_frame() -> None:
    """A named level of the index is a column too, an unnamed one is none."""
    assert rows(SHOPS.set_index("shop"), "kind", "shop") == rows(SHOPS, "kind", "shop")
    assert rows(SHOPS.set_axis([5, 6]), "kind", "shop") == rows(SHOPS, "kind", "shop")


def test_nothing_across() -> None:
    """Without other values the partitions stay as they are."""
    assert cross(DAYS, None) is DAYS


def test_missing_value() -> None:
    """A missing value is a value like others."""
    assert len(cross(DAYS, {"shop": ["x", None]})) == 4


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
        cross(DAYS, across)


def test_values_alike_but_not_equal() -> None:
    """A number and its text are two values."""
    assert len(cross(DAYS, {"shop": [1, "1"]})) == 4

"""Arguments become values of the types with which the parameters are annotated."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import functools
import pathlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
import pytest

from cloudtasks_nb.handlers.call import call
from cloudtasks_nb.store.encode import to_json
from tests.cases import cases

DAY = dt.date(2026, 1, 2)


class Shop(enum.Enum):
    """A value with another name."""

    NORTH = "n"
    SOUTH = "s"


@dataclass
class Job:
    """Values with types of their own, and one of its own type."""

    day: dt.date
    shop: Shop = Shop.NORTH
    after: Job | None = None


class Called:
    """A function that was called with the bytes of a body: its answer, and the arguments that it got."""

    def __init__(self, fn: Callable[..., Any], body: bytes) -> None:
        self.arguments: list[Any] = []

        @functools.wraps(fn)
        def run(*args: Any, **kwargs: Any) -> None:
            self.arguments += [*args, *kwargs.values()]

        self.answer = call(run, body, run=asyncio.run)


def called(annotation: Any, value: Any) -> Called:
    """Call a function with one annotated parameter."""

    def run(x: Any) -> None:
        """Do nothing."""

    run.__annotations__ = {"x": annotation}
    return Called(run, orjson.dumps({"x": value}))


UNCHANGED: list[tuple[Any, Any]] = [(int, 3.5), (int, "3"), (str, 5), (bool, None), (Literal["a"], "b"), (Any, "x")]
UNCHANGED += [("Missing", "x"), ("1 / 0", "x")]
CASES: list[tuple[Any, Any, Any]] = [
    *((annotation, value, value) for annotation, value in UNCHANGED),
    *((day, "2026-01-02", DAY) for day in (dt.date, dt.date | None, Optional[dt.date], "dt.date")),  # noqa: UP045 - old
    *((days, ["2026-01-02"], [DAY]) for days in (list[dt.date], Sequence[dt.date], "list['dt.date']")),
    (pd.Timestamp, "2026-01-02T03:00:00+01:00", pd.Timestamp("2026-01-02 03:00", tz="+01:00")),
    (pd.Timedelta, "P0DT0H10M0S", pd.Timedelta("10min")),
    (pd.Period, "2026-01", pd.Period("2026-01", "M")),
    (dt.datetime, "2026-01-02T03:04:05", dt.datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001 - a time without a zone
    (dt.date, "2026-01-02T00:00:00", DAY),
    (dt.time, "03:04", dt.time(3, 4)),
    (dt.timedelta, "P1DT2H30M0.5S", dt.timedelta(days=1, hours=2, minutes=30, seconds=0.5)),
    (dt.timedelta, "P-1DT23H0M0S", dt.timedelta(hours=-1)),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (decimal.Decimal, 0.1, decimal.Decimal("0.1")),
    (uuid.UUID, "12345678123456781234567812345678", uuid.UUID(int=0x12345678123456781234567812345678)),
    (pathlib.Path, "a/b", pathlib.Path("a/b")),
    (Shop, "s", Shop.SOUTH),
    (Shop, "SOUTH", Shop.SOUTH),
    (Job, {"day": "2026-01-02", "after": {"day": "2026-01-02", "shop": "s"}}, Job(DAY, after=Job(DAY, Shop.SOUTH))),
    (dt.date | None, None, None),
    (dt.date | str, "2026-01-02", "2026-01-02"),
    (dt.date | dt.time, "03:04", dt.time(3, 4)),
    (tuple[dt.date, ...], ["2026-01-02"], (DAY,)),
    (tuple[dt.date, int], ["2026-01-02", 1.0], (DAY, 1)),
    (set[int], [1, 2], {1, 2}),
    (dict[str, dt.date], {"a": "2026-01-02"}, {"a": DAY}),
    (Mapping[dt.date, int], {"2026-01-02": 1}, {DAY: 1}),
    (dict[int, float], {"1": 2.5, "-3.0": 1}, {1: 2.5, -3: 1}),
    (dict[float, str], {"1.5": "a", "2": "b"}, {1.5: "a", 2.0: "b"}),
    (dict[bool, list[dict[int, int]]], {"true": [{"7": 1}]}, {True: [{7: 1}]}),
    (Mapping[int | None, dt.date], {"1": "2026-01-02", "null": "2026-01-02"}, {1: DAY, None: DAY}),
    (dict[int | str, int], {"1": 2}, {"1": 2}),
    (dict[Any, int], {"1": 2}, {"1": 2}),
    (dt.timedelta, "-PT1H", dt.timedelta(hours=-1)),
    (dt.timedelta, "P1W", dt.timedelta(weeks=1)),
    (dt.timedelta, "-P1W2DT3H", -dt.timedelta(weeks=1, days=2, hours=3)),
    (int, 3.0, 3),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), CASES, ids=lambda case: str(case)[:40])
def test_converted(annotation: Any, value: Any, expected: Any) -> None:
    """A value becomes one of the parameter's type; JSON's own types, and what cannot be resolved, stay as they are."""
    done = called(annotation, value)
    assert (done.answer.status, done.answer.error) == (200, None)
    assert (type(done.arguments[0]), repr(done.arguments)) == (type(expected), repr([expected]))


@cases(
    (pd.Timestamp, "soon", r"run: x='soon' \(str\) cannot be converted to .*Timestamp"),
    (pd.Timestamp, 5, "it is of type int"),
    (dt.date, None, r"x=None \(NoneType\).*it is null"),
    (dt.date, "2026-01-02T03:00:00", "it has a time of day"),
    (dt.date | None, "x", "Invalid isoformat"),
    *((dt.timedelta, text, "ISO 8601 duration") for text in ("ten minutes", "P", "-P", "PT", "1W")),
    *((dict[int, int], {key: 1}, f"the key '{key}' is not of type int") for key in ("a", "1.5", "true", "null", "")),
    *((dict[bool, int], {key: 1}, f"the key '{key}' is not of type bool") for key in ("1", "True")),
    (dict[float, int], {"true": 1}, "the key 'true' is not of type float"),
    (decimal.Decimal, "x", "Decimal"),
    (decimal.Decimal, True, "it is of type bool"),
    (Shop, "west", "'west' is not a valid"),
    (Job, {"shop": "n"}, r"Job\(day, shop, after\): missing a required argument: 'day'"),
    (Job, {"day": "x"}, "day='x'"),
    (Job, "x", "it is of type str"),
    (list[dt.date], "2026-01-02", "it is of type str"),
    (tuple[dt.date, dt.date], ["2026-01-02"], "it has 1 values"),
    (list[int], "x", "it is of type str"),
    (npt.NDArray[np.float64], ["x"], "could not convert"),
)
def test_refused(annotation: Any, value: Any, words: str) -> None:
    """A value that cannot be converted is a 400, which names the parameter, the value and the type."""
    answer = called(annotation, value).answer
    assert (answer.status, answer.duration) == (400, None)
    assert re.search(words, str(answer.message))


def test_rows_of_a_frame_come_back() -> None:
    """What the encoder makes of a row is what the types take."""

    def run(day: dt.date, at: pd.Timestamp, span: dt.timedelta, price: decimal.Decimal, shop: Shop) -> None:
        """Do nothing."""

    values = [pd.Timestamp("2026-01-02", tz="UTC"), pd.Timedelta("-90s"), decimal.Decimal("1.10"), Shop.SOUTH]
    row = dict(zip(("day", "at", "span", "price", "shop"), (pd.Timestamp(DAY), *values), strict=True))
    assert Called(run, to_json(row)).arguments == [DAY, *values]


def test_one_value_is_converted_for_the_first_parameter() -> None:
    """A body that is no object is the only argument, and is converted, too; a default of None allows null."""

    def run(day: dt.date = None, n: int = 1) -> None:  # type: ignore[assignment]  # noqa: RUF013 - the subject
        """Do nothing."""

    assert Called(run, b'"2026-01-02"').arguments == [DAY]
    assert Called(run, b'{"day": null}').arguments == [None]


class Report:
    """An object that can be called, and has a method."""

    __hash__ = None  # type: ignore[assignment]

    def method(self, day: dt.date) -> int:
        """Return the year."""
        return day.year

    __call__ = method


CALLABLES = {"object": Report(), "method": Report().method, "partial": functools.partial(Report().method)}


@pytest.mark.parametrize("fn", CALLABLES.values(), ids=CALLABLES)
def test_other_callables(fn: Any) -> None:
    """Objects, methods and partial functions have annotations, too."""
    assert call(fn, b'{"day": "2026-01-02"}', run=asyncio.run).result == b"2026"

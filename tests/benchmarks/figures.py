"""Figures with their goals, how values are judged against them, and how a measurement reports values."""

import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, TextIO

_WHOLE, _TENTHS = 100, 10  # from here on a number is written with no decimals, and with one


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    key: str
    what: str
    unit: str
    _: KW_ONLY
    against: str = ""  #: what it is compared with
    low: float | None = None  #: the goal: the median must not be below
    high: float | None = None  #: the goal: the median must not be above
    full: bool = False  #: measured with `--full` only

    @property
    def goal(self) -> str:
        """The goal as text."""
        if self.low is not None and self.high is not None:
            return f"{number(self.low)} to {number(self.high)} {self.unit}"
        if self.low is not None:
            return f"≥ {number(self.low)} {self.unit}"
        return f"≤ {number(self.high)} {self.unit}" if self.high is not None else ""


def figures(table: str) -> tuple[Figure, ...]:
    """Read figures from lines of ``key | what | unit | goal | against | --full``; the last three may be left out.

    A goal is ``≥ 50``, ``≤ 5`` or ``98 to 102``.
    """
    return tuple(_figure(*(cell.strip() for cell in line.split("|"))) for line in table.strip().splitlines())


def _figure(key: str, what: str, unit: str, *rest: str) -> Figure:
    goal, against, full = (*rest, "", "", "")[:3]
    bounds = [float(bound.replace(",", "")) for bound in re.findall(r"[\d,.]+", goal)]
    low = None if goal.startswith("≤") or not bounds else bounds[0]
    high = None if goal.startswith("≥") or not bounds else bounds[-1]
    return Figure(key, what, unit, against=against, low=low, high=high, full=bool(full))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    rounds: int = 3
    flights: int | None = None  #: rows of the fan-out; None: all
    compared: int = 3_000  #: tasks that slow ways of creating them create: only their rate counts
    without_batch: int | None = 30_000  #: rows of the fan-out without batch calls; None: all
    listed: int = 100_000
    pending: int = 1_000_000
    pages: int = 200  #: pages of 1,000 pending tasks that are listed
    window: tuple[float, float] = (5.0, 35.0)  #: seconds after the start in which dispatches are counted
    delays: int = 200  #: tasks whose delay is measured
    streamed: tuple[int, ...] = (100_000, 1_000_000)  #: rows of fan-outs from an iterator
    wide: int = 240_000  #: rows of 6.8 KB in the file that is fanned out
    stored: int = 240_000  #: results in a folder
    ticks: int = 20
    waited: int = 2_000  #: rows of a batch that is waited for
    waits: int = 20
    swept: int = 2_000  #: rows of a sweep
    results: tuple[int, ...] = (100_000,)  #: rows whose results are read
    written: tuple[int, int] = (10_000, 1_000_000)  #: results that are written to Parquet files
    ended: int = 1_000_000  #: rows whose success the log tells
    soak: float = 600.0  #: seconds
    against: str = "HEAD"  #: the commit of a pair


@dataclass(slots=True, kw_only=True)
class Result:
    """The reported values of a case."""

    values: dict[str, list[float]] = field(default_factory=dict)  #: key of a figure -> a value a round
    notes: list[str] = field(default_factory=list)
    error: str | None = None  #: why it was not measured to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Sizes and a folder for a measurement, and where it reports its values."""

    size: Size
    folder: Path  #: for what it writes; removed afterwards
    out: TextIO

    def rounds(self) -> Iterator[Path]:
        """Report each round as it begins, and yield a folder for it."""
        for count in range(1, self.size.rounds + 1):
            self._write(message=f"round {count} of {self.size.rounds}")
            yield self.folder / f"round-{count}"

    def report(self, key: str, value: float) -> None:
        """Report the value of a figure in this round."""
        self._write(figure=key, value=value)

    def note(self, text: str) -> None:
        """Report a sentence for the lines below the table."""
        self._write(note=text)

    def fail(self, error: str) -> None:
        """Report why the measurement ends early."""
        self._write(error=error)

    def _write(self, **report: object) -> None:
        self.out.write(json.dumps(report) + "\n")
        self.out.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Figures that are measured together, in a process of their own."""

    name: str
    title: str
    how: str  #: how it is measured, in a few sentences
    figures: tuple[Figure, ...]
    run: Callable[[Bench], None]
    seconds: float = 180.0  #: time limit
    full_seconds: float | None = None  #: same, with `--full`
    alone: bool = False  #: measured only when it is named; its section of the table is kept by other runs


def case(name: str, title: str, run: Callable[[Bench], None], how: str, table: str, **limits: Any) -> Case:
    """Return a case whose figures are the lines of a table, as `figures` reads them."""
    return Case(name=name, title=title, run=run, how=how, figures=figures(table), **limits)


def number(value: float) -> str:
    """Write a number: large ones without decimals, small ones with two."""
    size = abs(value)
    if size >= _WHOLE or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= _TENTHS else f"{value:.2f}"


def spread(values: Sequence[float], unit: str) -> str:
    """Write the median of some values, and the smallest and the largest."""
    middle = f"{number(statistics.median(values))} {unit}".rstrip()
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def compare(figure: Figure, values: Sequence[float]) -> str:
    """Return whether the median meets the goal, or by how much it misses it; empty where there is no goal."""
    median = statistics.median(values)
    if figure.low is not None and median < figure.low:
        return f"**not met**: {_share(figure.low - median, figure.low)} below"
    if figure.high is not None and median > figure.high:
        return f"**not met**: {_share(median - figure.high, figure.high)} above"
    return "met" if figure.goal else ""


def _share(part: float, whole: float) -> str:
    return f"{number(100 * part / whole)} %" if whole else number(part)

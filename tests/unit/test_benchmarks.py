"""The table of figures, as far as it is pure: how values are judged and written down."""

from __future__ import annotations

import pytest

from tests.benchmarks.figures import Bench, Case, Figure, Result, judge, number, spread
from tests.benchmarks.table import document, verdict

__all__: list[str] = []

RATE = Figure(key="rate", what="rows a second", unit="rows/s", low=50)
LAG = Figure(key="lag", what="lag", against="the others", unit="ms", high=5)
BOTH = Figure(key="both", what="share", unit="%", low=98, high=102)
FREE = Figure(key="free", what="time", unit="s")
LONG = Figure(key="long", what="ten millions", unit="MB", high=50, full=True)


def nothing(_: Bench) -> None:
    """Measure nothing."""


CASE = Case(name="c", title="Sending", how="As it is.", figures=(RATE, LAG, BOTH, FREE, LONG), run=nothing)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (336_776.4, "336,776"),
        (100.0, "100"),
        (99.95, "100.0"),
        (12.34, "12.3"),
        (5, "5"),
        (0.1234, "0.12"),
        (-3.5, "-3.50"),
    ],
)
def test_numbers_have_the_decimals_that_they_deserve(value: float, text: str) -> None:
    """Large numbers have none, small ones two."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("figure", "values", "said"),
    [
        (RATE, [10, 50, 70], "met"),
        (RATE, [40, 45, 70], "**not met**: 10 % below"),
        (LAG, [5, 5, 90], "met"),
        (LAG, [6, 6, 6], "**not met**: 20 % above"),
        (BOTH, [98.5], "met"),
        (BOTH, [49], "**not met**: 50 % below"),
        (BOTH, [153], "**not met**: 50 % above"),
        (FREE, [1.0], ""),
    ],
)
def test_the_median_is_what_is_judged(figure: Figure, values: list[float], said: str) -> None:
    """A goal is met, or missed by a share of it; without a goal nothing is said."""
    assert judge(figure, values) == said


def test_a_spread_names_median_smallest_and_largest() -> None:
    """One value stands alone."""
    assert spread([3, 1, 2], "s") == "2 s (1 to 3)"
    assert spread([2.5], "s") == "2.50 s"


def test_what_failed_stands_in_its_cell() -> None:
    """What was measured before counts; of the rest the reason is told, and it is no success."""
    result = Result(values={"rate": [60]}, error="OSError: disk full")
    assert verdict(RATE, result) == ("60 rows/s", "met")
    assert verdict(LAG, result) == ("failed: OSError: disk full", "**not met**: not measured")
    assert verdict(FREE, result) == ("failed: OSError: disk full", "")


def test_what_takes_long_is_not_missed() -> None:
    """A figure of a full run is left open by a short one."""
    assert verdict(LONG, Result()) == ("not run: `--full` does", "")


def test_the_document_has_it_all() -> None:
    """The machine, a tally of goals, and each case with its figures, remarks and errors."""
    values = {"rate": [60.0, 70.0, 50.0], "lag": [7.0], "both": [100.0]}
    text = document({"CPU": "fast | cool"}, [(CASE, Result(values=values, remarks=["Few rows."], error="late"))])
    assert "2 of 3 goals are met. Not met: Sending, lag against the others." in text
    assert "| CPU | fast / cool |" in text
    assert "| rows a second |  | ≥ 50 rows/s | 60 rows/s (50 to 70) | met |" in text
    assert "| share |  | 98 to 102 % | 100 % | met |" in text
    assert text.endswith("- Few rows.\n- It was not measured to its end: late\n")

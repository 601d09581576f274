"""How benchmark values are written and judged, and the table that is made of them."""

from tests.benchmarks.figures import Bench, Case, Figure, Result, compare
from tests.benchmarks.table import document, section, section_of, verdict, with_section
from tests.cases import cases

RATE = Figure("rate", "rows a second", "rows/s", low=50)
LAG = Figure("lag", "lag", "ms", against="the others", high=5)
BOTH = Figure("both", "share", "%", low=98, high=102)
FREE = Figure("free", "time", "s")
LONG = Figure("long", "ten millions", "MB", high=50, full=True)


def nothing(_: Bench) -> None:
    """Measure nothing."""


CASE = Case(name="c", title="Sending", how="As it is.", figures=(RATE, LAG, BOTH, FREE, LONG), run=nothing)


@cases(
    *((RATE, [10, 50, 70], "met"), (RATE, [40, 45, 70], "**not met**: 10 % below")),
    *((LAG, [5, 5, 90], "met"), (LAG, [6, 6, 6], "**not met**: 20 % above")),
    *((BOTH, [98.5], "met"), (BOTH, [49], "**not met**: 50 % below"), (BOTH, [153], "**not met**: 50 % above")),
    (FREE, [1.0], ""),
)
def test_the_median_is_judged(figure: Figure, values: list[float], judged: str) -> None:
    """A goal is met, or missed by a share of it; a figure without a goal is not judged."""
    assert compare(figure, values) == judged


def test_a_failure_is_shown_in_its_cell() -> None:
    """Values that were measured before a failure count; the other figures show its reason, and miss their goals."""
    result = Result(values={"rate": [60]}, error="OSError: disk full")
    assert verdict(RATE, result) == ("60 rows/s", "met")
    assert verdict(LAG, result) == ("failed: OSError: disk full", "**not met**: not measured")
    assert verdict(FREE, result) == ("failed: OSError: disk full", "")


def test_a_figure_of_a_full_run_is_not_judged_in_a_short_one() -> None:
    """A figure that only `--full` measures misses no goal in a run without it."""
    assert verdict(LONG, Result()) == ("not run: `--full` does", "")


def test_the_document_has_machine_tally_and_cases() -> None:
    """The machine, how many goals are met, and each case with its figures, notes and errors."""
    values = {"rate": [60.0, 70.0, 50.0], "lag": [7.0], "both": [100.0]}
    text = document({"CPU": "fast | cool"}, [(CASE, Result(values=values, notes=["Few rows."], error="late"))])
    assert "2 of 3 goals are met. Not met: Sending, lag against the others." in text
    assert "| CPU | fast / cool |" in text
    assert "| rows a second |  | ≥ 50 rows/s | 60 rows/s (50 to 70) | met |" in text
    assert "| share |  | 98 to 102 % | 100 % | met |" in text
    assert text.endswith("- Few rows.\n- It was not measured to its end: late\n")


def test_a_section_is_replaced_and_kept() -> None:
    """A case that is measured alone replaces its own section, and another run keeps it at the end."""
    others = document({}, [(CASE, Result())])
    alone = Case(name="a", title="Alone", how="By itself.", figures=(FREE,), run=nothing, alone=True)
    first, second = (section(alone, Result(values={"free": [seconds]})) for seconds in (1.0, 2.0))
    once = with_section(others, alone, first)
    twice = with_section(once, alone, second)
    assert twice.count("## Alone") == 1
    assert twice.endswith("| time |  |  | 2 s |  |\n")
    assert with_section(others, alone, section_of(twice, alone)) == twice

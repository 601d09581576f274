"""Charts as HTML: geometry, accessible names, and escaping."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from cloudtasks_nb.display.charts import sparkline, state_bar
from cloudtasks_nb.display.colours import COLOURS
from tests.cases import cases

EVIL = "</title><img src=x onerror=\"alert('1')\">"


def parsed(chart: str) -> ET.Element:
    """Read a chart as XML, without its style sheet: every element is closed, every attribute quoted."""
    return ET.fromstring("<div>" + re.sub(r"<style>.*?</style>", "", chart, flags=re.DOTALL) + "</div>")  # noqa: S314 - our own text


def points(chart: str) -> list[list[tuple[float, float]]]:
    """Corners of each line of a sparkline."""
    lines = parsed(chart).iter("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in lines]  # type: ignore[misc]  # pairs


def bar_parts(chart: str) -> list[ET.Element]:
    """Return the parts of a bar."""
    return [node for node in parsed(chart).iter("div") if "title" in node.attrib]


def timed(*values: float | None) -> list[tuple[float, float | None]]:
    """Return figures two seconds apart."""
    return [(2.0 * number, value) for number, value in enumerate(values)]


def test_a_sparkline_stands_on_zero_and_has_gaps() -> None:
    """The highest value is at the top, zero at the bottom, oldest left; an unknown value leaves a gap in the line."""
    (line,) = points(sparkline(timed(0, 50, 100), label="depth", width=131, height=64))
    assert line == [(27.5, 47), (77.2, 27), (127, 7)]
    assert [len(line) for line in points(sparkline(timed(1, 2, None, 3, 4, 5), label="depth"))] == [2, 3]


def test_a_sparkline_has_its_ranges() -> None:
    """Both axes have their ends: the highest value, 0, how long ago, and now."""
    texts = [node.text for node in parsed(sparkline(timed(*[1234] * 121), label="depth")).iter("text")]
    assert texts == ["1,234", "0", "last 4 min", "now"]
    assert "last" not in "".join(parsed(sparkline(timed(7), label="depth")).itertext())


@cases(
    ([0, 2000, 1234], "depth of q, last 4 s: 1,234 tasks now, between 0 and 2,000 before"),
    ([5], "depth of q: 5 tasks now, between 5 and 5 before"),
    ([5, None], "depth of q, last 2 s: not known now, between 5 and 5 before"),
    ([None], "depth of q: not known yet"),
    ([], "depth of q: not known yet"),
)
def test_a_sparkline_has_an_accessible_name(values: list[float | None], name: str) -> None:
    """Name and tooltip have the figures."""
    svg = parsed(sparkline(timed(*values), label="depth of q"))[0]
    assert (svg.attrib["role"], svg.attrib["aria-label"], svg.findtext("title")) == ("img", name, name)


def test_a_bar_fills_from_what_is_done() -> None:
    """Parts stand in the order of a task's life, as wide as their share, in their state's colour."""
    parts = bar_parts(state_bar({"unsent": 50, "running": 25, "succeeded": 25}, label="b", share=0.25))
    assert [part.attrib["style"] for part in parts] == [
        f"flex:{count} 0 4px;background-color:{COLOURS[state]}"
        for state, count in (("succeeded", 25), ("running", 25), ("unsent", 50))
    ]
    assert parts[0].attrib["title"] == "succeeded: 25 of 100 (25 %)"


def test_what_is_tried_again_differs_in_more_than_colour() -> None:
    """Its part of the bar is striped, that of what failed is not."""
    failed, retrying = bar_parts(state_bar({"failed": 1, "retrying": 1}, label="b", share=0.5))
    assert ["gradient" in part.attrib["style"] for part in (failed, retrying)] == [False, True]


def test_a_few_among_many_are_counted() -> None:
    """Three failures of 300,000 have a percentage that is neither 0 nor 100."""
    parts = bar_parts(state_bar({"succeeded": 299_997, "failed": 3}, label="b", share=1))
    titles = [part.attrib["title"] for part in parts]
    assert titles == ["succeeded: 299,997 of 300,000 (99 %)", "failed: 3 of 300,000 (<1 %)"]


def test_a_bar_counts_in_words_too() -> None:
    """The legend and the accessible name have every count that is not zero; a bar without counts says so."""
    chart = parsed(state_bar({"succeeded": 1200, "failed": 0, "gone": 2}, label="batch a91f", share=0.999))
    assert "".join(chart.itertext()).endswith(" succeeded 1,200 gone 2")
    (bar,) = [node for node in chart.iter() if node.get("role") == "progressbar"]
    assert bar.attrib["aria-label"] == "batch a91f: 1,202 rows: 1,200 succeeded, 2 gone"
    assert bar.attrib["aria-valuenow"] == "99"
    assert "nothing yet" in "".join(parsed(state_bar({}, label="b", share=1)).itertext())


@cases(lambda: sparkline(timed(1, 2), label=EVIL), lambda: state_bar({"failed": 1}, label=EVIL, share=1))
def test_everything_is_escaped(draw: Callable[[], str]) -> None:
    """Names from outside become text, never elements or attributes."""
    chart: Any = parsed(draw())
    assert [node for node in chart.iter() if node.tag == "img" or "onerror" in node.attrib] == []
    assert EVIL in "".join([*chart.itertext(), *(value for node in chart.iter() for value in node.attrib.values())])

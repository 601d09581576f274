"""The chart of the attempts on a task: waits, runs, the next try, and now."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from cloudtasks_nb.display.attempt_chart import Attempt, attempts_chart
from tests.unit.display.test_charts import EVIL, parsed

SECOND = 1_000_000
NOON = 1_767_355_200 * SECOND  # 2026-01-02 12:00 UTC


def attempt(number: int, at: float, took: float = 0.05, answer: str = "INTERNAL") -> Attempt:
    """Return an attempt that began so many seconds after noon."""
    start = NOON + round(at * SECOND)
    return Attempt(name=str(number), due=start, start=start, end=start + round(took * SECOND), answer=answer)


def runs(chart: str) -> list[ET.Element]:
    """Return the bars."""
    return [*parsed(chart).iter("rect")]


def test_runs_are_true_to_time() -> None:
    """Each attempt has its own line above the axis, where it began; a run of milliseconds can still be seen."""
    chart = attempts_chart([attempt(1, 0), attempt(2, 3600), attempt(3, 7200, 3600, "OK")])
    x, y, wide, high = ([float(bar.attrib[name]) for bar in runs(chart)] for name in ("x", "y", "width", "height"))
    axis = float(next(parsed(chart).iter("path")).attrib["d"].split()[1].split("H")[0])
    assert [x[2] - x[1], wide[2]] == pytest.approx([x[1] - x[0]] * 2, abs=0.2)
    assert wide[0] == 3
    assert y[0] < y[1] < y[2] < axis - high[2]


def test_answers_are_words_too() -> None:
    """Each has a sign, its status and its duration beside its bar, and the name counts them."""
    chart = attempts_chart([attempt(1, 0), attempt(2, 1, answer=""), attempt(3, 2, 1.5, "OK")])
    texts = [node.text for node in parsed(chart).iter("text")]
    assert {"✗ INTERNAL, 50 ms", "answer not known, 50 ms", "✓ OK, 1.5 s"} <= set(texts)
    name = parsed(chart)[0][0].attrib["aria-label"]
    assert name == "3 attempts from 12:00:00 to 12:00:03: 1 INTERNAL, 1 not known, 1 OK"


def test_the_next_try_and_now() -> None:
    """A dashed line leads to the next try, and a mark stands at the present, also when that is later."""
    chart = attempts_chart([attempt(1, 0)], retry=NOON + 60 * SECOND, now=NOON + 90 * SECOND)
    dashed = [node for node in parsed(chart).iter("path") if "stroke-dasharray:5 3" in node.attrib["style"]]
    assert len(dashed) == 1
    assert {"now", "next", "next try 12:01:00"} <= {node.text for node in parsed(chart).iter("text")}
    assert "; next try 12:01:00" in parsed(chart)[0][0].attrib["aria-label"]
    assert "now" not in {node.text for node in parsed(attempts_chart([attempt(1, 0)])).iter("text")}


def test_a_hundred_attempts_fit() -> None:
    """They share the height; texts that would overlap are left out, as the bars have tooltips."""
    chart = attempts_chart([attempt(number, number) for number in range(1, 101)])
    heights = [float(node.attrib["y"]) for node in parsed(chart).iter("text") if node.attrib["text-anchor"] == "start"]
    assert len(runs(chart)) == 100
    assert float(parsed(chart)[0][0].attrib["viewBox"].split()[3]) < 400
    assert min(second - first for first, second in pairwise(heights)) >= 13


def test_a_single_instant_is_a_chart_too() -> None:
    """An attempt without a duration, and nothing else, has an axis."""
    assert "12:00" in attempts_chart([attempt(1, 0, 0)])


def test_everything_is_escaped() -> None:
    """An answer never becomes an element."""
    chart = parsed(attempts_chart([attempt(1, 0, answer=EVIL)]))
    assert not list(chart.iter("img"))
    assert EVIL in "".join(chart.itertext())

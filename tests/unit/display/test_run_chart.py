"""Charts of a run: bars, axes, marks, and their figures in words."""

import re
from dataclasses import replace
from typing import Any

import pytest

from cloudtasks_nb.display.run_chart import (
    Durations,
    Throughput,
    durations_chart,
    throughput_chart,
)
from tests.unit.display.test_charts import parsed

NOON = 1_767_355_200_000_000  # 2026-01-02 12:00 UTC
RUN = Throughput(start=NOON, width=5_000_000, succeeded=[40, 0, 20], failed=[0, 0, 30])
TIMES = Durations(edges=[0.01, 0.1, 1.0, 10.0], counts=[5, 90, 5], log=True, p50=0.3, p95=0.9, longest=4.2)


def bars(chart: str, mark: str) -> list[tuple[float, ...]]:
    """Return x, bottom and top of each bar of the path whose style has a text."""
    (path,) = [node for node in parsed(chart).iter("path") if re.match(f"fill:none;.*{mark}", node.attrib["style"])]
    found = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", path.attrib["d"])
    return [tuple(map(float, one)) for one in found]


def texts(chart: str) -> list[Any]:
    """Return the texts of a chart."""
    return [node.text for node in parsed(chart).iter("text")]


def test_failed_rows_stand_on_succeeded_ones() -> None:
    """Bars are as high as their counts; those of failed rows are striped, so colour is not all that tells them."""
    chart = throughput_chart(RUN)
    (first, second), (above,) = bars(chart, "#2e9e5b"), bars(chart, "stroke-dasharray:2.5")
    assert first[1] - first[2] == pytest.approx(2 * (second[1] - second[2]), abs=0.1)
    assert above[:2] == (second[0], second[2])
    assert above[1] - above[2] == pytest.approx(1.5 * (second[1] - second[2]), abs=0.1)


def test_a_throughput_has_axes_units_and_words() -> None:
    """The axes tell attempts a second and times with their day and zone; name and tooltips tell the figures."""
    chart = throughput_chart(RUN)
    assert texts(chart)[:4] == ["0", "5", "10", "attempts/s"]
    words = {"attempts/s", "succeeded", "failed", "12:00:00", "12:00:10", "time (2026-01-02, UTC)"}
    assert words <= set(texts(chart))
    svg = parsed(chart)[0]
    name = "attempts over time: 60 succeeded, 30 failed, at most 10 a second"
    assert (svg.attrib["role"], svg.attrib["aria-label"], svg.findtext("title")) == ("img", name, name)
    tips = [node.text for node in svg.iter("title")][1:]
    assert tips == ["12:00:00, 5 s: 40 succeeded, 0 failed", "12:00:10, 5 s: 20 succeeded, 30 failed"]


def test_a_histogram_has_its_quantiles() -> None:
    """p50 and p95 are marked with their values at their places on the axis."""
    chart = durations_chart(TIMES)
    words = {"p50 300 ms", "p95 900 ms", "10 ms", "1 s", "duration of the last attempt (logarithmic axis)"}
    assert words <= set(texts(chart))
    assert "half took at most 300 ms (p50), 95 % at most 900 ms (p95), the longest 4.2 s" in chart
    assert len(bars(chart, "stroke-opacity:.75")) == 3


@pytest.mark.parametrize(("p50", "p95"), [(0.011, 0.0111), (9.9, 9.99), (0.5, 0.5)])
def test_marks_stay_in_the_picture(p50: float, p95: float) -> None:
    """The text of a mark near an edge stands on its other side."""
    edges = Durations(edges=[0.01, 0.1, 1.0, 10.0], counts=[1, 0, 1], log=True, p50=p50, p95=p95, longest=9.99)
    for node in parsed(durations_chart(edges)).iter("text"):
        if "font-weight" in node.attrib["style"]:
            x, width = float(node.attrib["x"]), 6 * len(node.text or "")
            assert 0 <= (x if node.attrib["text-anchor"] == "start" else x - width) <= 380 - width


def test_a_single_row_is_a_chart_too() -> None:
    """One span and one duration have axes without a division by zero."""
    assert "1" in texts(throughput_chart(Throughput(start=NOON, width=1_000_000, succeeded=[1], failed=[0])))
    single = Durations(edges=[0.0, 0.1], counts=[1], log=False, p50=0.1, p95=0.1, longest=0.1)
    assert "1" in texts(durations_chart(single))


@pytest.mark.parametrize(("limit", "shown", "lines"), [(20.0, "limit 20/s", 1), (500.0, "limit 500/s, far above", 0)])
def test_a_throughput_has_its_limit(limit: float, shown: str, lines: int) -> None:
    """The limit is a line where it is near."""
    chart = throughput_chart(replace(RUN, limit=limit))
    assert shown in texts(chart)
    assert len(re.findall(r"V?H[\d.]+\" style=\"stroke:#e5484d", chart)) == lines
    assert f"at most 10 a second of {limit:g} that the queue allows" in chart

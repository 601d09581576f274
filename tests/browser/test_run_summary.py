"""How long a batch took, and how its tasks were tried, as an analyst reads it from charts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.board import PANEL, Board

__all__: list[str] = []

SCROLL = "chart => chart.scrollIntoView()"
#: How far charts are from the right edge of their panel, in pixels; in one script, since a chart may be drawn anew.
ROOM = """panel => [...panel.querySelectorAll("[role=img]")].filter(chart => chart.checkVisibility())
  .map(chart => panel.getBoundingClientRect().right - chart.getBoundingClientRect().right)"""
#: 40 rows that take a few milliseconds and one that takes longer; every fourth is tried twice and fails.
SETUP = """
import cloudtasks_nb as ct, pandas as pd, time

def report(day):
    time.sleep(0.4 if day == 7 else 0.005)
    if day % 4 == 0:
        raise KeyError(day)
    return day

tasks = ct.local()
queue = tasks.queue("reports", create=True, max_attempts=2, min_backoff="0.1s", rate=100)
batch = queue.fan_out(pd.DataFrame({"day": range(40)}), url=ct.serve(report), key=["day"], progress=False)
batch.wait()
waiting = tasks.queue("waiting", create=True, min_backoff="600s").enqueue(ct.serve(report), {"day": 4})
while not tasks.queue("waiting").tasks().attempts.ge(1).any():
    time.sleep(0.05)
"""


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 700)])
def test_a_run_and_an_attempt_are_drawn(
    notebook: Callable[..., Any], screenshot: Callable[[Page, str], Path], *, dark: bool, width: int
) -> None:
    """Batch, task and queue have charts with their figures in words; none is wider than its panel."""
    book = notebook(SETUP, PANEL, dark=dark)
    book.page.set_viewport_size({"width": width, "height": 1400})
    board = Board(book)
    board.open_table("Batches")
    board.rows.first.click()
    throughput = board.part.get_by_role("img", name="rows done over time: 30 succeeded, 10 failed")
    durations = board.part.get_by_role("img", name="durations of 40 attempts: half took at most")
    expect(throughput).to_be_visible()
    expect(durations).to_be_visible()
    expect(board.part.locator(".ctn-card", has_text="Slowest rows")).to_contain_text("row 7: day=7")
    room = board.part.evaluate(ROOM)
    assert len(room) >= 2
    assert min(room) >= -1
    throughput.evaluate(SCROLL)  # at once: the chart is drawn anew while it is looked at
    screenshot(book.page, f"run-{width}")
    board.open_table("Queues")
    board.row("waiting").click()
    expect(board.part.get_by_role("img", name="depth of waiting")).to_contain_text("last")
    screenshot(book.page, f"depth-{width}")
    board.open_table("Tasks")
    board.rows.first.click()
    attempts = board.part.get_by_role("img", name="1 attempt from")
    expect(attempts).to_contain_text("next try")
    attempts.evaluate(SCROLL)
    screenshot(book.page, f"attempts-{width}")

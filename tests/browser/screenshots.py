"""The pictures of the README: ``make screenshots`` makes them anew. Not part of the suite, which asserts instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.board import Board

__all__: list[str] = []

IMAGES = Path(__file__).parents[2] / "notebooks" / "images"
SETUP = """
import pandas as pd
import cloudtasks_nb as ct

tasks = ct.local()
reports = tasks.queue("reports", create=True, rate=200, max_concurrent=8, max_attempts=1)
nightly = tasks.queue("nightly", create=True, rate=5).pause()
broken = {"2013-02-13", "2013-03-08"}


def report(start, partition, end=None):
    if partition in broken:
        raise LookupError(f"no flights on {partition}")
    return partition


handler = ct.serve(report)
flights = pd.DataFrame({"day": pd.date_range("2013-01-01", periods=240).strftime("%Y-%m-%d")})
flights["origin"] = ["JFK", "LGA", "EWR"] * 80
url = "https://example.com/run/{origin}"
_ = nightly.fan_out(flights, url=url, delay="6h", name="night of flights", progress=False)
_ = reports.backfill("2013-01-01", "2013-04-30", freq="D", url=handler, body=["start", "partition"], name="winter",
                     progress=False).wait()
"""


def picture(board: Board, name: str) -> None:
    """Write what the dashboard shows now."""
    board.root.scroll_into_view_if_needed()
    board.page.mouse.move(0, 0)
    board.root.screenshot(path=IMAGES / f"{name}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_dashboard(notebook: Callable[..., Any], *, dark: bool) -> None:
    """The tabs, each with something to see."""
    board = Board(notebook(SETUP, "panel = tasks.panel()\npanel", dark=dark))
    board.page.set_viewport_size({"width": 1100, "height": 1500})
    suffix = "-dark" if dark else ""
    expect(board.rows.first).to_be_visible()
    picture(board, f"queues{suffix}")
    board.open("Tasks")
    expect(board.rows.first).to_be_visible()
    picture(board, f"tasks{suffix}")
    board.open("Fan out")
    board.field("URL").fill("https://example.com/run/{origin}?day={day}")
    expect(board.part.locator(".ctn-tasks")).to_contain_text("JFK")
    board.button("Plan").click()
    expect(board.part.locator(".ctn-plan")).to_be_visible()
    picture(board, f"fan-out{suffix}")
    board.open("Batches")
    board.part.locator("select").first.select_option(label="of all queues")
    board.part.locator("tr[data-key]", has_text="winter").click()
    expect(board.button("Retry failed (2)")).to_be_enabled()
    board.bar.wait_for()
    picture(board, f"batches{suffix}")

"""The pictures of the README: ``make screenshots`` makes them anew. Not part of the suite, which asserts instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Notebook

__all__: list[str] = []

IMAGES = Path(__file__).parents[2] / "notebooks" / "images"
START = """
import pandas as pd
import cloudtasks_nb as ct

tasks = ct.local()
queue = tasks.queue("reports", create=True, rate=200, max_concurrent=8, max_attempts=2, min_backoff="100ms")


def report(day, origin):
    if day.endswith("-13"):
        raise LookupError(f"no flights on {day}")
    return {"day": day, "origin": origin}


handler = ct.serve(report)
days = pd.date_range("2013-01-01", "2013-12-31").strftime("%Y-%m-%d")
rows = pd.DataFrame({"day": days, "origin": ["JFK", "LGA", "EWR"][0]})
"""
DASHBOARD = """
later = tasks.queue("nightly", create=True, rate=5).pause()
_ = later.fan_out(rows.head(120), url="https://example.com/run/{origin}", delay="6h", progress=False)
queue.fan_out(rows, url=handler, name="delays 2013").wait()
tasks.panel()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_dashboard(notebook: Callable[..., Notebook], dark: bool) -> None:  # noqa: FBT001 - pytest's parameter
    """Each tab of the dashboard."""
    book = notebook(START, DASHBOARD, dark=dark)
    page = book.page
    page.set_viewport_size({"width": 1100, "height": 900})
    output = page.locator(".jp-OutputArea-output").last
    for tab in ("Queues", "Tasks", "Fan out", "Backfill", "Batches", "Attempts"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        page.wait_for_load_state("networkidle")
        name = f"{tab.lower().replace(' ', '-')}-{'dark' if dark else 'light'}.png"
        output.screenshot(path=IMAGES / name)


def test_batch(notebook: Callable[..., Notebook]) -> None:
    """A batch with failures, as a notebook shows it."""
    book = notebook(START, "batch = queue.fan_out(rows, url=handler, name='delays 2013')\n_ = batch.wait()")
    book.page.locator(".jp-OutputArea-output").last.screenshot(path=IMAGES / "batch.png")

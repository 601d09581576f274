"""Fanning out, backfills and batches by mouse: from the form to the end of the bar, and from the calendar again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

__all__: list[str] = []

EVIL = "<img src=x onerror=window.pwned=1>"

#: A function that fails on two days until it is mended, and data for it.
SETUP = """
import cloudtasks_nb as ct, pandas as pd

broken = {"2026-01-07", "2026-01-20"}

def report(partition, **rest):
    if partition in broken:
        raise LookupError(f"no data for {partition} <img src=x onerror=window.pwned=1>")
    return partition

def flight(origin, day, note="<img src=x onerror=window.pwned=1>"):
    return origin

tasks = ct.local()
queue = tasks.queue("reports", create=True, max_attempts=1, rate=500)
report_url = ct.serve(report)
flight_url = ct.serve(flight)
days = pd.date_range("2026-01-01", periods=80, freq="D").strftime("%Y-%m-%d")
flights = pd.DataFrame([{"origin": o, "day": d, "note": "<b>"} for d in days for o in ("EWR", "JFK", "LGA")])
"""
PANEL = "panel = tasks.panel(); panel.every = 1; panel"


class Board:
    """The dashboard as the person at the screen has it."""

    def __init__(self, book: Any) -> None:
        self.book = book
        self.page: Page = book.page
        self.root = self.page.locator(".ctn-panel").first
        expect(self.root).to_be_visible()

    @property
    def part(self) -> Locator:
        """The panel of the open tab."""
        return self.root.locator(".ctn-panel:visible")

    @property
    def line(self) -> Locator:
        """The line of Python."""
        return self.part.locator(".ctn-line code")

    @property
    def bar(self) -> Locator:
        """The bar of the batch that is shown."""
        return self.part.get_by_role("progressbar")

    def button(self, name: str, *, exact: bool = False) -> Locator:
        """Find a button of the open tab."""
        return self.part.get_by_role("button", name=name, exact=exact)

    def field(self, name: str) -> Locator:
        """Find a field of the open tab."""
        return self.part.get_by_label(name, exact=True)

    def square(self, day: str) -> Locator:
        """Find a square of the calendar."""
        return self.part.locator(f'.ctn-calendar button[data-key^="{day}"]')

    def open(self, tab: str) -> None:
        """Open a tab and wait until its panel is there."""
        self.root.get_by_role("tab", name=tab).click()
        self.part.locator(".ctn-told").wait_for()


@pytest.fixture
def board(notebook: Callable[..., Any]) -> Board:
    """Open the dashboard on a queue without tasks."""
    return Board(notebook(SETUP, PANEL))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_they_can_be_read_in_both_themes(
    notebook: Callable[..., Any], screenshot: Callable[[Page, str], Path], *, dark: bool
) -> None:
    """Form, first tasks, plan, question, bar, calendar and list, each with something to see."""
    board = Board(notebook(SETUP, PANEL, dark=dark))
    board.page.set_viewport_size({"width": 1000, "height": 1300})
    board.open("Fan out")
    board.field("URL").fill("flight_url")
    board.part.locator(".ctn-name", has_text="origin").first.click()
    board.field("Headers").fill("Authorization: Bearer secret\nX-Day: {day}")
    board.field("Name").fill("flights")
    expect(board.part.locator(".ctn-tasks")).to_contain_text("X-Day")
    board.root.scroll_into_view_if_needed()
    screenshot(board.page, "fan-out-form")
    board.part.locator(".ctn-name", has_text="day").first.click()
    board.button("Plan").click()
    expect(board.part.locator(".ctn-plan")).to_be_visible()
    board.root.scroll_into_view_if_needed()
    screenshot(board.page, "fan-out-plan")
    board.button("Send 240 tasks").click()
    expect(board.part.get_by_role("alertdialog")).to_be_visible()
    screenshot(board.page, "fan-out-question")
    board.part.get_by_role("alertdialog").get_by_role("button", name="Send 240 tasks").click()
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    board.root.scroll_into_view_if_needed()
    screenshot(board.page, "fan-out-sent")
    board.open("Backfill")
    board.field("From").fill("2026-01-01")
    board.field("To, included").fill("2026-03-31")
    board.field("URL").fill("report_url")
    expect(board.part.locator(".ctn-tasks")).to_contain_text("partition")
    board.root.scroll_into_view_if_needed()
    screenshot(board.page, "backfill-form")
    board.button("Plan").click()
    board.button("Send 90 tasks").click()
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    board.square("2026-01-07").click()
    board.root.scroll_into_view_if_needed()
    board.page.mouse.wheel(0, 700)
    screenshot(board.page, "backfill-calendar")
    board.open("Batches")
    board.part.locator("tr[data-key]").first.click()
    expect(board.button("Retry failed (2)")).to_be_enabled()
    board.part.locator(".ctn-batch").wait_for()
    board.root.scroll_into_view_if_needed()
    screenshot(board.page, "batches")

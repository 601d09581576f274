"""Rows are shown by what people know of them, and times in the zone that they choose."""

import datetime as dt
import re
import zoneinfo
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.board import PANEL, Board

#: A batch of 40 orders whose handler fails for one, and tasks that are no rows; two of them are due later.
SETUP = """
import cloudtasks_nb as ct, pandas as pd

def ship(order_id, day):
    if order_id == 4711:
        raise KeyError("no address <b>")

tasks = ct.local()
queue = tasks.queue("orders", create=True, max_attempts=3, min_backoff="600s").pause()
days = pd.date_range("2013-01-01", periods=40).strftime("%Y-%m-%d")
orders = pd.DataFrame({"day": days, "order_id": range(4700, 4740)})
batch = queue.fan_out(orders, url=ct.serve(ship), key=["order_id"], name="march", progress=False)
queue.enqueue("https://svc.example/order%209000?city=K%C3%B6ln&long=" + "x" * 200 + "theend", task_id="single")
queue.schedule("https://svc.example/soon", delay="100s", task_id="soon")
queue.schedule("https://svc.example/later", delay="2d", task_id="later")
"""

#: Whether all of a cell can be seen without scrolling the table.
IN_VIEW = """(cell) => {
  const [box, frame] = [cell, cell.closest(".ctn-scroll")].map((node) => node.getBoundingClientRect());
  return box.width > 0 && box.left >= frame.left && box.right <= frame.right + 1;
}"""


@pytest.fixture
def zone() -> str:
    """Return a time zone of the browser that is not UTC, nor whole hours away from it."""
    return "Asia/Tehran"


@pytest.fixture
def board(notebook: Callable[..., Any]) -> Board:
    """Open the dashboard, and below it the panel of the queue."""
    return Board(notebook(SETUP, PANEL, "queue.panel()"))


def cells(board: Board, column: str) -> Locator:
    """Find the cells of a column of the open tab by its heading."""
    heading = board.part.get_by_role("columnheader", name=column, exact=True)
    place = heading.evaluate("heading => [...heading.parentElement.children].indexOf(heading) + 1")
    return board.rows.locator(f"td:nth-child({place})")


def test_what_is_known_of_a_row_is_in_view(board: Board) -> None:
    """At 700 px too: its values, the ends of a long URL, the exception; in the list and in the log, as text."""
    board.book.until("batch.progress().unsent", "0")
    board.open_table("Tasks")
    expect(board.part).to_contain_text("43 loaded")
    find = board.part.get_by_placeholder("Find in")
    find.fill("order_id:4711")
    expect(board.rows).to_have_count(1)
    board.tick(board.rows)
    board.button("Run now (1)").click()
    expect(cells(board, "Message")).to_have_text("KeyError: 'no address <b>'")
    find.fill("order 9000?city=köln")
    expect(cells(board, "Task")).to_have_text("single")
    board.check()
    board.page.set_viewport_size({"width": 700, "height": 900})
    url = cells(board, "URL")
    expect(url).to_have_attribute("title", re.compile(r"https://svc.example/order.*theend$"))
    assert url.evaluate("cell => cell.scrollWidth <= cell.clientWidth"), "its last characters are in view"
    assert url.locator("span").evaluate("front => front.scrollWidth > front.clientWidth"), "its middle is cut"
    find.fill("")
    expect(board.rows).to_have_count(20)
    for column in ("State", "Task", "Message"):
        assert cells(board, column).first.evaluate(IN_VIEW), f"{column} is in view"
    board.book.until("len(queue.attempts())", "1")
    board.open_table("Attempts")
    expect(cells(board, "Task")).to_have_text("order_id=4711 · day=2013-01-12")
    for column in ("Answer", "Task", "Message"):
        assert cells(board, column).evaluate(IN_VIEW), f"{column} is in view"
    assert board.page.locator(".ctn-dashboard td b").count() == 0


def test_times_are_shown_as_the_user_wants_them(board: Board) -> None:
    """In the zone of the browser, in UTC or relative to the service's clock; in tables and cards of all panels."""
    switch = board.root.get_by_label("Times")
    board.open_table("Tasks")
    board.row("soon").click()
    due = board.row("soon").locator("time")
    later = board.row("later").locator("time")
    card = board.part.locator(".ctn-card time").first
    exact = due.get_attribute("datetime")
    assert exact is not None
    utc = exact[11:19]
    expect(switch.locator("option").first).to_have_text("Local (Asia/Tehran)")
    minutes = (int(utc[:2]) * 60 + int(utc[3:5]) + 210) % 1440
    for shown in (due, card):
        expect(shown).to_contain_text(f"{minutes // 60:02}:{minutes % 60:02}")
    expect(due).to_have_attribute("title", re.compile("Asia/Tehran$"))
    board.book.until("panel.parts['Tasks'].footer.zone", "Asia/Tehran")
    switch.select_option(label="UTC")
    board.book.until("panel.parts['Tasks'].footer.zone", "UTC")
    expect(due).to_have_text(re.compile(rf"({exact[:10]} {utc[:5]}|{utc})"))
    expect(later).to_have_text(re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"))
    expect(due).to_have_attribute("title", f"{exact[:10]} {exact[11:-1]} UTC")
    switch.select_option(label="Relative")
    expect(later).to_have_text("in 47 h")
    other = board.page.locator(".ctn-panel:not(.ctn-panel .ctn-panel)").nth(1)
    expect(other.get_by_label("Times")).to_have_value("relative")
    assert board.page.evaluate("sessionStorage['ctn-times']") == "relative"
    board.book.python("panel.every = 0")  # no message comes from the kernel any more
    expect(board.part.locator(".ctn-age")).to_contain_text("refreshing is off")
    for shown in (due, card):
        text = shown.text_content()
        assert text is not None
        expect(shown).to_have_text(re.compile(r"in \d+ s|\d+ (s|min) (ago|late)|now"))
        expect(shown).not_to_have_text(text)
    board.book.python("panel.every = 1; tasks.clock.advance('1d')")  # by a day, also of what is due in two
    expect(later).to_have_text("in 23 h")
    expect(due).to_have_text(re.compile(r"^2[34] h late$"))
    expect(board.part.locator(".ctn-age")).to_contain_text(re.compile(r"seen (now|\d+ s ago)"))
    switch.select_option(label="UTC")
    expect(due).to_have_text(re.compile(rf"^2[34] h late, {exact[:10]} "))


def test_a_sentence_has_its_times_in_the_zone_of_the_panel(notebook: Callable[..., Any]) -> None:
    """As its columns; never relative to now, which no sentence is made for."""
    later = 'tasks.queue("a", create=True).fan_out([{"n": 1}], url="https://svc.example/a", delay="2d", progress=False)'
    board = Board(notebook("import cloudtasks_nb as ct\ntasks = ct.local()", later, PANEL))
    board.open_table("Batches")
    cell = cells(board, "What is going on").filter(has_text="scheduled for")
    at = cell.locator("time").get_attribute("datetime")
    assert at is not None
    local = dt.datetime.fromisoformat(at).astimezone(zoneinfo.ZoneInfo("Asia/Tehran"))
    switch = board.root.get_by_label("Times")
    for mode, shown in (("Local (Asia/Tehran)", local), ("UTC", local.astimezone(dt.UTC)), ("Relative", local)):
        switch.select_option(label=mode)
        expect(cell).to_have_text(f"1 row is scheduled for {shown:%Y-%m-%d %H:%M}")


def test_long_values_and_causes_fit_a_narrow_panel(notebook: Callable[..., Any]) -> None:
    """A value without a space wraps; the text of a cause can be read while its rows are tried again."""
    setup = """
import cloudtasks_nb as ct, pandas as pd

def ship(order, number):
    if number % 2:
        raise ValueError("no such place")

tasks = ct.local()
queue = tasks.queue("orders", create=True, min_backoff="600s")
orders = pd.DataFrame({"order": ["x" * 400] * 8, "number": range(8)})
batch = queue.fan_out(orders, url=ct.serve(ship), progress=False)
"""
    board = Board(notebook(setup, "batch.panel()"), tabs=False)
    board.page.set_viewport_size({"width": 700, "height": 1400})
    cause = board.part.get_by_text("no such place").first
    expect(cause).to_be_visible()
    expect(board.part).to_contain_text("4 of 8 done")
    board.part.get_by_text("Slowest rows").click()
    box = cause.bounding_box()
    assert box is not None
    assert box["width"] > 90, "the cause is not cut to nothing"
    assert board.root.evaluate("panel => panel.scrollWidth <= panel.clientWidth + 1")
    tables = board.root.locator("details table")
    assert tables.evaluate("table => table.getBoundingClientRect().right") <= 700

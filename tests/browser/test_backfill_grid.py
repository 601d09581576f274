"""The grid of a backfill: a band for each value, ranges of squares by mouse and keyboard, and what would run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, expect

from tests.browser.board import PANEL, Board

__all__: list[str] = []

SETUP = """
import cloudtasks_nb as ct

broken = {("bern", "2013-02-13"), ("bern", "2013-03-08")}

def report(partition, shop, start=None, end=None):
    if (shop, partition) in broken:
        raise LookupError(f"no sales of {shop} on {partition}")
    return partition

tasks = ct.local()
queue = tasks.queue("reports", create=True, max_attempts=1, rate=500)
report_url = ct.serve(report)
shops = {"shop": ["bern", "basel", "chur"]}
batch = queue.backfill("2012-12-03", "2014-01-31", freq="D", url=report_url, across=shops, name="sales", progress=False)
_ = batch.wait()
"""
#: One more day of chur, which is tried again an hour later.
RETRIED = """
queue.update(max_attempts=5, min_backoff="3600s", max_backoff="3600s")
broken.add(("chur", "2014-02-01"))
_ = queue.backfill("2014-02-01", "2014-02-01", freq="D", url=report_url, across={"shop": ["chur"]}, name="sales",
                   progress=False)
"""


def drag(board: Board, first: Locator, last: Locator) -> None:
    """Press the mouse on a square and release it on another one."""
    first.hover()
    board.page.mouse.down()
    last.hover()
    board.page.mouse.up()


def test_a_range_of_one_shop_is_selected_and_sent_again(notebook: Callable[..., Any]) -> None:
    """From 14 months of three shops to the two failed days of one, sent again; and a preview of what would follow."""
    board = Board(notebook(SETUP, RETRIED, PANEL))
    board.open("Backfill")

    def square(shop: str, day: str) -> Locator:
        return board.part.locator(f'.ctn-calendar button[data-key^="{day}"][data-key$=" {shop}"]')

    grid, selected = board.part.locator(".ctn-calendar").last, board.part.locator(".ctn-selected")
    expect(grid.get_by_role("group", name="bern: 425 rows: 423 succeeded, 2 failed")).to_be_attached()
    expect(grid.get_by_role("group", name="basel: 425 rows: 425 succeeded")).to_be_attached()
    expect(square("chur", "2014-02-01")).to_have_text("↻")
    expect(square("chur", "2014-02-01")).to_have_attribute("aria-label", "chur, 2014-02-01: 1 row: 1 retrying")
    expect(grid.get_by_text("2013", exact=True)).to_have_count(1)
    drag(board, square("bern", "2013-02-01"), square("bern", "2013-03-14"))
    expect(selected).to_have_text("42 days of bern, 2013-02-01 to 2013-03-14: 42 rows: 40 succeeded, 2 failed")
    board.button("Send again (42)").click()
    question = board.part.get_by_role("alertdialog")
    expect(question).to_contain_text("42 rows of 42 days of bern, 2013-02-01 to 2013-03-14 (40 succeeded, 2 failed)")
    question.get_by_role("button", name="Cancel").click()
    square("basel", "2013-03-01").click()
    square("chur", "2013-03-02").click(modifiers=["Shift"])
    expect(selected).to_contain_text("2 days of basel and chur, 2013-03-01 to 2013-03-02")
    board.page.keyboard.press("Escape")
    expect(selected).to_be_empty()
    square("basel", "2013-03-01").focus()
    board.page.keyboard.press("Shift+ArrowRight")
    expect(selected).to_have_text("8 days of basel, 2013-03-01 to 2013-03-08: 8 rows: 8 succeeded")
    board.page.keyboard.press("Escape")
    board.part.get_by_label("failed only").check()
    drag(board, square("bern", "2013-01-07"), square("chur", "2013-05-20"))
    expect(selected).to_have_text("2013-02-13, 2013-03-08 of bern: 2 rows: 2 failed")
    board.book.python("broken.clear()")
    board.button("Send again (2)").click()
    expect(square("bern", "2013-03-08")).to_have_attribute("aria-label", "bern, 2013-03-08: 1 row: 1 succeeded")
    expect(board.part.get_by_label("failed only")).to_be_hidden()
    assert board.book.python("print(batch.progress().failed, int((batch.tasks()['try'] == 2).sum()))") == "0 2"
    board.field("From").fill("2014-01-30")
    board.field("To, included").fill("2014-02-02")
    board.field("Across").fill("shop: basel, chur, zug")
    board.field("URL").fill("report_url")
    board.field("Name").fill("sales")
    expect(board.part).to_contain_text("7 new, 5 exist already (4 succeeded, 1 retrying) and will not be sent again")
    expect(board.part.get_by_title("zug, 2014-01-30: 1 row: 1 new")).to_be_visible()

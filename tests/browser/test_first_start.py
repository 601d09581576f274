"""What helps somebody who knows nothing of queues: few keys from nothing to results, a button where one would stop."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, expect

from tests.browser.board import Board, violations
from tests.browser.test_smoke import FIRST


def test_from_an_empty_panel_to_results_by_keys(notebook: Callable[..., Any]) -> None:
    """In at most 30 keys, also in the dark theme; the focus is always where the next step is."""
    board = Board(notebook(FIRST, "tasks.panel()", dark=True))
    pressed: list[str] = []

    def press(*keys: str) -> None:
        for key in keys:
            board.page.keyboard.press(key)
        pressed.extend(keys)

    def enter(target: Locator) -> None:
        while not target.evaluate("node => node === document.activeElement"):
            press("Tab")
            assert len(pressed) <= 30, pressed
        press("Enter")

    board.root.get_by_role("tab", name="Queues").focus()
    press("ArrowRight", "ArrowRight", "Enter")
    enter(board.root.get_by_role("button", name="Create a queue").locator("visible=true"))
    expect(board.field("Name")).to_be_focused()
    assert violations(board.page, ".ctn-dashboard") == []
    enter(board.button("Create queue"))
    expect(board.field("Data")).to_be_focused()
    press("Tab", "Tab", *"report")
    expect(board.field("Call")).to_have_value("report")
    for button, told in (("Try one row", "'bern: 0'"), ("Plan", "20 tasks")):
        enter(board.button(button, exact=True))
        expect(board.part).to_contain_text(told)
        expect(board.button(button, exact=True)).to_be_focused()
        assert violations(board.page, ".ctn-dashboard") == []
    enter(board.button("Send 20 tasks"))
    expect(board.part).to_contain_text("20 of 20 done")
    assert len(pressed) <= 30, pressed
    assert violations(board.page, ".ctn-dashboard") == []
    board.button("Edit").press("Enter")
    expect(board.field("Data")).to_be_focused()


#: A batch whose queue is paused, and one of which nobody knows what became.
STOPPED = """
queue = tasks.queue("reports", create=True).pause()
held = queue.fan_out(sales, url=ct.serve(report), name="held", progress=False)
silent = tasks.queue("silent", create=True, log_sampling_ratio=0).pause()
lost = silent.fan_out(sales, url="https://svc.example/{shop}", name="lost", progress=False)
"""


def test_a_button_helps_where_the_bar_says_what_is_wrong(notebook: Callable[..., Any]) -> None:
    """A paused queue is resumed; rows of which nobody knows what became are sent again, after a question."""
    board = Board(notebook(FIRST, STOPPED, "tasks.panel()"))
    board.book.until("held.progress().unsent, lost.progress().unsent", "0 0")
    board.book.python("silent.purge()")
    board.book.until("lost.progress().gone", "20")
    board.open("Batches")
    board.rows.filter(has_text="held").click()
    expect(board.part).to_contain_text("the queue reports is paused")
    board.button("Resume the queue").click()
    expect(board.part).to_contain_text("20 of 20 done")
    board.rows.filter(has_text="lost").click()
    again = board.button("Send again (20)").first
    again.scroll_into_view_if_needed()
    place = again.bounding_box()
    again.click()
    question = board.part.get_by_role("alertdialog", name="Send 20 rows of batch")
    send = question.get_by_role("button", name="Send 20 rows again")
    expect(send).to_be_focused()
    assert again.bounding_box() == place, "the question moves nothing"
    assert violations(board.page, "dialog") == []
    board.page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(again).to_be_focused()
    board.page.keyboard.press("Enter")
    expect(send).to_be_focused()
    board.page.keyboard.press("Enter")
    expect(board.status).to_contain_text("20 rows of batch")
    board.book.until("len(silent.tasks())", "20")

"""What a panel and the browser's tab tell: an exception, a kernel that is silent or gone, the end of a batch."""

import os
import re
import signal
from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, expect

from tests.browser.board import EVIL, Board

#: A batch of ten rows that waits; one of them will fail.
SETUP = """
import cloudtasks_nb as ct, pandas as pd

def report(day):
    if day == 7:
        raise KeyError("no data")

tasks = ct.local()
queue = tasks.queue("reports", create=True, max_attempts=1).pause()
batch = queue.fan_out(pd.DataFrame({"day": range(10)}), url=ct.serve(report), progress=False)
"""
#: Keeps the notifications that the page makes.
NOTIFIED = """() => {
  window.notified = [];
  window.Notification = class extends Notification {
    constructor(title, options) { super(title, options); window.notified.push([title, options.body]); }
  };
}"""


def test_what_goes_wrong_is_seen(notebook: Callable[..., Any]) -> None:
    """An exception in a callback, as text until it is dismissed; and a click that the kernel has not heard of yet."""
    book = notebook(SETUP, "panel = tasks.panel(); panel.every = 0; panel")
    book.until("batch.progress().unsent", "0")
    board = Board(book)
    board.open_table("Tasks")
    kernel = int(book.python("import os; print(os.getpid())"))
    book.python(f"panel.parts['Tasks'].actions._run = lambda *_: {{}}['no such <b> {EVIL}']")
    waits, row = board.part.locator(".ctn-waits"), board.rows.first
    os.kill(kernel, signal.SIGSTOP)
    try:
        board.tick(row)
        expect(row).to_have_attribute("aria-selected", "true")
        expect(waits).to_contain_text("No answer from the kernel yet")
    finally:
        os.kill(kernel, signal.SIGCONT)
    expect(waits).to_be_empty()
    board.button("Run now (1)").click()
    alert = board.part.locator(".ctn-error")
    expect(alert).to_contain_text(f"KeyError: 'no such <b> {EVIL}'")
    expect(alert).to_have_attribute("role", "alert")
    alert.get_by_text("Traceback", exact=True).click()
    expect(alert.locator("pre")).to_contain_text("Traceback (most recent call last)")
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_empty()


def test_the_title_tells_the_end_of_a_batch(notebook: Callable[..., Any], context: BrowserContext) -> None:
    """It has the share and the end; without its kernel the panel says what to run, and takes no clicks."""
    context.grant_permissions(["notifications"])
    board = Board(notebook(SETUP, "panel = batch.panel(); panel"), tabs=False)
    page, python = board.page, board.book.python
    page.evaluate(NOTIFIED)
    expect(page).to_have_title(re.compile(r"^paused 0 % · ."))
    own = page.title().partition(" · ")[2]
    python("_ = queue.run(batch.tasks()[:4])")
    expect(page).to_have_title(f"paused 40 % · {own}")
    board.root.get_by_label("Notify me when it ends").check()
    python("_ = queue.resume()")
    expect(page).to_have_title(f"\u2715 1 failed · {own}")
    name = python("print(batch.id)")
    assert page.evaluate("window.notified") == [[f"\u2715 1 failed: batch {name}", "10 rows: 9 succeeded, 1 failed"]]
    page.keyboard.press("Escape")
    expect(page).to_have_title(own)
    python("queue.pause(); _ = batch.retry_failed()")
    expect(page).to_have_title(f"paused 90 % · {own}")
    note = board.root.get_by_role("alert").filter(
        has_text="The kernel was restarted or has ended: run the cells from the top"
    )
    expect(note).to_have_count(0)
    board.book.restart_kernel()
    expect(page).to_have_title(own)
    expect(note).to_be_visible()
    expect(board.root.locator(".ctn-header")).to_have_attribute("inert", "")
    board.book.start()
    board.book.finish()
    expect(note).to_have_count(0)
    expect(page).to_have_title(f"paused 0 % · {own}")
    python("panel.close()")
    expect(page).to_have_title(own)

"""What a notebook shows of a panel without the panel's kernel, and what the browser's tab tells of a batch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.board import Board
from tests.browser.lab import Server, Watch

__all__: list[str] = []

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
#: What JupyterLab has in place of a panel that has no kernel, and while it waits for one.
DEAD, WAITING = "Error displaying widget: model not found", "Loading widget..."
#: Keeps the notifications that the page makes.
NOTIFIED = """() => {
  window.notified = [];
  window.Notification = class extends Notification {
    constructor(title, options) { super(title, options); window.notified.push([title, options.body]); }
  };
}"""


def expect_copies(page: Page, hidden: str | None) -> None:
    """Expect the static copies of two panels with their age; what there is of the widgets is hidden."""
    if hidden is not None:
        expect(page.get_by_text(hidden)).to_have_count(2)
        expect(page.get_by_text(hidden).locator("visible=true")).to_have_count(0)
    copies = page.locator(".jp-RenderedHTMLCommon:visible", has_text="as of 20")
    expect(copies).to_have_count(2)
    expect(copies.first).to_contain_text("UTC; run this cell again for the live panel")
    expect(copies.first).to_contain_text("PAUSED")
    expect(copies.last).to_contain_text("of 10 done")


@pytest.mark.parametrize("classic", [False, True], ids=["lab", "notebook"])
def test_a_saved_notebook_shows_tables(
    notebook: Callable[..., Any], lab: Server, watch: Watch, *, classic: bool
) -> None:
    """With a new kernel, with none, and from somebody who is not trusted: the copies, which the live panels hide."""
    book = notebook(SETUP, "tasks.panel()", "batch.panel()", classic=classic)
    page = book.page
    expect(page.locator(".ctn-panel").first).to_be_visible()
    expect(page.locator("[data-ctn-copy]")).to_have_count(2)
    expect(page.locator("[data-ctn-copy]:visible")).to_have_count(0)
    name = book.save()
    lab.end_kernels()
    lab.visit(page, name, classic=classic)
    expect_copies(page, DEAD)
    if not classic:
        open_without_kernel(lab, page, name, trusted=True)
        expect_copies(page, WAITING)
        open_without_kernel(lab, page, name, trusted=False)
        expect_copies(page, None)
    watch.errors = [error for error in watch.errors if "widget model not found" not in error]


def open_without_kernel(lab: Server, page: Page, name: str, *, trusted: bool) -> None:
    """Open a notebook of a kernel that is not installed, and go on without one."""
    path = lab.notebooks / f"{trusted}-{name}"
    book = json.loads((lab.notebooks / name).read_text(encoding="utf-8"))
    book["metadata"]["kernelspec"] = {"name": "gone", "display_name": "Gone", "language": "gone"}
    del book["metadata"]["language_info"]
    path.write_text(json.dumps(book), encoding="utf-8")
    if trusted:
        data = lab.folder / "data"
        files = {"db_file": str(data / "nbsignatures.db"), "secret_file": str(data / "notebook_secret")}
        notary = NotebookNotary(**files)  # type: ignore[no-untyped-call]  # nbformat is typed in part
        notary.sign(nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]  # nbformat is typed in part
    page.goto(f"{lab.url}lab/tree/{path.name}?token={lab.token}")
    page.locator(".jp-Dialog select").select_option(label="No Kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()


def test_a_panel_says_that_its_kernel_was_restarted(notebook: Callable[..., Any]) -> None:
    """It names the cell to run, and takes no clicks; the new panel lives."""
    board = Board(notebook(SETUP, "tasks.panel()"))
    expect(board.row("reports")).to_contain_text("PAUSED")
    note = board.root.get_by_role("alert").filter(has_text="The kernel was restarted or has ended: run cell [2] again.")
    expect(note).to_have_count(0)
    board.book.restart_kernel()
    expect(note).to_be_visible()
    expect(board.root.locator(".ctn-header")).to_have_attribute("inert", "")
    board.book.start()
    board.book.finish()
    expect(note).to_have_count(0)
    board.button("Resume").click()
    expect(board.row("reports")).to_contain_text("RUNNING")


def test_the_tab_of_the_browser_tells_the_end_of_a_batch(notebook: Callable[..., Any], context: BrowserContext) -> None:
    """The title has the share and the end, whatever shows the batch, and is as before when nobody looks."""
    context.grant_permissions(["notifications"])
    board = Board(notebook(SETUP, "panel = batch.panel(); panel"))
    page, python = board.page, board.book.python
    page.evaluate(NOTIFIED)
    expect(page).to_have_title(re.compile(r"^0 % · ."))
    own = page.title().partition(" · ")[2]
    python("_ = queue.run(batch.tasks()[:4])")
    expect(page).to_have_title(f"40 % · {own}")
    board.root.get_by_label("Notify me when it ends").check()
    python("_ = queue.resume()")
    expect(page).to_have_title(f"\u2715 1 failed · {own}")
    name = python("print(batch.id)")
    assert page.evaluate("window.notified") == [[f"\u2715 1 failed: batch {name}", "10 rows: 9 succeeded, 1 failed"]]
    page.keyboard.press("Escape")
    expect(page).to_have_title(own)
    python("queue.pause(); _ = batch.retry_failed()")
    expect(page).to_have_title(f"90 % · {own}")
    python("panel.close()")
    expect(page).to_have_title(own)
    python("from IPython.display import display; display(batch)")
    expect(page).to_have_title(f"90 % · {own}")
    board.book.restart_kernel()
    expect(page).to_have_title(own)

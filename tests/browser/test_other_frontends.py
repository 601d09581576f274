"""The dashboard where JupyterLab is not: in Notebook 7, and under Voilà; and the start page of `make lab`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.board import PANEL, Board
from tests.browser.lab import SETTINGS, Server, Watch
from tests.browser.test_smoke import ALL_SENT, DEAD, SETUP, WAITING

#: A batch that has ended: two of its rows failed.
ENDED = "_ = batch.wait(); queue.pause()"


def test_in_notebook_7(notebook: Callable[..., Any], lab: Server, watch: Watch) -> None:
    """It is live, keys stay in the panel, a task is run; when saved, a static copy is there without the kernel."""
    board = Board(notebook(SETUP, WAITING, PANEL, classic=True))
    page = board.page
    expect(page).to_have_title(re.compile("^[0-9a-f]+$"))
    board.book.until(*ALL_SENT)
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    board.open_table("Tasks")
    name = board.keys[3]
    board.row(name).click()
    for key in ("d", "d", "x", "a", "b", "Control+a"):
        page.keyboard.press(key)
    expect(board.part.locator('tr[aria-selected="true"]')).to_have_count(20)
    board.button("Clear").click()
    board.tick(board.row(name))
    board.button("Run now (1)").click()
    expect(board.status).to_have_text("ran 1 task of reports")
    board.book.until(f"queue.attempts().task.tolist() == [{name!r}]", "True")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    expect(page.locator("[data-ctn-copy]")).to_be_hidden()
    saved = board.book.save()
    lab.end_kernels()
    lab.visit(page, saved, classic=True)
    expect(page.get_by_text(DEAD)).to_be_hidden()
    expect(page.locator(".jp-RenderedHTMLCommon:visible", has_text="as of 20")).to_contain_text("PAUSED")
    watch.errors = [error for error in watch.errors if "widget model not found" not in error]


def test_under_voila(voila: Callable[..., Page]) -> None:
    """As a page of its own: a task is run in the dashboard; in the calendar of a batch a day is sent again."""
    month = 'queue.backfill("2013-02-01", "2013-02-28", freq="D", url=report_url, progress=False)'
    serve = "report_url = ct.serve(lambda partition, **period: report(partition)); queue.resume()"
    mended = "broken.clear(); queue.enqueue(handler, {'day': 1}, task_id='mail')"
    page = voila(SETUP, f"{serve}\nbatch = {month}\n{ENDED}\n{mended}", "tasks.panel()", "batch.panel()")
    board, calendar = page.locator(".ctn-dashboard"), page.locator(".ctn-panel").last
    board.get_by_role("tab", name="Tasks").click()
    board.locator('tr[data-key="mail"] .ctn-mark').click()
    board.get_by_role("button", name="Run now (1)").click()
    expect(board.locator(".ctn-panel:visible .ctn-status")).to_have_text("ran 1 task of reports")
    calendar.locator('.ctn-calendar button[data-key^="2013-02-13"]').click()
    calendar.get_by_role("button", name="Send again (1)").click()
    expect(calendar.locator(".ctn-status")).to_contain_text("1 row of batch")
    expect(calendar.locator(".ctn-calendar button", has_text="✕")).to_have_count(0)


def test_the_start_page_of_make_lab(context: BrowserContext, tmp_path: Path) -> None:
    """It is shown as a page and not as text, and a click on the first notebook opens that."""
    notebooks = Path(__file__).parents[2] / "notebooks"
    makefile = (notebooks.parent / "Makefile").read_text(encoding="utf-8")
    assert "--LabApp.app_settings_dir='$(CURDIR)/notebooks/.lab'" in makefile
    (place,) = re.findall(r"--LabApp\.default_url=/(\S+)", makefile)
    viewers = json.loads((notebooks / ".lab/overrides.json").read_text(encoding="utf-8"))
    (plugin,) = viewers
    with Server(tmp_path, SETTINGS | {plugin: SETTINGS[plugin] | viewers[plugin]}) as server:
        for name in ("README.md", "01_quickstart.ipynb"):
            shutil.copy(notebooks / name, server.notebooks)
        page = context.new_page()
        page.goto(f"{server.url}{place}?token={server.token}")
        shown = page.locator(".jp-MarkdownViewer")
        expect(shown.get_by_role("heading", name="Tutorials: start here")).to_be_visible()
        shown.get_by_role("link", name="01_quickstart").click()
        expect(page.locator(".jp-Notebook h1")).to_contain_text("Quickstart")
        page.close()
        server.end_kernels()

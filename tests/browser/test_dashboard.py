"""The dashboard as an analyst uses it: in a real JupyterLab on the embedded emulator, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.board import CONTRAST, EVIL, PANEL, Board

__all__: list[str] = []

#: A queue of 2,000 tasks that waits, and a handler that fails on every seventh.
SETUP = """
import cloudtasks_nb as ct, pandas as pd, time

def report(day):
    if day % 7 == 0:
        raise KeyError(f"no data for day {day} <img src=x onerror=window.pwned=1>")
    return day

tasks = ct.local()
handler = ct.serve(report)
queue = tasks.queue("reports", create=True, max_attempts=3, min_backoff="600s").pause()
batch = queue.fan_out(pd.DataFrame({"day": range(2000)}), url=handler, progress=False)
while batch.progress().unsent:
    time.sleep(0.05)
"""
RUNNING = """(code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  window.cellEnded = false;
  kernel.requestExecute({ code }).done.then(() => (window.cellEnded = true));
}"""


@pytest.fixture
def board(notebook: Callable[..., Any]) -> Board:
    """Open the dashboard on a queue of 2,000 tasks."""
    return Board(notebook(SETUP, PANEL))


def test_filter_select_run_and_see_them_go(board: Board) -> None:
    """Of 2,000 tasks three are found, selected and run; they leave the list by themselves."""
    board.open_table("Tasks")
    expect(board.part).to_contain_text("2,000 loaded")
    ids = board.book.python("print(*batch.tasks().task[[10, 20, 30]])").split()
    find = board.part.get_by_placeholder("Find in")
    find.fill(ids[0][:10])
    expect(board.rows).to_have_count(1)
    board.row(ids[0]).click()
    expect(board.part.locator(".ctn-card")).to_contain_text(ids[0])
    expect(board.row(ids[0])).to_have_attribute("aria-current", "true")
    expect(board.button("Delete")).to_be_disabled()
    for name in ids:
        find.fill(name[:10])
        board.tick(board.row(name))
    expect(board.button("Run now (3)")).to_be_enabled()
    find.fill("")
    board.button("Run now (3)").click()
    expect(board.status).to_have_text("ran 3 tasks of reports")
    expect(board.line).to_contain_text('tasks.queue("reports").run(["')
    for name in ids:
        find.fill(name[:10])
        expect(board.rows).to_have_count(0)


def test_pause_resume_and_purge(board: Board) -> None:
    """The state follows each click; a purge wants the queue's name, and Escape leaves it."""
    row = board.row("reports")
    expect(row).to_contain_text("PAUSED")
    board.book.python("queue.update(rate=0.1)")
    board.button("Resume").click()
    expect(row).to_contain_text("RUNNING")
    board.button("Pause").click()
    expect(row).to_contain_text("PAUSED")
    expect(board.line).to_have_text('tasks.queue("reports").pause()')
    board.button("Purge", exact=True).click()
    question = board.part.get_by_role("alertdialog", name="Purge the queue reports?")
    field = question.get_by_role("textbox", name="Type reports to confirm")
    yes = question.get_by_role("button", name="Purge about")
    expect(field).to_be_focused()
    expect(yes).to_be_disabled()
    board.page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(board.button("Purge", exact=True)).to_be_focused()
    board.page.keyboard.press("Enter")
    field.fill("report")
    expect(yes).to_be_disabled()
    field.fill("reports")
    yes.click()
    expect(board.status).to_have_text("purged reports")
    expect(row.locator("td").nth(3)).to_have_text("0")
    assert board.book.python("print(len(queue.tasks()))") == "0"


def test_limits_are_edited(board: Board) -> None:
    """The change is shown as a line of Python, and the queue has it afterwards."""
    board.button("Edit limits").click()
    expect(board.part.get_by_role("textbox", name="Dispatches a second")).to_be_focused()
    board.part.get_by_role("textbox", name="Running at once").fill("4")
    expect(board.line).to_have_text('tasks.queue("reports").update(max_concurrent=4)')
    board.button("Save limits").click()
    expect(board.status).to_contain_text("max_concurrent 1000 \u2192 4")
    assert board.book.python("print(tasks.queues().max_concurrent['reports'])") == "4"


def test_a_failing_handlers_error_is_two_clicks_away(board: Board) -> None:
    """One click opens the tab, one the attempt with status and traceback, which is text."""
    board.book.python("queue.run(queue.tasks(limit=None)[:40])")
    board.root.get_by_role("tab", name="Attempts").click()
    board.rows.filter(has_text="NOT_FOUND").first.click()
    card = board.part.locator(".ctn-card")
    expect(card).to_contain_text("NOT_FOUND")
    expect(card).to_contain_text("raise KeyError")
    expect(card).to_contain_text("<img src=x")
    expect(card.locator("pre")).to_be_in_viewport()
    assert board.page.evaluate("window.pwned") is None


def test_read_only_shows_no_button_that_changes_anything(notebook: Callable[..., Any]) -> None:
    """No button of any tab changes anything."""
    board = Board(notebook(SETUP, "panel = tasks.panel(read_only=True); panel"))
    board.book.python("queue.run(queue.tasks(limit=None)[:1])")
    board.book.until("len(queue.attempts())", "1")  # or the first row may be a task that is about to go
    harmless = {"Refresh", "Copy", "Clear", "Load more", "Load all", "Copy as curl", "Copy as JSON", "Copy as Python"}
    harmless |= {"First page", "Previous page", "Next page", "Previous 1,000", "Next 1,000"}
    for tab in board.root.get_by_role("tab").all_inner_texts():
        board.open_table(tab)
        board.rows.first.click()
        board.book.until(f"panel.parts[{tab!r}].table.current is not None", "True")
        board.at_rest()
        buttons = board.root.locator("button:visible:not(.ctn-pick)")  # which only filters rows
        names = set(buttons.all_inner_texts()) - {""}
        assert {name for name in names if not name.startswith("Select all")} <= harmless
    expect(board.root).to_contain_text("read-only")


def test_an_exception_in_a_callback_is_seen(board: Board) -> None:
    """The panel shows it with its traceback until it is dismissed."""
    board.open_table("Tasks")
    board.book.python(f"panel.parts['Tasks'].actions._run = lambda *_: {{}}['no such <b> {EVIL}']")
    board.tick(board.rows.first)
    board.button("Run now (1)").click()
    alert = board.part.locator(".ctn-error")
    expect(alert).to_contain_text(f"KeyError: 'no such <b> {EVIL}'")
    expect(alert).to_have_attribute("role", "alert")
    alert.get_by_text("Traceback", exact=True).click()
    expect(alert.locator("pre")).to_contain_text("Traceback (most recent call last)")
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_empty()
    assert board.page.evaluate("window.pwned") is None


#: Writes down every depth that is shown until the cell has ended.
NOTE_DEPTHS = """() => {
  window.depths = new Set();
  const note = () => window.cellEnded || window.depths.add(document.querySelector('.ctn-depth b')?.textContent);
  new MutationObserver(note).observe(document.querySelector('.ctn-dashboard'), { childList: true, subtree: true });
}"""


def assert_falling(page: Page) -> None:
    """Check that the depth was seen to fall again and again until the cell ended."""
    page.wait_for_function("() => window.cellEnded")
    seen = [int(text.replace(",", "")) for text in page.evaluate("[...window.depths]") if text]
    assert len(seen) >= 5
    assert seen == sorted(seen, reverse=True)


def test_a_sleeping_cell_does_not_freeze_the_figures(board: Board) -> None:
    """While a cell sleeps ten seconds the shown depth goes on falling."""
    board.book.python("queue.update(rate=20).resume()")
    expect(board.part.locator(".ctn-depth b")).not_to_have_text("2,000")
    board.page.evaluate(NOTE_DEPTHS)
    board.page.evaluate(RUNNING, "import time; time.sleep(10)")
    assert_falling(board.page)


def test_a_panel_is_live_though_the_kernel_is_busy_from_the_start(notebook: Callable[..., Any]) -> None:
    """All cells run at once and the last one sleeps, so that the browser cannot report that the panel is visible."""
    resume = "queue.update(rate=20).resume()"
    book = notebook(f"{SETUP}\n{resume}", PANEL, "time.sleep(10)", wait=False)
    book.page.evaluate("() => { window.cellsRan.then(() => (window.cellEnded = true)); }")
    book.page.locator(".ctn-dashboard").wait_for()
    book.page.evaluate(NOTE_DEPTHS)
    assert_falling(book.page)


def test_payloads_are_text(notebook: Callable[..., Any]) -> None:
    """Markup in a header, a body, a URL and a log entry is shown as text."""
    evil = f"""
import cloudtasks_nb as ct
evil = {EVIL!r}
tasks = ct.local()

def refuse(**body):
    raise ValueError(evil)

queue = tasks.queue("reports", create=True, max_attempts=1).pause()
headers = {{"X-Note": evil, "Authorization": "Bearer secret"}}
handler = ct.serve(refuse)
queue.enqueue(handler, {{"x": evil}}, headers=headers, task_id="t1")
queue.enqueue(handler.url + "?q=" + evil.replace(" ", "+"), evil, task_id="t2")
"""
    board = Board(notebook(evil, PANEL))
    board.open_table("Tasks")
    card = board.part.locator(".ctn-card")
    board.row("t1").click()
    expect(card).to_contain_text(f'"x": "{EVIL}"')
    expect(card).to_contain_text(f"X-Note{EVIL}")
    expect(card).to_contain_text("Authorization•••")
    board.row("t2").click()
    expect(card.locator("pre")).to_have_text(EVIL)
    board.book.python('queue.run(["t1", "t2"])')
    board.open_table("Attempts")
    board.rows.filter(has_text="q=").first.click()  # the message of the other one has markup too
    expect(card.last).to_contain_text("<img+src=x")
    board.rows.filter(has_not_text="q=").first.click()
    expect(card.last).to_contain_text(f"ValueError: {EVIL}")
    assert board.page.locator(".ctn-dashboard img").count() == 0
    assert board.page.evaluate("window.pwned") is None


def test_by_keyboard_alone(board: Board) -> None:
    """A task is run by keyboard alone; keys do not reach the cells, and the focus is never lost."""
    page, press = board.page, board.page.keyboard.press
    cells = page.locator(".jp-Notebook .jp-Cell").count()

    def tab_to(target: Locator, key: str = "Tab") -> None:
        for _ in range(60):
            if target.count() and target.evaluate("node => node === document.activeElement"):
                return
            press(key)
        pytest.fail(f"{key} does not reach {target}")

    page.locator(".jp-Notebook").focus()
    tab_to(board.root.get_by_role("tab", name="Queues"))
    press("ArrowRight")
    press("Enter")
    board.rows.nth(49).wait_for()
    tab_to(board.rows.first)
    press("ArrowDown")
    press(" ")
    name = board.keys[1]
    expect(board.button("Run now (1)")).to_be_enabled()
    press("d")
    press("d")
    tab_to(board.button("Run now (1)"), "Shift+Tab")
    press("Enter")
    expect(board.status).to_have_text("ran 1 task of reports")
    board.book.until(f"queue.attempts().task.tolist().count({name!r})", "1")
    assert page.evaluate("document.querySelector('.ctn-dashboard').contains(document.activeElement)")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


def test_it_lives_on_after_the_emulator_has_restarted(notebook: Callable[..., Any], tmp_path: Path) -> None:
    """Without an emulator the panel shows a warning and the last figures; then it goes on by itself."""
    setup = f"""
import cloudtasks_nb as ct, json, os, signal, pathlib
folder = pathlib.Path({str(tmp_path)!r}) / "emulator"
tasks = ct.local(folder)
queue = tasks.queue("reports", create=True).pause()
queue.enqueue("http://127.0.0.1:9/")
"""
    board = Board(notebook(setup, PANEL))
    expect(board.row("reports")).to_contain_text("PAUSED")
    where = board.book.python("print((folder / 'endpoint.json').read_text())")
    assert "pid" in where
    board.book.python("os.kill(json.loads((folder / 'endpoint.json').read_text())['pid'], signal.SIGKILL)")
    trouble = board.part.locator(".ctn-warning")
    expect(trouble).not_to_be_empty()
    expect(board.row("reports")).to_contain_text("PAUSED")
    error = board.part.locator(".ctn-error")
    board.button("Resume").click()
    expect(error).to_contain_text("nothing answers at")
    port = board.book.python("print(tasks.endpoint.rpartition(':')[2])")
    board.book.python(
        f"""import subprocess, sys
command = [sys.executable, "-m", "cloudtasks_nb.emulator", "--port", "{port}", "--http-port", "0"]
again = subprocess.Popen([*command, "--data-dir", str(folder)], stdout=subprocess.PIPE)
assert again.stdout.readline()"""
    )
    expect(trouble).to_be_empty()
    expect(error).to_be_empty()
    expect(board.status).to_contain_text("The service answers again. Before: nothing answers at")
    board.button("Resume").click()
    expect(board.row("reports")).to_contain_text("RUNNING")
    board.book.python("again.terminate(); again.wait()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read_in_both_themes(
    notebook: Callable[..., Any], screenshot: Callable[[Page, str], Path], *, dark: bool
) -> None:
    """Text of every tab has enough contrast."""
    board = Board(notebook(SETUP, PANEL, dark=dark))
    board.book.python("queue.run(queue.tasks(limit=40))")
    board.book.until("len(queue.attempts())", "40")  # or the first row may be a task that is about to go
    board.page.set_viewport_size({"width": 1000, "height": 1100})
    for tab in ("Queues", "Tasks", "Attempts"):
        board.open_table(tab)
        board.rows.first.click()
        expect(board.part.get_by_role("group").last).to_be_visible()
        board.root.scroll_into_view_if_needed()
        screenshot(board.page, tab)
        for selector in (
            ".lm-TabBar-tabLabel",
            ".ctn-badge",
            'button:enabled:not([aria-disabled="true"])',
            "label",
            "h4, b, [role=heading]",
            ".ctn-card [style*=opacity]",
        ):
            assert_readable(board.root, selector)
        assert_readable(board.part, ".ctn-quiet, .ctn-age, .ctn-line code, .ctn-copy, td, th")


def assert_readable(part: Locator, selector: str) -> None:
    """Check the contrast of the visible elements of a part of the page that match a CSS selector."""
    # In one script: `Locator.evaluate_all` finds the elements in another one, and a refresh between the two replaces
    # them, so that none is visible.
    measure = f"""(part, selector) => [...part.querySelectorAll(selector)]
        .filter((node) => node.offsetParent && node.innerText.trim())
        .map((node) => [node.innerText, ({CONTRAST})(node)])"""
    seen = part.evaluate(measure, selector)
    assert seen
    assert [words for words, contrast in seen if contrast < 4.5] == []


def test_under_voila(voila: Callable[..., Page], screenshot: Callable[[Page, str], Path]) -> None:
    """The same dashboard as a page of its own: it shows the queues, and a task is run."""
    page = voila(SETUP, PANEL)
    root = page.locator(".ctn-dashboard")
    expect(root.locator('tr[data-key="reports"]')).to_contain_text("PAUSED")
    root.get_by_role("tab", name="Tasks").click()
    row = root.locator(".ctn-panel:visible tr[data-key]").first
    row.locator(".ctn-mark").click()
    root.get_by_role("button", name="Run now (1)").click()
    expect(root.locator(".ctn-panel:visible .ctn-status")).to_have_text("ran 1 task of reports")
    screenshot(page, "voila")


def test_in_notebook_7(notebook: Callable[..., Any], screenshot: Callable[[Page, str], Path]) -> None:
    """The same dashboard there: it is live, a task is found and run, and keys stay in the panel."""
    board = Board(notebook(SETUP, PANEL, classic=True))
    expect(board.page).to_have_title(re.compile("^[0-9a-f]+$"))
    cells = board.page.locator(".jp-Notebook .jp-Cell").count()
    expect(board.row("reports")).to_contain_text("PAUSED")
    board.button("Resume").click()
    expect(board.row("reports")).to_contain_text("RUNNING")
    board.button("Pause").click()
    expect(board.row("reports")).to_contain_text("PAUSED")
    board.book.until("int(tasks.queues().running['reports'])", "0")  # or a row may be a task that is about to go
    board.open_table("Tasks")
    name = board.keys[3]
    board.row(name).click()
    for key in ("d", "d", "x", "a", "b", "Control+a"):
        board.page.keyboard.press(key)
    expect(board.part.locator('tr[aria-selected="true"]')).to_have_count(50)
    board.button("Clear").click()
    board.tick(board.row(name))
    screenshot(board.page, "notebook-7")
    board.button("Run now (1)").click()
    expect(board.status).to_have_text("ran 1 task of reports")
    board.book.until(f"{name!r} in set(queue.attempts(limit=None).task)", "True")  # many ran while it was resumed
    assert board.page.locator(".jp-Notebook .jp-Cell").count() == cells

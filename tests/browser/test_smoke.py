"""A dozen journeys: an empty panel, each tab, keys, the dark theme, a saved notebook, a running cell, the console.

``make test`` runs these of the tests in a browser. Each opens one page and does several things there.
"""

import json
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.board import EVIL, PANEL, Board, violations
from tests.browser.console import OTHER, QUEUE, assert_headings, check_console, create, open_console, rows
from tests.browser.lab import Server, Watch
from tests.integration.conftest import Answer, Emulator, Target

#: A queue that waits, and a handler: it fails on days that are broken, and holds up what follows its first 20 calls.
SETUP = """
import cloudtasks_nb as ct, itertools, pandas as pd, threading

broken, go_on, calls = {7, 14, "2013-02-13", "2013-03-08"}, threading.Event(), itertools.count()
go_on.set()

def report(day, origin="", note=""):
    if next(calls) >= 20:
        go_on.wait(600)
    if day in broken:
        raise KeyError(f"no data for {day} <img src=x onerror=console.error(1)>")
    return day

tasks = ct.local()
queue = tasks.queue("reports", create=True, max_attempts=1, rate=500).pause()
handler = ct.serve(report)
days = pd.DataFrame({"day": range(60), "origin": "JFK", "note": "<img src=x onerror=console.error(1)>"})
"""
#: Rows that wait in the queue.
WAITING = 'batch = queue.fan_out(days, url=handler, name="days", progress=False)'
#: A task whose request has secrets and markup.
MAIL = """
headers = {"X-Note": "<img src=x onerror=console.error(1)>", "Authorization": "Bearer s3cr3t"}
_ = queue.enqueue("http://127.0.0.1:9/run", {"to": 1, "token": "s3cr3t"}, headers=headers, task_id="mail")
"""
#: What somebody has who knows nothing of queues: a function and a DataFrame.
FIRST = """
import pandas as pd
import cloudtasks_nb as ct

def report(shop, amount):
    return f"{shop}: {amount}"

tasks = ct.local()
sales = pd.DataFrame({"shop": ["bern", "oslo", "wien", "bonn"] * 5, "amount": range(20)})
"""
ALL_SENT = ("batch.progress().unsent", "0")
#: By the clock of the page each answer of the kernel takes hours.
LATE = "() => { let now = 0; performance.now = () => (now += 3600_000); }"


def test_queues(notebook: Callable[..., Any]) -> None:
    """Limits are edited; the state follows each click; a purge wants the queue's name, and Escape leaves it."""
    board = Board(notebook(SETUP, WAITING, PANEL))
    press = board.page.keyboard.press
    board.page.evaluate(LATE)
    board.button("Edit limits").click()
    expect(board.field("Dispatches a second")).to_be_focused()
    board.field("Dispatches a second").fill("0.1")
    board.field("Running at once").fill("4")
    expect(board.line).to_have_text('tasks.queue("reports").update(rate=0.1, max_concurrent=4)')
    board.button("Save limits").click()
    expect(board.status).to_contain_text("max_concurrent 1000 → 4")
    expect(board.part.get_by_role("img", name="depth of reports")).to_be_visible()
    row = board.row("reports")
    board.button("Resume").click()
    expect(row).to_contain_text("RUNNING")
    board.button("Pause").click()
    expect(row).to_contain_text("PAUSED")
    purge = board.button("Purge", exact=True)
    purge.click()
    question = board.part.get_by_role("alertdialog", name="Purge the queue reports?")
    field = question.get_by_role("textbox", name="Type reports to confirm")
    expect(field).to_be_focused()
    press("Escape")
    expect(question).to_be_hidden()
    expect(purge).to_be_focused()
    press("Enter")
    expect(field).to_be_focused()
    field.fill("report")
    expect(question.get_by_role("button", name="Purge about")).to_be_disabled()
    field.fill("reports")
    question.get_by_role("button", name="Purge about").click()
    expect(board.status).to_have_text("purged reports")
    expect(row.locator("td").nth(3)).to_have_text("0")
    board.check()


def test_tasks(notebook: Callable[..., Any]) -> None:
    """Tasks are found, selected and run, and leave the list; one is copied, edited and sent again, with its secret."""
    book = notebook(SETUP, WAITING, MAIL, PANEL)
    book.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    book.until(*ALL_SENT)
    board = Board(book)
    board.open_table("Tasks")
    expect(board.part).to_contain_text("61 loaded")
    find = board.part.get_by_placeholder("Find in")
    names = book.python("print(*batch.tasks().task[[10, 20, 30]])").split()
    for name in names:
        find.fill(name[:10])
        expect(board.rows).to_have_count(1)
        board.tick(board.row(name))
    board.button("Run now (3)").click()
    expect(board.status).to_have_text("ran 3 tasks of reports")
    for name in names:
        find.fill(name[:10])
        expect(board.rows).to_have_count(0)
    find.fill("mail")
    board.row("mail").click()
    card = board.part.get_by_role("group", name="task mail")
    expect(card).to_contain_text(f"X-Note{EVIL}")
    expect(card).to_contain_text("Authorization•••")
    for words, copied in (("curl", "curl -X POST"), ("JSON", '"token": "•••"'), ("Python", 'getpass.getpass("token")')):
        board.button(f"Copy as {words}").click()
        board.page.wait_for_function(
            "async (text) => (await navigator.clipboard.readText()).includes(text)", arg=copied
        )
    board.check()
    board.button("Edit and send again").click()
    expect(board.field("Call")).to_be_focused()
    board.field("Body").fill('{"to": 7, "token": "•••"}')
    board.field("Delay").fill("10min")
    board.button("Send new task").click()
    expect(board.status).to_contain_text("created task")
    made = "queue.tasks(body=True, secrets=True).query('state == \"scheduled\"').body.tolist()"
    book.until(made, "[{'to': 7, 'token': 's3cr3t'}]")


#: Counts the clicks in a page.
COUNT_CLICKS = "() => { window.clicks = 0; addEventListener('pointerdown', () => (window.clicks += 1), true); }"


def test_from_an_empty_panel_to_results(notebook: Callable[..., Any]) -> None:
    """By mouse, in at most 12 clicks: create a queue, choose data and function, try one row, plan, send."""
    board = Board(notebook(FIRST, "tasks.panel()"))
    board.page.evaluate(COUNT_CLICKS)
    board.root.get_by_role("tab", name="Fan out").click()
    board.root.get_by_role("button", name="Create a queue").locator("visible=true").click()
    expect(board.field("Name")).to_have_value("reports")
    expect(board.part.locator(".ctn-editor")).to_contain_text("max_attempts=5")
    assert violations(board.page, ".ctn-dashboard") == []
    board.button("Create queue").click()
    expect(board.field("Data")).to_have_value("sales  (20 rows, 2 columns)")
    expect(board.status).to_contain_text("made queue reports with log_sampling_ratio=1.0")
    board.field("Call").click()
    board.field("Call").fill("report  (a function of this notebook)")  # as a click on what is offered does
    expect(board.field("Call")).to_have_value("report")
    board.button("Try one row").click()
    expect(board.part).to_contain_text("'bern: 0'")
    board.field("Duration").click()
    board.page.keyboard.type("1s")
    board.button("Plan", exact=True).click()
    expect(board.part).to_contain_text("ends after about")
    assert violations(board.page, ".ctn-dashboard") == []
    board.button("Send 20 tasks").click()
    expect(board.part).to_contain_text("20 of 20 done")
    assert board.page.evaluate("window.clicks") + 1 <= 12, "with the click on what is offered"
    expect(board.field("Call")).to_have_count(0)
    top, card = board.part.bounding_box(), board.part.locator(".ctn-card").first.bounding_box()
    assert top is not None
    assert card is not None
    assert card["y"] - top["y"] < 100, "the batch stands below the line of the form"
    expect(board.rows.first).to_contain_text("bern: 0")
    assert violations(board.page, ".ctn-dashboard") == []


#: A quarter of three shops; two days of one of them failed.
QUARTER = """
shops = {"origin": ["bern", "basel", "chur"]}
report_url = ct.serve(lambda partition, origin, **period: report(partition if origin == "bern" else 0), name="shops")
batch = queue.resume().backfill(
    "2013-01-01", "2013-03-31", freq="D", url=report_url, across=shops, name="sales", progress=False)
_ = batch.wait()
"""


def test_backfill(notebook: Callable[..., Any]) -> None:
    """In the grid of a backfill, ranges are selected by mouse and keyboard; failed days of one shop are sent again."""
    board = Board(notebook(SETUP, QUARTER, "panel = tasks.panel(); panel.every = 0; panel"))
    press = board.page.keyboard.press
    board.open("Backfill")

    def square(shop: str, day: str) -> Locator:
        return board.part.locator(f'.ctn-calendar button[data-key^="{day}"][data-key$=" {shop}"]')

    def drag(first: Locator, last: Locator) -> None:
        first.hover()
        board.page.mouse.down()
        last.hover()
        board.page.mouse.up()

    def focused() -> str:
        return str(board.page.evaluate("document.activeElement.dataset.key ?? ''"))[:10]

    grid, selected = board.part.locator(".ctn-calendar").last, board.part.locator(".ctn-selected")
    expect(grid.get_by_role("group", name="bern: 90 rows: 88 succeeded, 2 failed")).to_be_attached()
    drag(square("bern", "2013-02-01"), square("bern", "2013-03-14"))
    expect(selected).to_have_text("42 days of bern, 2013-02-01 to 2013-03-14: 42 rows: 40 succeeded, 2 failed")
    square("basel", "2013-03-01").click()
    square("chur", "2013-03-02").click(modifiers=["Shift"])
    press("Escape")
    expect(selected).to_be_empty()
    square("bern", "2013-01-01").focus()
    for key, day in (("ArrowRight", "08"), ("ArrowUp", "07"), ("Home", "01"), ("ArrowDown", "02"), ("ArrowLeft", "02")):
        press(key)
        assert focused() == f"2013-01-{day}"
    press("Shift+ArrowRight")
    expect(selected).to_have_text("8 days of bern, 2013-01-02 to 2013-01-09: 8 rows: 8 succeeded")
    assert board.part.locator('.ctn-calendar button[tabindex="0"]').count() == 1
    board.check()
    press("Escape")
    board.part.get_by_label("failed only").check()
    drag(square("bern", "2013-01-07"), square("chur", "2013-03-20"))
    expect(selected).to_have_text("2013-02-13, 2013-03-08 of bern: 2 rows: 2 failed")
    board.book.python("broken.clear()")
    board.button("Send again (2)").click()
    board.book.python("panel.every = 1")
    expect(square("bern", "2013-03-08")).to_have_attribute("aria-label", "bern, 2013-03-08: 1 row: 1 succeeded")
    expect(board.part.get_by_label("failed only")).to_be_hidden()
    board.book.until("batch.progress().failed, int((batch.tasks()['try'] == 2).sum())", "0 2")


def test_batches(notebook: Callable[..., Any]) -> None:
    """From the list to the charts and failed rows of a batch; a retry by keys, a cancel by typing the batch's id."""
    ended = "queue.resume(); batch.wait(); queue.pause()"
    later = 'late = queue.fan_out(days, url="https://svc/{day}", name="late", progress=False)'
    board = Board(notebook(SETUP, WAITING, f"{ended}\n{later}", PANEL))
    board.book.until("late.progress().unsent", "0")
    board.open("Batches")
    rows = board.part.locator(".ctn-scroll").first.locator("tr[data-key]")
    rows.filter(has_text="days").click()
    expect(board.part).to_contain_text("2 failed rows")
    expect(board.part.get_by_role("img", name="attempts over time: 58 succeeded, 2 failed")).to_be_visible()
    expect(board.part.get_by_role("img", name="durations of 60 attempts")).to_be_visible()
    board.check()
    board.book.python("broken.clear()")
    again = rows.get_by_role("button", name="Retry failed")
    rows.filter(has_text="days").focus()
    board.page.keyboard.press("Tab")
    expect(again).to_be_focused()
    board.page.keyboard.press("Enter")
    expect(board.status).to_contain_text("will be tried again")
    board.book.python("panel.every = 1")
    rows.filter(has_text="late").click()
    board.button("Cancel rest (60)").click()
    question = board.part.get_by_role("alertdialog")
    expect(question.get_by_role("button", name="Cancel 60 rows")).to_be_disabled()
    question.get_by_role("textbox").fill(board.book.python("print(late.id)"))
    question.get_by_role("button", name="Cancel 60 rows").click()
    expect(board.part).to_contain_text("60 of 60 done")
    board.book.until("len(queue.tasks())", "2")


def test_attempts(notebook: Callable[..., Any]) -> None:
    """What a handler raised is two clicks away, as text: one opens the tab, one the attempt with its traceback."""
    board = Board(notebook(SETUP, "days = days[:15]", WAITING, "queue.resume(); _ = batch.wait()", PANEL))
    board.root.get_by_role("tab", name="Attempts").click()
    board.page.evaluate(LATE)
    board.rows.filter(has_text="no data for 7").click()
    card = board.part.locator(".ctn-card")
    expect(card).to_contain_text("INTERNAL")
    expect(card).to_contain_text("raise KeyError")
    expect(card).to_contain_text(f"no data for 7 {EVIL}")
    expect(card.locator("pre")).to_be_in_viewport()
    board.check()


def test_keys_alone(notebook: Callable[..., Any]) -> None:
    """A task is run by keyboard alone; keys do not reach the cells, and the focus is never lost."""
    board = Board(notebook(SETUP, WAITING, PANEL))
    board.book.until(*ALL_SENT)
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
    board.rows.nth(19).wait_for()
    board.at_rest()
    tab_to(board.rows.first)
    press("ArrowDown")
    press(" ")
    name = board.keys[1]
    expect(board.button("Run now (1)")).to_be_enabled()
    for key in ("d", "d", "x", "a", "m"):
        press(key)
    tab_to(board.button("Run now (1)"), "Shift+Tab")
    press("Enter")
    expect(board.status).to_have_text("ran 1 task of reports")
    board.book.until(f"queue.attempts().task.tolist().count({name!r})", "1")
    assert page.evaluate("document.querySelector('.ctn-dashboard').contains(document.activeElement)")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


def test_dark(notebook: Callable[..., Any]) -> None:
    """Every tab can be read in the dark theme, with a row that is selected and a card that is open."""
    ended = "queue.resume(); batch.wait(); queue.pause()"
    board = Board(notebook(SETUP, WAITING, f"{ended}\n{MAIL}", PANEL, dark=True))
    for tab in ("Queues", "Tasks", "Fan out", "Backfill", "Batches", "Attempts"):
        board.open(tab)
        if tab not in ("Fan out", "Backfill"):
            board.rows.first.click()
            expect(board.part.get_by_role("group").last).to_be_visible()
        if tab == "Tasks":
            ground = "row => getComputedStyle(row).backgroundColor"
            before = board.row("mail").evaluate(ground)
            board.tick(board.row("mail"))
            expect(board.row("mail")).to_have_attribute("aria-selected", "true")
            assert board.row("mail").evaluate(ground) != before
        board.check()


#: A number that JavaScript cannot hold, a secret, and markup.
BODY = {"id": 12345678901234567890, "api_key": "hidden", "text": EVIL, "nested": {"password": "hidden", "day": 1}}
#: What JupyterLab has in place of a panel that has no kernel, and while it waits for one.
DEAD, WAITS = "Error displaying widget: model not found", "Loading widget..."

#: Whether the square of a day is shown 15 pixels below that of another one.
BELOW = """(days) => {
  const [above, below] = days.map((day) => {
    const shown = [...document.querySelectorAll(`[title^="${day}"]`)].filter((square) => square.offsetParent);
    return shown.at(-1)?.getBoundingClientRect();
  });
  return above && below && below.x === above.x && below.y - above.y === 15;
}"""


def expect_copies(page: Page, hidden: str | None) -> None:
    """Expect the static copies of two panels with their age; what there is of the widgets is hidden."""
    if hidden is not None:
        expect(page.get_by_text(hidden)).to_have_count(2)
        expect(page.get_by_text(hidden).locator("visible=true")).to_have_count(0)
    copies = page.locator(".jp-RenderedHTMLCommon:visible", has_text="run this cell again for the live panel")
    expect(copies).to_have_count(2)
    expect(copies.first).to_contain_text("as of 20")
    expect(copies.first).to_contain_text("PAUSED")
    expect(copies.last).to_contain_text("31 of 31 done")
    # JupyterLab strips much from what it does not trust; the squares of the calendar are where they were.
    page.wait_for_function(BELOW, arg=["2013-01-07", "2013-01-08"])


def test_a_saved_notebook(notebook: Callable[..., Any], lab: Server, watch: Watch) -> None:
    """With a new kernel, with none, and from somebody who is not trusted: the copies, which the live panels hide."""
    run = 'queue.resume().backfill("2013-01-01", "2013-01-31", freq="D", url=report_url, progress=False)'
    month = f"report_url = ct.serve(lambda partition, **period: report(partition))\nbatch = {run}\n_ = batch.wait()"
    book = notebook(SETUP, f"{month}\n_ = queue.pause()", "tasks.panel()", "batch.panel()")
    page = book.page
    expect(page.locator(".ctn-panel").first).to_be_visible()
    expect(page.locator("[data-ctn-copy]")).to_have_count(2)
    expect(page.locator("[data-ctn-copy]:visible")).to_have_count(0)
    name = book.save()
    lab.end_kernels()
    lab.visit(page, name)
    expect_copies(page, DEAD)
    open_without_kernel(lab, page, name, trusted=True)
    expect_copies(page, WAITS)
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


#: Keeps the depths of a queue that are shown.
NOTE_DEPTHS = """() => {
  window.depths = [];
  const note = () => {
    const depth = Number(document.querySelector(".ctn-depth b")?.textContent.replace(",", ""));
    if (depth && window.depths.at(-1) !== depth) window.depths.push(depth);
  };
  new MutationObserver(note).observe(document.querySelector(".ctn-dashboard"), { childList: true, subtree: true });
}"""


def test_while_a_cell_runs(notebook: Callable[..., Any], tmp_path: Path) -> None:
    """All cells run at once, and the last one ends when figures have changed again and again and clicks had effects."""
    end = tmp_path / "end"
    os.mkfifo(end)  # to open it for reading waits until it is opened for writing
    many = "days = pd.DataFrame({'day': range(1, 400)}); _ = queue.update(rate=5)"
    other = 'tasks.queue("emails", create=True).pause().enqueue(handler, {"day": 1}, task_id="mail")'
    book = notebook(f"{SETUP}\n{many}\n{WAITING}\n_ = {other}", PANEL, f"open({str(end)!r}).read()", wait=False)
    board = Board(book)
    board.row("reports").click()
    expect(board.part.get_by_role("img", name="depth of reports")).to_be_visible()
    board.page.evaluate(NOTE_DEPTHS)
    board.button("Resume").click()
    expect(board.status).to_have_text("resumed reports")
    board.page.wait_for_function("() => window.depths.length >= 5")
    board.button("Pause").click()
    expect(board.status).to_have_text("paused reports")
    depths = board.page.evaluate("window.depths")
    assert depths == sorted(depths, reverse=True)
    board.row("emails").dblclick()
    board.tick(board.row("mail"))
    board.button("Run now (1)").click()
    expect(board.status).to_have_text("ran 1 task of emails")
    expect(board.page.locator(".jp-InputPrompt").nth(2)).to_have_text("[*]:")
    end.write_text("", encoding="utf-8")
    book.finish()


#: 300 rows that fail for two reasons, until they are mended.
SALES = """
import cloudtasks_nb as ct, pandas as pd

mended = set()

def sell(shop, day):
    if day % 3 == 0 and "key" not in mended:
        raise KeyError(f"no price of day {day}")
    if day % 100 == 1 and "value" not in mended:
        raise ValueError(f"shop {shop!r} is closed <img src=x onerror=console.error(1)>")
    return {"sold": day * 2, "by": shop.upper()}

tasks = ct.local()
queue = tasks.queue("sales", create=True, rate=500, max_concurrent=100, max_attempts=1)
shops = pd.DataFrame({"shop": [("bern", "basel", "chur")[n % 3] for n in range(300)], "day": range(300)})
batch = queue.fan_out(shops, url=ct.serve(sell), body=["shop", "day"], name="sales", progress=False)
_ = batch.wait()
"""


def test_a_failed_batch(notebook: Callable[..., Any]) -> None:
    """One click to the traceback, two to retry one kind of failure; the cell of the batch keeps what it showed."""
    board = Board(notebook(SALES, "batch", "panel = batch.panel(); panel"), tabs=False)
    cell = board.page.locator(".jp-Cell").nth(1)
    expect(cell).to_contain_text("102 failed")
    causes = board.root.get_by_role("group", name="Causes of failures")
    key = causes.get_by_role("button", name="KeyError: no price of day 0 … and 99 like it").first
    key.click()
    expect(key).to_have_attribute("aria-pressed", "true")
    expect(board.root.locator(".ctn-example")).to_contain_text("Traceback (most recent call last)")
    expect(board.root.locator(".ctn-example")).to_contain_text("KeyError: 'no price of day 0'")
    # A row of the other kind: its error and its payload.
    causes.locator(".ctn-pick", has_text="ValueError").click()
    expect(board.root).to_contain_text("2 rows with the cause")
    board.rows.nth(1).click()
    story = board.root.get_by_role("group", name="row 101")
    expect(story).to_contain_text(f"ValueError: shop 'chur' is closed {EVIL}")
    expect(board.root).to_contain_text('"day": 101')
    board.check()
    # Two clicks.
    board.book.python("mended.add('key')")
    causes.get_by_role("button", name="Retry 100: KeyError").click()
    board.root.get_by_role("button", name="Retry 100 rows").click()
    board.book.python("panel.every = 1")
    expect(board.line).to_contain_text('.retry_failed("KeyError: no price of day 0")')
    expect(board.root).to_contain_text("297")
    expect(cell).to_contain_text("102 failed")
    assert board.book.python("print(batch.progress().failed)") == "3"


def test_the_console(context: BrowserContext) -> None:
    """Queues, tasks and attempts appear by themselves; secrets are hidden, markup is text, nothing can be changed."""
    held = Answer(hold=threading.Event())
    with Emulator("--queue", QUEUE, "--queue", OTHER, "--quiet") as emulator, Target() as target, ExitStack() as stack:
        stack.callback(held.release)
        emulator.client.pause_queue(name=OTHER)
        emulator.client.update_queue({"queue": {"name": QUEUE, "retry_config": {"min_backoff": {"seconds": 3600}}}})
        url, headers = f"{target.url}?day=1&token=hidden", {"Authorization": "Bearer hidden", "X-Own": EVIL}
        create(emulator, OTHER, url, "waits", headers=headers, body=json.dumps(BODY).encode())
        target.script(500)
        create(emulator, QUEUE, url, "tried", body=b"\x00\xff")
        emulator.tried(f"{QUEUE}/tasks/tried")
        page = stack.enter_context(open_console(context, emulator))
        target.script(held)
        create(emulator, QUEUE, url, "in-flight")
        busy = rows(page).filter(has_text="us-central1")
        expect(busy.locator("td").nth(3)).to_have_text("1")  # running
        expect(busy.locator("td").nth(5)).not_to_have_text("0")  # failed
        assert_headings(page, "Queues")
        check_console(page)
        rows(page).filter(has_text="PAUSED").get_by_role("button").press("Enter")
        expect(page.get_by_role("group", name="queue reports")).to_contain_text("shop / europe-west1")
        assert_headings(page, "Tasks")
        page.get_by_role("button", name="waits").press("Enter")
        drawer = page.get_by_role("complementary", name="Task")
        expect(drawer).to_be_focused()
        expect(drawer).to_contain_text('"id": 12345678901234567890')
        expect(drawer).to_contain_text(EVIL)
        expect(drawer.get_by_role("row", name="Authorization")).to_have_text("Authorization•••")
        check_console(page)
        assert "hidden" not in page.inner_text("body")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="waits")).to_be_focused()
        page.get_by_role("link", name="Attempts").click()
        page.locator("#attempts-queue").select_option("all queues")  # the one of the other view may still be shown
        assert_headings(page, "Attempts")
        rows(page).get_by_role("button", name="tried").click()
        expect(drawer).to_contain_text("2 bytes, not text:")
        expect(drawer.get_by_role("region", name="Attempts on this task")).to_contain_text("INTERNAL")
        check_console(page)
        held.release()
        expect(rows(page).filter(has_text="in-flight")).to_contain_text("OK")
        page.get_by_role("button", name="Close").click()
        rows(page).filter(has_text="in-flight").get_by_role("button").click()
        expect(drawer).to_contain_text("It has left the queue")
        assert not {"New queue", "New task", "Pause", "Resume", "Purge", "Run now", "Delete"} & set(
            page.locator("button").all_text_contents()
        )

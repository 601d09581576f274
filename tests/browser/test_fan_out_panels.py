"""Fanning out, backfills and batches by mouse: from the form to the end of the bar, and from the calendar again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.board import EVIL, PANEL, Board
from tests.browser.lab import Server

__all__: list[str] = []

#: A function that fails on two days until it is mended, one that can be held up after its first 100 calls, and data.
SETUP = """
import cloudtasks_nb as ct, itertools, pandas as pd, threading

go_on, calls = threading.Event(), itertools.count()
go_on.set()
broken = {"2026-01-07", "2026-01-20"}

def report(partition, **rest):
    if partition in broken:
        raise LookupError(f"no data for {partition} <img src=x onerror=window.pwned=1>")
    return partition

def flight(origin, day, note="<img src=x onerror=window.pwned=1>"):
    if next(calls) >= 100:
        go_on.wait(60)
    return origin

tasks = ct.local()
queue = tasks.queue("reports", create=True, max_attempts=1, rate=500)
report_url = ct.serve(report)
flight_url = ct.serve(flight)
days = pd.date_range("2026-01-01", periods=80, freq="D").strftime("%Y-%m-%d")
flights = pd.DataFrame([{"origin": o, "day": d, "note": "<b>"} for d in days for o in ("EWR", "JFK", "LGA")])
"""
BACKFILL = """
batch = queue.backfill("2026-01-01", "2026-03-31", freq="D", url=report_url, progress=False)
_ = batch.wait()
"""
NOTE_BAR = """() => {
  window.shares = [];
  const note = () => {
    const bar = document.querySelector('.ctn-panel [role=progressbar]');
    const share = bar && Number(bar.getAttribute('aria-valuenow'));
    if (bar && window.shares.at(-1) !== share) window.shares.push(share);
  };
  new MutationObserver(note).observe(document.querySelector('.ctn-dashboard'), { childList: true, subtree: true });
}"""


@pytest.fixture
def board(notebook: Callable[..., Any]) -> Board:
    """Open the dashboard on a queue without tasks."""
    return Board(notebook(SETUP, PANEL))


def test_a_click_on_plan_is_not_lost_while_the_first_tasks_appear(board: Board) -> None:
    """The first tasks appear after the mouse is pressed and before it is released: they do not move the button."""
    board.open("Fan out")
    board.button("Plan").hover()
    board.page.mouse.down()
    board.book.python("panel.parts['Fan out'].request.url.value = 'flight_url'")
    expect(board.part.get_by_role("region", name="task 1")).to_be_visible()
    board.page.mouse.up()
    expect(board.part.get_by_role("group", name="plan")).to_contain_text("240 tasks")


def test_a_dataframe_is_fanned_out_from_the_form(board: Board) -> None:
    """Columns, first tasks, plan, question, and a bar that reaches its end."""
    board.book.python("go_on.clear()")
    board.open("Fan out")
    expect(board.field("Data")).to_have_value("flights  (240 rows, 3 columns)")
    board.field("URL").fill("flight_url")
    body = board.part.get_by_role("group", name="Body")
    body.get_by_label("origin").check()
    body.get_by_label("day").check()
    first = board.part.get_by_role("region", name="task 1")
    expect(first).to_contain_text('"origin": "EWR"')
    expect(first).to_contain_text('"day": "2026-01-01"')
    expect(board.line).to_have_text('tasks.queue("reports").fan_out(flights, url=flight_url, body=["origin", "day"])')
    board.button("Plan").click()
    plan = board.part.get_by_role("group", name="plan")
    expect(plan).to_contain_text("240 tasks")
    expect(plan).to_contain_text("to drain")
    expect(plan).to_contain_text("$0.00")
    board.button("Send 240 tasks").click()
    question = board.part.get_by_role("alertdialog", name="Send 240 tasks to reports?")
    expect(question).to_contain_text("projects/local/locations/us-central1/queues/reports")
    board.page.evaluate(NOTE_BAR)
    question.get_by_role("button", name="Send 240 tasks").click()
    expect(board.part).to_contain_text("100 of 240 done")
    expect(board.bar).to_have_attribute("aria-valuenow", "41")
    board.book.python("go_on.set()")
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    expect(board.part).to_contain_text("240 of 240 done")
    shares = board.page.evaluate("window.shares")
    assert shares == sorted(shares)
    assert len(shares) > 2
    assert board.book.python("print(tasks.batch().progress().succeeded)") == "240"


def test_a_csv_file_is_uploaded(board: Board, tmp_path: Path) -> None:
    """It is chosen, its columns are offered, and markup in names and cells is text."""
    file = tmp_path / "shops.csv"
    file.write_text(f"shop,{EVIL}\nbern,{EVIL}\n", encoding="utf-8")
    board.open("Fan out")
    with board.page.expect_file_chooser() as chooser:
        board.part.locator("button.ctn-upload").click()
    chooser.value.set_files(file)
    expect(board.field("Data")).to_have_value("shops.csv  (1 row, 2 columns)")
    board.field("URL").fill("https://svc/{shop}")
    expect(board.part.get_by_role("region", name="task 1")).to_contain_text(f'"{EVIL}": "{EVIL}"')
    expect(board.part.get_by_role("group", name="Body")).to_contain_text(EVIL)
    expect(board.line).to_have_text(
        'tasks.queue("reports").fan_out(pd.read_csv("shops.csv"), url="https://svc/{shop}")'
    )
    assert board.page.locator(".ctn-dashboard img").count() == 0
    assert board.page.evaluate("window.pwned") is None


def test_a_bad_template_is_an_error_in_place(board: Board) -> None:
    """The error is shown in place of the first tasks, and in the footer when a plan is made."""
    board.open("Fan out")
    board.field("URL").fill("https://svc/{orign}")
    wrong = board.part.locator(".ctn-wrong")
    expect(wrong).to_contain_text('the column "orign", which the data does not have')
    board.button("Plan").click()
    alert = board.part.get_by_role("alert")
    expect(alert).to_contain_text("orign")
    expect(alert).to_contain_text("the columns are origin, day, note")
    expect(board.button("Send")).to_be_disabled()
    board.field("URL").fill("https://svc/{origin}")
    expect(alert).to_be_empty()
    expect(wrong).to_have_count(0)
    expect(board.part.get_by_role("region", name="task 2")).to_contain_text("https://svc/JFK")


def test_two_failed_days_are_retried_from_the_calendar(board: Board) -> None:
    """Two failed days of a backfill are clicked, sent again, and succeed."""
    board.open("Backfill")
    board.field("From").fill("2026-01-01")
    board.field("To, included").fill("2026-03-31")
    board.field("URL").fill("report_url")
    expect(board.part.get_by_role("region", name="task 3")).to_contain_text('"partition": "2026-01-03"')
    board.button("Plan").click()
    expect(board.part.get_by_role("group", name="plan")).to_contain_text("2026-01-01 … 2026-03-31, 90 days in UTC")
    board.button("Send 90 tasks").click()
    failed = board.part.locator(".ctn-calendar button", has_text="✕")
    expect(failed).to_have_count(2)
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    for day in ("2026-01-07", "2026-01-20"):
        expect(board.square(day)).to_have_attribute("aria-label", f"{day}: 1 row: 1 failed")
        board.square(day).click()
        expect(board.square(day)).to_have_attribute("aria-pressed", "true")
    expect(board.part).to_contain_text("2 rows of 2026-01-07, 2026-01-20: 2 failed")
    board.rows.first.click()
    expect(board.part.locator(".ctn-card").last).to_contain_text(f"LookupError: no data for 2026-01-07 {EVIL}")
    board.book.python("broken.clear()")
    board.button("Send again (2)").click()
    expect(failed).to_have_count(0)
    for day in ("2026-01-07", "2026-01-20"):
        expect(board.square(day)).to_have_attribute("aria-label", f"{day}: 1 row: 1 succeeded")
        expect(board.square(day)).to_have_attribute("aria-pressed", "true")
    assert board.book.python("print(int(tasks.batch().tasks()['try'].sum()))") == "92"
    assert board.page.evaluate("window.pwned") is None


def test_the_calendar_by_keyboard(notebook: Callable[..., Any]) -> None:
    """One tab stop, arrows go from day to day and over the end of a column; space selects, Escape clears."""
    book = notebook(SETUP, BACKFILL, "panel = batch.panel(); panel")
    page, press = book.page, book.page.keyboard.press

    def focused() -> str:
        return str(page.evaluate("document.activeElement.dataset.key ?? ''"))[:10]

    page.locator('.ctn-calendar button[tabindex="0"]').focus()
    assert focused() == "2026-01-01"
    for key, day in (
        ("ArrowRight", "2026-01-08"),
        ("ArrowUp", "2026-01-07"),
        ("End", "2026-03-31"),
        ("Home", "2026-01-01"),
    ):
        press(key)
        assert focused() == day
    press("ArrowRight")
    press("ArrowUp")
    press(" ")
    square = page.locator('.ctn-calendar button[data-key^="2026-01-07"]')
    expect(square).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Send again (1)")).to_be_enabled()
    assert focused() == "2026-01-07"
    assert page.locator('.ctn-calendar button[tabindex="0"]').count() == 1
    press("Escape")
    expect(square).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("button", name="Send again")).to_be_disabled()


def test_the_calendar_in_a_notebook_that_is_not_trusted(
    notebook: Callable[..., Any], lab: Server, context: BrowserContext
) -> None:
    """In a colleague's notebook, from which JupyterLab strips much, bar and squares are where they were."""
    shown = notebook(SETUP, BACKFILL).python("import json; print(json.dumps(batch._repr_mimebundle_()))")
    page = context.new_page()
    lab.show(page, json.loads(shown))
    day = page.locator('.ctn-calendar [title^="2026-01-07"]')
    expect(day).to_have_text("✕")
    monday = page.locator('.ctn-calendar [title^="2026-01-05"]').bounding_box()
    box = day.bounding_box()
    assert box is not None
    assert monday is not None
    assert (box["x"], box["y"]) == (monday["x"], monday["y"] + 30)
    expect(page.locator('.ctn-card [title^="failed: 2 of 90"]')).to_be_visible()


def test_a_batch_is_chosen_retried_and_cancelled(board: Board) -> None:
    """From the list to its failed rows; a retry of two by a click, a cancel of many by typing the id."""
    board.book.python(BACKFILL + "\nqueue.pause(); late = queue.fan_out(flights, url=flight_url, progress=False)")
    board.open("Batches")
    rows = board.part.locator(".ctn-scroll").first.locator("tr[data-key]")
    expect(rows).to_have_count(2)
    rows.filter(has_text="backfill").click()
    expect(board.part).to_contain_text("2 failed rows")
    board.book.python("broken.clear(); queue.resume(); late.wait(); queue.pause()")
    board.button("Retry failed (2)").click()
    expect(board.status).to_contain_text("will be tried again")
    board.book.python(
        "queue.resume(); batch.wait(); queue.pause(); late = queue.fan_out(flights, url=flight_url, name='x')"
    )
    expect(board.button("Retry failed", exact=True)).to_be_disabled()
    rows.filter(has_text="x").first.click()
    board.button("Cancel rest (240)").click()
    question = board.part.get_by_role("alertdialog")
    yes = question.get_by_role("button", name="Cancel 240 rows")
    expect(yes).to_be_disabled()
    question.get_by_role("textbox").fill(board.book.python("print(late.id)"))
    yes.click()
    expect(board.part).to_contain_text("240 of 240 done")
    assert board.book.python("print(len(queue.tasks()))") == "0"


def test_a_batch_under_voila(voila: Callable[..., Page]) -> None:
    """As a page of its own: a red day is selected in the calendar and sent again."""
    page = voila(SETUP, BACKFILL, "broken.clear(); batch.panel()")
    page.locator('.ctn-calendar button[data-key^="2026-01-20"]').click()
    page.get_by_role("button", name="Send again (1)").click()
    expect(page.locator(".ctn-status")).to_contain_text("1 row of batch")
    expect(page.locator(".ctn-calendar button", has_text="✕")).to_have_count(1)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_they_can_be_read_in_both_themes(
    notebook: Callable[..., Any], screenshot: Callable[[Page, str], Path], *, dark: bool
) -> None:
    """Form, first tasks, plan, question, bar, calendar and list have enough contrast."""
    board = Board(notebook(SETUP, PANEL, dark=dark))
    board.page.set_viewport_size({"width": 1000, "height": 1300})

    def show(name: str) -> None:
        board.root.scroll_into_view_if_needed()
        screenshot(board.page, name)

    board.open("Fan out")
    board.field("URL").fill("flight_url")
    for column in ("origin", "day"):
        board.part.locator(".ctn-column-name", has_text=column).first.click()
    board.field("Headers").fill("Authorization: Bearer secret\nX-Day: {day}")
    board.field("Name").fill("flights")
    expect(board.part.locator(".ctn-tasks")).to_contain_text("X-Day")
    show("fan-out-form")
    board.button("Plan").click()
    expect(board.part.locator(".ctn-plan")).to_be_visible()
    show("fan-out-plan")
    board.button("Send 240 tasks").click()
    expect(board.part.get_by_role("alertdialog")).to_be_visible()
    screenshot(board.page, "fan-out-question")
    board.part.get_by_role("alertdialog").get_by_role("button", name="Send 240 tasks").click()
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    show("fan-out-sent")
    board.open("Backfill")
    board.field("From").fill("2026-01-01")
    board.field("To, included").fill("2026-03-31")
    board.field("URL").fill("report_url")
    expect(board.part.locator(".ctn-tasks")).to_contain_text("partition")
    show("backfill-form")
    board.button("Plan").click()
    board.button("Send 90 tasks").click()
    expect(board.bar).to_have_attribute("aria-valuenow", "100")
    board.square("2026-01-07").click()
    board.root.scroll_into_view_if_needed()
    board.page.mouse.wheel(0, 700)
    screenshot(board.page, "backfill-calendar")
    board.open("Batches")
    board.rows.first.click()
    expect(board.button("Retry failed (2)")).to_be_enabled()
    board.bar.wait_for()
    show("batches")

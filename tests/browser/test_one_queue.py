"""Which queue a dashboard is about, clicks while a cell runs, and a task that is edited and sent again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.browser.board import PANEL, Board

__all__: list[str] = []

#: Two queues that wait: one of 60 tasks, one of 3.
QUEUES = """
import cloudtasks_nb as ct, pandas as pd, time
tasks = ct.local()
reports = tasks.queue("reports", create=True).pause()
emails = tasks.queue("emails", create=True).pause()
url = "http://127.0.0.1:9/run"
batch = reports.fan_out(pd.DataFrame({"day": range(60)}), url=url, progress=False)
for number in range(3):
    emails.enqueue(url, {"to": number, "token": "s3cr3t"}, task_id=f"mail-{number}", headers={"X-Team": "data"})
while batch.progress().unsent:
    time.sleep(0.05)
"""
#: Without updates by themselves.
STILL = "panel = tasks.panel(); panel.every = 0; panel"
#: Writes down what a table without rows has said.
NOTE_EMPTY = """() => {
  window.said = new Set();
  const note = () => document.querySelectorAll(".ctn-empty").forEach((node) => window.said.add(node.textContent));
  new MutationObserver(note).observe(document.querySelector(".ctn-dashboard"), { childList: true, subtree: true });
}"""


def test_the_rows_are_those_of_the_queue_in_the_header(notebook: Callable[..., Any]) -> None:
    """With refreshing off, whichever way the queue is changed; no queue with tasks is said to be empty."""
    board = Board(notebook(QUEUES, STILL))
    choice = board.root.get_by_label("Queue", exact=True)
    board.page.evaluate(NOTE_EMPTY)
    # The tab is opened and the queue changed at once, while the kernel makes the tab.
    board.root.get_by_role("tab", name="Tasks").click()
    choice.select_option("reports")
    expect(board.rows).to_have_count(50)
    expect(board.part).to_contain_text("60 loaded")
    board.open("Queues")
    board.row("emails").dblclick()
    expect(board.row("mail-1")).to_be_visible()
    expect(board.rows).to_have_count(3)
    expect(choice).to_have_value("emails")
    board.open("Attempts")
    board.at_rest()
    choice.select_option("reports")
    board.open("Tasks")
    expect(board.rows).to_have_count(50)
    board.open("Queues")
    expect(board.row("reports")).to_have_attribute("aria-current", "true")
    board.tick(board.row("emails"))
    expect(choice).to_have_value("emails")
    choice.select_option("reports")
    expect(board.row("emails")).to_have_attribute("aria-selected", "false")
    board.button("Resume").click()
    expect(board.status).to_have_text("resumed reports")
    assert "No tasks in the queue" not in board.page.evaluate("[...window.said]")


def test_the_first_click_does_not_wait_for_the_running_cell(notebook: Callable[..., Any], tmp_path: Path) -> None:
    """All cells run at once, and the last one does not end before the click has shown its effect."""
    wait = f"import pathlib; go = pathlib.Path({str(tmp_path / 'go')!r})\nwhile not go.exists(): time.sleep(0.05)"
    book = notebook(QUEUES, PANEL, wait, wait=False)
    board = Board(book)
    board.row("reports").click()
    board.button("Resume").click()
    expect(board.status).to_have_text("resumed reports")
    board.open_table("Tasks")
    board.tick(board.row("mail-1") if board.keys[0].startswith("mail") else board.rows.first)
    board.button("Run now (1)").click()
    expect(board.status).to_contain_text("ran 1 task of reports")
    expect(board.page.locator(".jp-InputPrompt").nth(2)).to_have_text("[*]:")
    (tmp_path / "go").touch()
    book.finish()


def test_a_click_that_waits_for_the_kernel_says_so(notebook: Callable[..., Any]) -> None:
    """Until the kernel has heard of it."""
    board = Board(notebook(QUEUES, STILL))
    kernel = int(board.book.python("import os; print(os.getpid())"))
    waits = board.part.locator(".ctn-waits")
    os.kill(kernel, signal.SIGSTOP)
    try:
        board.row("emails").click()
        expect(waits).to_contain_text("No answer from the kernel yet")
    finally:
        os.kill(kernel, signal.SIGCONT)
    expect(waits).to_be_empty()


def test_a_task_is_edited_and_sent_again(notebook: Callable[..., Any]) -> None:
    """From a list of thirty queues to the task; its request is copied, then edited and sent, with its secret."""
    many = 'for number in range(28): tasks.queue(f"q{number:02}", create=True).pause()'
    book = notebook(QUEUES, many, PANEL)
    book.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    board = Board(book)
    board.part.get_by_placeholder("Find a queue").fill("mail")
    expect(board.rows).to_have_count(1)
    board.row("emails").dblclick()
    board.row("mail-1").click()
    card = board.part.get_by_role("group", name="task mail-1")
    expect(card).to_contain_text('"to": 1')
    for words, copied in (("curl", "curl -X POST"), ("JSON", '"token": "•••"'), ("Python", 'getpass.getpass("token")')):
        board.button(f"Copy as {words}").click()
        board.page.wait_for_function(
            "async (text) => (await navigator.clipboard.readText()).includes(text)", arg=copied
        )
    board.button("Edit and send again").click()
    expect(board.field("URL")).to_be_focused()
    body = board.field("Body")
    expect(body).to_have_value('{\n  "to": 1,\n  "token": "•••"\n}')
    body.fill('{"to": 7, "token": "•••"')
    expect(board.part).to_contain_text("not JSON")
    expect(board.button("Send new task")).to_be_disabled()
    body.fill('{"to": 7, "token": "•••"}')
    expect(board.part).to_contain_text("valid JSON")
    board.field("Delay").fill("10min")
    line = 'import getpass; tasks.queue("emails").enqueue("http://127.0.0.1:9/run", {"to": 7, "token": getpass'
    expect(board.line).to_contain_text(line)
    board.button("Send new task").click()
    expect(board.status).to_contain_text("created task")
    made = "emails.tasks(body=True, secrets=True).query('state == \"scheduled\"').body.tolist()"
    book.until(made, "[{'to': 7, 'token': 's3cr3t'}]")
    expect(board.field("Body")).to_have_count(0)

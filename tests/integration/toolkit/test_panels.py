"""The panels on a real emulator: what they list, look up and read, and what their buttons do."""

import datetime as dt
import getpass
import html
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.panels import AttemptsPanel, Dashboard, Panel, TasksPanel
from cloudtasks_nb.panels.forms import notebook
from tests.integration.conftest import Emulator, until
from tests.unit.panels import user

NOWHERE = "http://127.0.0.1:9/run"


@pytest.fixture
def board(tasks: ct.Client, paused: ct.Queue) -> Iterator[Dashboard]:
    """Open the dashboard of a queue whose tasks stay where they are."""
    made = paused.panel()
    yield made
    made.settle()
    made.close()


def see(board: Dashboard, tab: str) -> Any:
    """Open a tab, as one that somebody sees, and wait until it is filled."""
    board.turn_to(tab)
    user.show(board.parts[tab])
    return board.parts[tab]


def click(panel: Panel, button: Any) -> None:
    """Click and wait until it is done."""
    button.click()
    panel.settle()
    assert panel.footer.alert == {}


def text(shown: widgets.HTML) -> str:
    """Return the text of a part of a panel, without its markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown.value)).split())


def count(panel: Any) -> int:
    """Read anew, and return how many rows there are."""
    panel.refresh()
    return int(panel.table.total)


def fill(queue: ct.Queue, number: int) -> list[str]:
    """Put tasks into a queue and return their ids."""
    names = [f"t{n:02}" for n in range(number)]
    for name in names:
        queue.enqueue(NOWHERE, {"n": name}, task_id=name, headers={"Authorization": "Bearer secret", "X-Team": "data"})
    return names


def buttons(part: widgets.Widget) -> set[str]:
    """Name the buttons that are laid out in a widget."""
    if part.layout.display == "none":
        return set()
    own = {part.description} if isinstance(part, widgets.Button) else set()
    return own.union(*map(buttons, getattr(part, "children", ())))


def test_read_only_has_no_button_that_changes_anything(tasks: ct.Client, paused: ct.Queue) -> None:
    """Neither in a tab nor in a card."""
    batch = paused.fan_out(pd.DataFrame({"day": [1]}), url=NOWHERE)
    until(lambda: not batch.progress().unsent)
    board = tasks.panel(read_only=True)
    board.use(paused.id)
    for tab, key in (("Queues", paused.id), ("Tasks", batch.tasks()["task"][0]), ("Batches", batch.id)):
        panel = see(board, tab)
        user.look_at(panel.table, key)
        panel.settle()
        assert key in panel.table.page_keys
    assert set(map(board.tabs.get_title, range(len(board.tabs.children)))) == {*board.parts, "Attempts"}
    assert buttons(board) == {"Refresh"}
    assert repr(board) == "<Dashboard Cloud Tasks in demo / us-central1 [LOCAL]>"
    board.close()


def test_what_a_handler_raised_is_found(board: Dashboard, paused: ct.Queue, emulator: Emulator) -> None:
    """In the attempts of the queue and in those of the task, though the log has no word of it."""

    def report(day: int) -> None:
        raise LookupError(f"no data for {day}")

    with ct.serve(report, name=f"report-{paused.id}") as handler:
        paused.enqueue(handler, {"day": 3}, task_id="t1")
        panel: TasksPanel = see(board, "Tasks")
        panel.table.select(["t1"])
        click(panel, panel.actions.run)
        attempts: AttemptsPanel = see(board, "Attempts")
        emulator.until(lambda: count(attempts))  # the log takes its time
        user.look_at(attempts.table, attempts.table.page_keys[0])
        user.look_at(panel.table, "t1")
        panel.settle()
        for shown, state in ((attempts.detail, "INTERNAL"), (panel.detail.card, "retrying")):
            for words in (state, "LookupError: no data for 3"):
                assert words in text(shown)


def test_a_task_that_has_left_is_known_by_its_attempts(board: Dashboard, paused: ct.Queue, emulator: Emulator) -> None:
    """Its card says that it is no longer there, and how it went."""
    with ct.serve(lambda: None, name=f"done-{paused.id}") as handler:
        paused.enqueue(handler, task_id="t1")
        panel: TasksPanel = see(board, "Tasks")
        user.show(panel, visible=False)  # so that the row stays in the table
        paused.run(["t1"])
        emulator.until(lambda: len(paused.attempts()))
        user.look_at(panel.table, "t1")
        panel.settle()
    assert "It has left the queue" in text(panel.detail.card)
    assert " OK " in text(panel.detail.card)


def test_a_killed_emulator_is_started_again_by_a_click(tmp_path: Path) -> None:
    """With all that it had; the panel then goes on by itself."""
    with ct.local(tmp_path) as tasks:
        fill(tasks.queue("reports", create=True).pause(), 3)
        board = tasks.panel()
        board.every = 1
        panel = see(board, "Queues")
        os.kill(json.loads((tmp_path / "endpoint.json").read_text())["pid"], signal.SIGKILL)
        until(lambda: board.banner.shown)
        assert "The emulator does not answer since" in text(board.banner.text)
        _, again = board.banner.children
        click(board, again)
        until(lambda: not board.banner.shown)
        assert tasks.queues().tasks["reports"] == 3
        assert "PAUSED" in panel.table.html()
        board.close()


class Lines:
    """The notebook of a dashboard: each line of Python that a panel shows is run there at once."""

    def __init__(self, board: Dashboard, tasks: ct.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        flights = pd.DataFrame({"day": ["2026-01-01", "2026-01-02"]})
        self.variables: dict[str, Any] = {"tasks": tasks, "ct": ct, "pd": pd, "flights": flights, "panel": board}
        self.ran: list[str] = []
        monkeypatch.setattr(notebook, "_visible", lambda: self.variables)
        monkeypatch.setattr(getpass, "getpass", lambda _name: "s3cr3t")

    def run(self, *lines: str | None) -> None:
        """Run lines that were not run yet."""
        for line in lines:
            if line and line not in self.ran:
                exec(line, self.variables)  # noqa: S102 - that is what the line is for
                self.ran.append(line)

    def do(self, panel: Panel, *buttons: Any, typed: str = "") -> None:
        """Click buttons of a panel; run the line of each question before it is answered, and the line afterwards."""
        for button in buttons:
            click(panel, button)
            if panel.prompt.question is not None:
                self.run(panel.prompt.question.line)
                user.confirm(panel, typed)
            self.run(panel.footer.line)


def test_every_line_that_a_panel_shows_runs(
    board: Dashboard, paused: ct.Queue, tasks: ct.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of lists, buttons, questions, forms and copies, also of requests with secrets."""
    monkeypatch.setattr("cloudtasks_nb.panels.tasks._LISTED", 2)
    names = fill(paused, 5)
    lines = Lines(board, tasks, monkeypatch)
    queue = see(board, "Queue")
    lines.run(queue.footer.line)
    lines.do(queue, queue.resume, queue.pause, queue.edit)
    queue.form.fields["rate"].value = "5"
    lines.do(queue, queue.save)
    panel: TasksPanel = see(board, "Tasks")
    lines.run(panel.footer.line)
    user.look_at(panel.table, names[0])
    panel.settle()
    lines.run(panel.detail.copies.texts["Copy as Python"])
    listing = panel.footer.line
    lines.do(panel, panel.detail.edit)
    lines.do(panel, panel.detail.cancel)
    assert panel.footer.line == listing
    lines.do(panel, panel.detail.edit)
    panel.detail.form.body.value = '{"n": "again", "password": "s3cr3t"}'
    panel.detail.form.request.delay.value = "10min"
    assert 'delay="10min"' in panel.footer.line
    lines.do(panel, panel.detail.send)
    panel.table.select(names[:1])
    lines.do(panel, panel.actions.run)
    panel.table.select(names)
    lines.do(panel, panel.actions.delete)
    attempts = see(board, "Attempts")
    attempts.back.value = 86_400
    lines.run(attempts.footer.line)
    for tab in ("Fan out", "Backfill"):
        form = see(board, tab)
        form.request.url.value, form.request.headers.value = f"{NOWHERE}?token=s3cr3t", "X-Api-Key: s3cr3t"
        if tab == "Backfill":
            form.range.start.value, form.range.end.value = dt.date(2026, 1, 1), dt.date(2026, 1, 3)
        form.settle()
        lines.do(form, form.make_plan, form.send)
    batches = see(board, "Batches")
    lines.run(batches.footer.line)
    user.look_at(batches.table, batches.table.page_keys[0])
    batches.settle()
    lines.run(batches.footer.line)
    lines.do(queue, queue.purge, typed=paused.id)
    assert sum("panel.parts[" in line for line in lines.ran) == 1
    assert not [line for line in lines.ran if "s3cr3t" in line]
    verbs = "queues tasks enqueue run delete_tasks attempts fan_out backfill batches batch resume pause update purge"
    assert [verb for verb in verbs.split() if not any(f".{verb}(" in line for line in lines.ran)] == []

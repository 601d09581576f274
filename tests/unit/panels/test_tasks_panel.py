"""The tasks of a queue: loaded on demand, kept up to date, run and deleted."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb._frames import TASKS, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.panels import TasksPanel
from cloudtasks_nb.panels import tasks as tasks_panel
from cloudtasks_nb.service.watch import Pending
from tests.unit.panels import user
from tests.unit.panels.conftest import (
    NOW,
    FakeContext,
    FakeQueue,
    FakeShell,
    FakeWatcher,
    MakeContext,
    entry,
    pending,
    snapshot,
)


class Book:
    """A listing of so many tasks a queue, named by their numbers."""

    tasks = 25

    def __init__(self, _connection: Any, queue: QueueName) -> None:
        self.queue = queue
        self.at: int | None = None
        self.read = 0

    @property
    def complete(self) -> bool:
        """Whether all were read."""
        return self.read >= self.tasks

    def more(self, limit: int | None) -> Iterator[pd.DataFrame]:
        """Give out the next in one frame."""
        self.at = NOW
        upto = self.tasks if limit is None else min(self.tasks, self.read + limit)
        names = [f"{self.queue.queue}{number:05}" for number in range(self.read, upto)]
        self.read = upto
        count = len(names)
        states = (["ready", "retrying"] * count)[:count]
        columns: dict[str, list[Any]] = {"task": names, "state": states, "schedule_time": [NOW] * count}
        yield frame(TASKS, columns, index="task")


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tasks whose cards were read."""
    read: list[str] = []

    async def read_card(_connection: Any, _queue: QueueName, task: str, *_: Any) -> tuple[str, dict[str, Any]]:
        read.append(task)
        return f"card of {task}, {len(read)}", {"url": f"https://svc/{task}"}

    monkeypatch.setattr("cloudtasks_nb.panels.tasks.Listing", Book)
    monkeypatch.setattr("cloudtasks_nb.panels.task_details.read_card", read_card)
    monkeypatch.setattr("cloudtasks_nb.panels.tasks._PORTION", 10)
    return read


@pytest.fixture
def panel(context: FakeContext, watcher: FakeWatcher) -> TasksPanel:
    """Return a panel of 10 of 25 tasks that is visible."""
    made: TasksPanel = TasksPanel(context, queue="reports")
    watcher.there = {f"reports{number:05}": pending() for number in range(25)}
    user.show(made)
    return made


def pick(panel: TasksPanel, *numbers: int) -> list[str]:
    """Select tasks by number."""
    names = [f"reports{number:05}" for number in numbers]
    panel.table.select(names)
    panel.settle()
    return names


def publish(panel: TasksPanel, watcher: FakeWatcher, **facts: Any) -> None:
    """Let the watcher see the queue, and wait until all that follows is shown."""
    watcher.publish(snapshot("reports", **facts))
    panel.settle()


def test_a_queue_is_not_said_to_be_empty_while_another_one_is_chosen(
    panel: TasksPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of the listed tasks of the first queue is not said of the other one, which nobody has listed yet."""
    panel.settle()
    panel._load_all()
    user.show(panel, visible=False)  # so that the other queue is not listed
    change = threading.Thread(target=panel.use, args=("emails",))

    def slow_time(_time: Any) -> str:
        change.start()
        change.join(0.5)
        return ""

    monkeypatch.setattr(tasks_panel, "time_html", slow_time)
    panel._show_loaded()
    change.join()
    assert (panel.table.total, panel.table.empty, panel.loaded.value) == (0, "Not loaded yet", "")


def test_a_queue_is_not_said_to_be_empty_before_its_tasks_are_shown(
    panel: TasksPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is read, but its tasks are not in the table yet."""
    seen = []

    def described(part: pd.DataFrame) -> pd.DataFrame:
        panel._show_loaded()
        seen.append(panel.table.empty)
        return TasksPanel._described(panel, part)

    panel.settle()
    monkeypatch.setattr(panel, "_described", described)
    monkeypatch.setattr(Book, "tasks", 8)
    user.use(panel, "emails")
    assert seen == ["Not loaded yet"]
    assert (panel.table.total, panel.table.empty) == (8, "No tasks in the queue")


def test_more_and_all_are_loaded_on_demand(panel: TasksPanel) -> None:
    """The next portion, then the rest; then there is nothing to load."""
    user.click(panel, panel.load_more)
    assert (panel.table.total, panel.footer.status) == (20, "loaded 20 tasks")
    user.click(panel, panel.load_all)
    assert (panel.table.total, panel.load_all.layout.display) == (25, "none")


def test_loading_can_be_stopped(panel: TasksPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop ends it after the present part; the loaded tasks stay."""

    def endless(book: Book, _limit: int | None) -> Iterator[pd.DataFrame]:
        for number in range(10, 10_000):
            if number == 12:
                panel.stopping.set()
            book.at = NOW
            yield frame(TASKS, {"task": [f"reports{number:05}"], "state": ["ready"]}, index="task")

    monkeypatch.setattr(Book, "more", endless)
    user.click(panel, panel.load_all)
    assert panel.table.total == 13


def test_refresh_lists_as_many_again(panel: TasksPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tasks as before are loaded; tasks that have left the queue are gone."""
    user.click(panel, panel.load_more)
    monkeypatch.setattr(Book, "tasks", 15)
    panel.refresh()
    assert panel.table.total == 15


def test_done_tasks_are_removed(panel: TasksPanel, watcher: FakeWatcher) -> None:
    """Succeeded and deleted tasks are removed; one with a failed attempt stays."""
    user.click(panel, panel.load_all)
    for number in (3, 20):
        watcher.there.pop(f"reports{number:05}")
    seen = (
        entry(1, "reports00003"),
        entry(2, "reports00020", deleted=True),
        entry(3, "reports00004", status="INTERNAL"),
    )
    publish(panel, watcher, entries=seen)
    assert panel.table.total == 23
    assert "reports00004" in panel.table.page_keys


def test_tasks_on_the_screen_are_looked_up(panel: TasksPanel, watcher: FakeWatcher) -> None:
    """Tasks that have left are removed, others are updated; only tasks on the page are looked up."""
    panel.table._page_size = 5
    panel.table.turn(0)
    watcher.asked.clear()
    watcher.there["reports00001"] = None
    watcher.there["reports00002"] = pending("running", attempts=2)
    publish(panel, watcher)
    assert watcher.asked == [f"reports{number:05}" for number in range(5)]
    assert panel.table.total == 9
    pick(panel, 2)
    row = panel.table._rows._frame.loc[panel.table.selected[0]]
    assert row[["state", "attempts"]].tolist() == ["running", 2]
    assert row[["due"]].isna().all(), "a task that runs is not late"


def test_only_errors_of_loaded_tasks_are_kept(
    panel: TasksPanel, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the failures of a queue."""
    failed = tuple(entry(number, f"reports{number:05}", status="INTERNAL") for number in (1, 20))
    monkeypatch.setattr(tasks_panel, "last_errors", lambda _urls: {one.task: "KeyError: 7" for one in failed})
    watcher.publish(snapshot("reports", entries=failed))
    panel.settle()
    assert panel._errors == {"reports00001": "KeyError: 7"}
    assert "KeyError: 7" in panel.table.html()
    panel.remove(["reports00001"])
    assert panel._errors == {}


def test_an_exception_is_shown_though_the_log_is_behind(
    panel: TasksPanel, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tasks say what was raised, not only the one whose attempt the log has already."""
    monkeypatch.setattr(tasks_panel, "last_errors", lambda _urls: {"reports00002": "KeyError: 2"})
    watcher.there["reports00002"] = replace(pending("retrying"), last_message="HTTP status code 400")
    publish(panel, watcher)
    assert "KeyError: 2" in panel.table.html()
    assert "HTTP status code 400" not in panel.table.html()


def test_failures_during_a_look_up_are_explained(
    panel: TasksPanel, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that comes while tasks are looked up is not passed over, nor if that look-up fails."""
    started, answered = threading.Event(), threading.Event()

    async def slow(_queue: QueueName, _tasks: list[str]) -> dict[str, Pending | None]:
        first = not started.is_set()
        started.set()
        await asyncio.to_thread(answered.wait, user.PATIENCE)
        if first:
            return {}
        raise ct.errors.EndpointError

    monkeypatch.setattr(watcher, "lookup", slow)
    monkeypatch.setattr(tasks_panel, "last_errors", lambda _urls: {"reports00001": "KeyError: 7"})
    watcher.publish(snapshot("reports"))
    assert started.wait(user.PATIENCE)
    watcher.publish(snapshot("reports", entries=(entry(1, "reports00001", status="INTERNAL"),)))
    answered.set()
    panel.settle()
    assert "KeyError: 7" in panel.table.html()


def test_a_column_that_no_task_has_is_named(panel: TasksPanel) -> None:
    """While a search finds nothing because of it."""
    panel.find.value = "nope:1"
    assert panel.footer.alert["text"] == 'the data of this table has no column "nope"'
    panel.find.value = "reports"
    assert (panel.footer.alert, panel.table.matching) == ({}, 10)


def test_a_few_are_run_at_once(panel: TasksPanel, context: FakeContext) -> None:
    """Three tasks need no question; the line does the same."""
    names = pick(panel, 1, 2, 3)
    user.click(panel, panel.actions.run)
    assert context.calls == [("run", "reports", names)]
    assert panel.footer.status == "ran 3 tasks of reports"
    assert panel.footer.line == 'tasks.queue("reports").run(["reports00001", "reports00002", "reports00003"])'


def test_many_are_asked_about(panel: TasksPanel, context: FakeContext) -> None:
    """The question has the count and the scope; deleting many needs the queue's name."""
    user.click(panel, panel.load_all)
    names = pick(panel, *range(12))
    question = user.asked(panel, panel.actions.run)
    assert (question.title, question.typed) == ("Run 12 tasks of reports now?", None)
    assert "The 12 tasks selected of 25 loaded from reports." in question.scope
    question = user.asked(panel, panel.actions.delete)
    assert (question.verb, question.typed) == ("Delete 12 tasks", "reports")
    assert context.calls == []
    user.confirm(panel, typed="reports")
    assert context.calls == [("delete_tasks", "reports", names)]
    assert panel.table.total == 13


@pytest.mark.parametrize(("count", "scope"), [(1, "selected of 10"), (10, "those that are not loaded are left alone")])
def test_few_are_deleted_with_a_click_more(panel: TasksPanel, context: FakeContext, count: int, scope: str) -> None:
    """Deleting asks a question, without a name to be typed; tasks that are not loaded stay."""
    names = pick(panel, *range(count))
    panel.actions.delete.click()
    question = user.confirm(panel)
    assert question.typed is None
    assert scope in question.scope
    assert (context.calls, panel.table.total) == ([("delete_tasks", "reports", names)], 10 - count)


def test_google_runs_one_a_second(
    make_context: MakeContext, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question has the duration, and Stop ends the work between two parts."""
    monkeypatch.setattr("cloudtasks_nb.panels.tasks._PORTION", 200)
    monkeypatch.setattr(Book, "tasks", 150)
    watcher.there = {f"reports{number:05}": pending() for number in range(150)}
    context = make_context("reports", local=False)
    panel = user.show(TasksPanel(context, queue="reports"))
    pick(panel, *range(130))
    assert "60 a minute: this takes 3 minutes" in user.asked(panel, panel.actions.run).scope
    sizes: list[int] = []

    def run(tasks: list[str]) -> pd.DataFrame:
        sizes.append(len(tasks))
        panel.stopping.set()
        return pd.DataFrame({"task": tasks, "ok": [name != "reports00007" for name in tasks], "error": ["no"] * 20})

    monkeypatch.setattr(FakeContext, "queue", lambda _stage, _name: type("Slow", (), {"run": staticmethod(run)}))
    user.confirm(panel)
    assert sizes == [20]
    assert panel.footer.status == "ran 19 tasks of reports; 1 task not: no; stopped with 110 tasks left"


def test_a_task_is_inspected(panel: TasksPanel, watcher: FakeWatcher, cards: list[str]) -> None:
    """A task that is clicked is shown as a card, which is read again when the task changes; it is not selected."""
    publish(panel, watcher)
    user.look_at(panel.table, "reports00002")
    panel.settle()
    assert panel.actions.delete.disabled
    assert panel.detail.card.value == "card of reports00002, 1"
    assert "ctn-follow" in panel.detail._dom_classes, "the browser scrolls to it"
    publish(panel, watcher)
    publish(panel, watcher)
    seen = len(cards)
    watcher.there["reports00002"] = pending("running", attempts=1)
    publish(panel, watcher)
    publish(panel, watcher)
    assert len(cards) == seen + 1
    watcher.there["reports00002"] = None
    publish(panel, watcher)
    assert panel.detail.card.value.startswith("card of reports00002")
    assert cards[-1] == "reports00002"
    user.look_at(panel.table, "reports00003")
    panel.settle()
    assert panel.detail.card.value.startswith("card of reports00003")
    panel.detail.hide()
    assert (panel.detail.card.value, panel.detail.children[1].layout.display) == ("", "none")


def test_another_queue_is_loaded(panel: TasksPanel) -> None:
    """The tasks of the new queue are shown, and nothing is selected."""
    pick(panel, 1)
    panel.every = 0
    user.use(panel, "emails")
    assert panel.table.page_keys[:2] == ["emails00000", "emails00001"]
    assert (panel.table.selected, panel.detail.card.value) == ([], "")
    assert panel.footer.line == 'tasks.queue("emails").tasks(10)'


def test_rows_of_another_queue_are_never_shown(panel: TasksPanel, watcher: FakeWatcher) -> None:
    """A hidden panel forgets the old rows, says nothing of the new queue, and reads it when it is seen."""
    user.show(panel, visible=False)
    user.use(panel, "emails")
    assert (panel.table.total, panel.table.empty, panel.loaded.value) == (0, "Not loaded yet", "")
    panel.apply(snapshot("reports", tasks=0))
    panel.apply(snapshot("emails", tasks=25))
    panel.settle()
    assert panel.table.empty == "Not loaded yet"
    user.show(panel)
    assert panel.table.page_keys[0] == "emails00000"


def test_a_list_that_is_read_for_the_old_queue_is_dropped(panel: TasksPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of the new queue are read next."""
    more = Book.more
    chosen: list[str] = []

    def switching(book: Book, limit: int | None) -> Iterator[pd.DataFrame]:
        if not chosen:
            chosen.append("emails")
            panel.use("emails")
        yield from more(book, limit)

    monkeypatch.setattr(Book, "more", switching)
    user.click(panel, panel.load_more)
    assert {key[:6] for key in panel.table.page_keys} == {"emails"}


def test_work_goes_on_while_another_queue_is_chosen(
    panel: TasksPanel, context: FakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was selected in the old queue is deleted there, all of it; then the tasks of the new one are read."""
    monkeypatch.setattr("cloudtasks_nb.panels.tasks._LISTED", 1)
    names = pick(panel, 1, 2)
    delete = FakeQueue.__getattr__

    def switching(queue: FakeQueue, verb: str) -> Any:
        panel.use("emails")
        return delete(queue, verb)

    monkeypatch.setattr(FakeQueue, "__getattr__", switching)
    panel.actions.delete.click()
    user.confirm(panel)
    assert context.calls == [("delete_tasks", "reports", [name]) for name in names]
    assert (panel.table.total, panel.table.page_keys[0]) == (10, "emails00000")


def test_an_empty_table_says_what_is_known(
    panel: TasksPanel, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the queue is empty is said only of one that was read to its end, and has no new tasks."""
    panel.remove([f"reports{number:05}" for number in range(10)])
    assert "press Refresh" in panel.table.empty
    monkeypatch.setattr(Book, "tasks", 0)
    user.click(panel, panel.load_more)
    panel.refresh()
    publish(panel, watcher, tasks=0)
    assert panel.table.empty == "No tasks in the queue"
    publish(panel, watcher, tasks=3)
    assert "press Refresh" in panel.table.empty


def test_a_long_selection_is_read_from_the_panel(
    panel: TasksPanel, shell: FakeShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the variable or the output that has the panel; without one it has all ids."""
    monkeypatch.setattr("cloudtasks_nb.panels.tasks._LISTED", 1)
    names = pick(panel, 1, 2)
    lines = []
    for variables in ({}, {"Out": {3: panel}}, {"board": panel}):
        shell.user_ns = {"tasks": None, **variables}
        panel.actions.delete.click()
        lines.append(panel.prompt.question.line if panel.prompt.question else None)
    head = 'tasks.queue("reports").delete_tasks'
    assert lines == [
        f'{head}(["{names[0]}", "{names[1]}"])',
        f"{head}(Out[3].table.selected)",
        f"{head}(board.table.selected)",
    ]

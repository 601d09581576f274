"""A dashboard that somebody clicks, compared with what the service and the batches say.

The world of `tests/simulation` runs the panels, the toolkit below them and the emulator's engine on a simulated clock;
the threads of the panels are its jobs. Rules are what a user does and what happens meanwhile: tabs, rows, buttons that
are laid out and enabled, searches, answers to questions, time, cells that send batches, a service that refuses calls,
is silent, or loses an answer.

What is compared after each step:

- no panel shows a traceback, nothing is raised in the background, and each line of Python can be compiled;
- nothing was changed but by a click or a cell, and what destroys only after the question was answered as it wants;
- a question is shown to the user as it is asked, and no button does more while it is asked.

And whenever the service is well again and the panels had the time to read: each table says what the client's verbs say,
and the numbers on the buttons are those of the batch. At the end no secret is in what a notebook keeps of the panels,
and no widget stays open.

What is not covered: real threads (`test_panel.py`), forms (`test_fan_out_panel.py`), what cards and charts look like.
"""

import ast
import concurrent.futures
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ipywidgets.embed import embed_data

from cloudtasks_nb._frames import ENDS
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.panels import Dashboard, Panel, work
from cloudtasks_nb.panels.widgets.choices import Choices
from tests.simulation.cloud import Cloud, Delivery
from tests.simulation.kernel import Kernel
from tests.simulation.world import Process, World
from tests.unit.panels import user
from tests.unit.panels.conftest import open_widgets

#: What runs without `--hypothesis-profile=long`: the same examples each time.
FEW: dict[str, Any] = {
    "max_examples": 12,
    "stateful_step_count": 50,
    "derandomize": True,
}
MEMORY = Path("/dev/shm")  # noqa: S108 - each has a folder of its own in it
MOST = 3  # batches
TABS = ("Queues", "Tasks", "Batches", "Attempts")
QUEUE, SECRET, URL = "reports", "s3cr3t", "https://example.com/run"
#: By which RPC something is lost that no other call brings back.
DESTROYS = {"DeleteTask", "BatchDeleteTasks", "PurgeQueue", "DeleteQueue"}
CHANGES = {
    *DESTROYS,
    *("CreateTask", "BatchCreateTasks", "RunTask", "CreateQueue", "UpdateQueue", "PauseQueue", "ResumeQueue"),
}
#: Seconds until each panel has read what there is: the list of queues is read four times a minute.
CALM = 4.0


class Thread:
    """A thread of a panel, as a job of the world."""

    world: World

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], **_options: Any) -> None:
        self.start = lambda: self.world.begin(target, *args)


def laid_out(part: widgets.Widget) -> Iterator[widgets.Widget]:
    """Yield a widget and what is laid out in it; of tabs the open one."""
    if part.layout.display == "none" or part.layout.visibility == "hidden":
        return
    yield part
    for number, child in enumerate(getattr(part, "children", ())):
        if not isinstance(part, widgets.Tab) or number == part.selected_index:
            yield from laid_out(child)


def shown(table: Any) -> dict[str, dict[str, str]]:
    """Return the texts of the page of a table, by key and column."""
    names = [column["name"] for column in table._setup["columns"]]
    texts = {
        key: [cell[0] if isinstance(cell, list) else str(cell) for cell in cells]
        for key, cells, _ in table.get_state("_page")["_page"]["rows"]
    }
    return {key: dict(zip(names, row, strict=True)) for key, row in texts.items()}


def number(button: widgets.Button) -> int:
    """Return the number on a button."""
    found = re.search(r"[(]([0-9,]+)[)]", button.description)
    return int(found[1].replace(",", "")) if found else 0


class Clicks(RuleBasedStateMachine):
    """A dashboard, its user, and the service."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(tempfile.mkdtemp(prefix="clicks-", dir=MEMORY if MEMORY.is_dir() else None))
        self.stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.open_before = set(open_widgets())
        self.world = World()
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        thread = type("ThreadOfWorld", (Thread,), {"world": self.world})
        patch.setattr(work, "threading", SimpleNamespace(Event=threading.Event, Lock=threading.Lock, Thread=thread))
        patch.setattr(concurrent.futures, "wait", self.wait_for)
        self.stack.enter_context(self.world.patched())
        self.broken = False  # the target
        self.fault = ""
        self.begun: set[str] = set()  # such RPCs, that a question has allowed
        self.changes: list[str] = []  # RPCs that have changed something since the last step
        self.allowed: set[str] = set()  # such RPCs, in this step
        self.batches: list[str] = []  # ids

    def wait_for(self, futures: list[Any], timeout: float) -> None:
        """Have the world go on until work has ended."""
        limit = self.world.elapsed + timeout
        while not all(one.done() for one in futures):
            assert self.world.step(limit), "it hangs"

    @initialize(tasks=st.sampled_from([0, 5, 30]), tab=st.sampled_from(TABS))
    def begin(self, tasks: int, tab: str) -> None:
        """Open the dashboard of a service with two queues, one of which is paused and has tasks; a batch has failed."""
        service = Process(self.world, self.root / "cloud")
        self.cloud = Cloud(service, self.answer, before=self.before, after=self.after)
        self.kernel = Kernel(self.cloud, self.root / "home", self.root / "store")

        def cell(client: Client) -> Dashboard:
            client.queue(QUEUE, create=True, rate=5, max_attempts=2, min_backoff=1, max_backoff=1)
            paused = client.queue("paused", create=True)
            paused.pause()
            for number in range(tasks):
                paused.enqueue(
                    f"{URL}?token={SECRET}",
                    {"n": number, "api_key": SECRET},
                    headers={"Authorization": f"Bearer {SECRET}"},
                )
            board: Dashboard = client.panel()
            return board

        self.board = self.do(cell)
        self.broken = True
        self.send(14, QUEUE)
        self.world.go_on(8.0)
        self.changes.clear()
        self.see(tab)
        if tab == "Batches":
            self.click(lambda: user.send_message(self.panel.table, do="show", key=self.batches[0]))

    def answer(self, delivery: Delivery) -> int:
        """Answer a delivery."""
        return 503 if self.broken and delivery.body["n"] % 3 == 0 else 200

    def before(self, _caller: Process, rpc: str) -> float:
        """Refuse a call, let it wait, or note what it changes."""
        if self.fault == "refuse":
            raise RefusedError("UNAVAILABLE", "try later")
        if self.fault == "forbid" and rpc in CHANGES:
            raise RefusedError("PERMISSION_DENIED", "not you")
        if rpc in CHANGES:
            self.changes.append(rpc)
        return 20.0 if self.fault == "silent" else 0.01

    def after(self, _caller: Process, rpc: str) -> float:
        """Lose an answer, or send it."""
        if self.fault == "lose" and rpc in CHANGES:
            raise RefusedError("UNAVAILABLE", "connection reset")
        return 0.01

    def do(self, function: Callable[[Client], Any]) -> Any:
        """Do something in the kernel."""
        return self.kernel.do(function)

    def settle(self) -> None:
        """Wait until the board has done its work."""
        self.do(lambda _: self.board.settle())

    def see(self, tab: str) -> None:
        """Open a tab, as the browser reports it."""

        def look(_client: Client) -> None:
            self.board.turn_to(tab)
            for title, panel in self.board.parts.items():
                user.send_message(panel.footer, do="visible", visible=title == tab)

        self.do(look)
        self.settle()

    @property
    def panels(self) -> list[Panel]:
        """The board and the tabs that were opened."""
        return [self.board, *self.board.parts.values()]

    @property
    def panel(self) -> Any:
        """The panel of the open tab."""
        return self.board.current

    @property
    def question(self) -> Any:
        """What is asked."""
        return self.panel.prompt.question

    @property
    def tables(self) -> list[Any]:
        """Tables that can be seen."""
        return [one for one in laid_out(self.board) if hasattr(one, "page_keys")]

    # What happens.

    @rule(
        fault=st.sampled_from(["", "", "refuse", "forbid", "silent", "lose"]),
        rows=st.sampled_from([0, 3, 14]),
        queue=st.sampled_from([QUEUE, "paused"]),
        seconds=st.sampled_from([1.0, 5.0]),
    )
    def pass_time(self, fault: str, rows: int, queue: str, seconds: float) -> None:
        """Let the service be well, or not, and time go on; a cell may send a batch, and each other target works."""
        self.fault, self.broken = fault, not self.broken
        if rows and not fault and len(self.batches) < MOST:
            self.allowed |= CHANGES - DESTROYS
            self.send(rows, queue)
        self.go_on(seconds)

    def send(self, rows: int, queue: str) -> None:
        """Send a batch."""
        number = len(self.batches)
        data = pd.DataFrame({"n": range(rows), "day": [f"d{number}-{n}" for n in range(rows)], "password": SECRET})
        made = self.do(lambda client: client.queue(queue).fan_out(data, url=URL, progress=False))
        self.batches.append(made.id)

    def go_on(self, seconds: float) -> None:
        """Let time go on; the sender may send what cells and clicks have begun."""
        self.allowed |= {"CreateTask", "BatchCreateTasks", *self.begun}
        self.world.go_on(seconds)
        self.settle()

    # What the user does.

    @rule(tab=st.sampled_from(TABS))
    def tab(self, tab: str) -> None:
        """Open a tab."""
        self.see(tab)

    @precondition(lambda self: self.question is None)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        """Click a row, or the box that selects it; turn a page, or sort."""
        table = data.draw(st.sampled_from(self.tables))
        keys = table.page_keys
        names = [column["name"] for column in table._setup["columns"]]
        act = data.draw(st.sampled_from([*["show", "show", "select", "select"] * bool(keys), "turn", "sort"]))
        key = data.draw(st.sampled_from(keys)) if keys else None
        acts: dict[str, Callable[[], object]] = {
            "show": lambda: user.send_message(table, do="show", key=str(key)),
            "select": lambda: table.select({*table.selected} ^ {key}),
            "turn": lambda: table.turn(data.draw(st.integers(0, 2))),
            "sort": lambda: table.sort(data.draw(st.sampled_from(names)), descending=data.draw(st.booleans())),
        }
        self.do(lambda _: acts[act]())
        self.settle()

    @precondition(lambda self: self.question is None)
    @rule(data=st.data())
    def search(self, data: st.DataObject) -> None:
        """Choose what is listed, by a text or from a list."""
        fields = [one for one in laid_out(self.panel) if isinstance(one, widgets.Text | widgets.Dropdown | Choices)]
        if fields:
            field = data.draw(st.sampled_from(fields))
            if isinstance(field, Choices):
                keys = [one["key"] for one in field.get_state("items")["items"]]
                act = data.draw(st.sampled_from(["pick", "pick", "act"]))
                self.click(partial(user.send_message, field, do=act, key=data.draw(st.sampled_from(["", *keys]))))
            elif isinstance(field, widgets.Dropdown):
                index = data.draw(st.integers(0, len(field.options) - 1))
                self.click(lambda: setattr(field, "index", index))
            else:
                text = data.draw(st.sampled_from(["", "1", "d0-1", "503", "day:d1-0", "nope:1"]))
                self.click(lambda: setattr(field, "value", text))

    @precondition(lambda self: self.question is None)
    @rule(data=st.data())
    def press(self, data: st.DataObject) -> None:
        """Click a button; nobody clicks Refresh where there is another one."""
        buttons = [one for one in laid_out(self.panel) if isinstance(one, widgets.Button) and not one.disabled]
        if buttons:
            self.click(
                data.draw(st.sampled_from([one for one in buttons if one.description != "Refresh"] or buttons)).click
            )

    def click(self, button: Callable[[], object]) -> None:
        """Click what may change something, or ask first."""
        before = len(self.changes)
        self.do(lambda _: button())
        self.settle()
        if self.question is None:
            self.allowed |= CHANGES - DESTROYS
        else:
            assert self.changes[before:] == [], "it is done before it was confirmed"

    @precondition(lambda self: self.question is not None)
    @rule(data=st.data())
    def reply(self, data: st.DataObject) -> None:
        """Answer the question, or cancel it."""
        question, panel = self.question, self.panel
        typed = data.draw(st.sampled_from([question.typed or "", question.typed or "", "wrong", None]))
        confirmed = typed is not None and question.typed in (None, typed)
        if confirmed:
            self.allowed |= CHANGES
            self.begun |= DESTROYS
        self.do(lambda _: user.send_message(panel.footer, do="answer", typed=typed))
        self.settle()
        assert (self.question is None) == (confirmed or typed is None)

    # What has to hold.

    @invariant()
    def nothing_breaks(self) -> None:
        """Errors are those of the service."""
        assert self.world.unhandled == []
        for panel in self.panels:
            assert "trace" not in panel.footer.alert, panel.footer.alert["trace"]
            ast.parse(panel.footer.line)
            asked = panel.prompt.question
            assert (panel.footer.question.get("verb"), panel.footer.busy) == (asked and asked.verb, False)

    @invariant()
    def nothing_is_changed_unasked(self) -> None:
        """Only by a click, a cell, or what they began."""
        assert {*self.changes} <= self.allowed
        self.changes.clear()
        self.allowed = set()

    @rule()
    def calm(self) -> None:
        """Let the service be well, and the panels read; then compare them."""
        self.fault = ""
        self.go_on(CALM)
        if self.question is None:
            self.do(lambda _: self.board.start_refresh())
        self.settle()
        checks: dict[str, Callable[[Client], None]] = {
            "Queues": self.same_queues,
            "Tasks": self.same_tasks,
            "Batches": self.same_batches,
            "Attempts": self.same_attempts,
        }
        title = self.board._open_title()
        self.do(checks[title])

    def same_queues(self, client: Client) -> None:
        """Compare the queues."""
        queues = client.queues()
        assert self.panel.table.total == len(queues)
        for name, cells in shown(self.panel.table).items():
            values = queues.loc[name]
            assert (cells["state"].upper(), cells["tasks"]) == (values["state"], f"{values['tasks']:,}")
            assert cells["rate"] == f"{values['rate']:g}"

    def same_tasks(self, client: Client) -> None:
        """Compare the tasks of a queue."""
        tasks = client.queue(self.panel.queue).tasks().reset_index()
        assert (self.panel.table.total, self.panel.table.known(tasks["task"])) == (len(tasks), {*tasks["task"]})
        states = tasks.set_index("task")["state"]
        for name, cells in shown(self.panel.table).items():
            assert cells["state"] == states[name]

    def same_attempts(self, client: Client) -> None:
        """Compare the attempts."""
        attempts = client.queue(self.panel.queue).attempts("15min")
        if self.panel.status.value == "any answer":
            assert self.panel.table.total == len(attempts)
        told = Counter(attempts["status"])
        assert {*Counter(cells["status"] for cells in shown(self.panel.table).values())} <= {*told}

    def same_batches(self, client: Client) -> None:
        """Compare the list, and the rows and the buttons of the batch that is open."""
        view, batch = self.panel.view, self.panel.view.batch
        assert self.panel.table.known(client.batches().reset_index()["batch"]) >= {*shown(self.panel.table)}
        if batch is None:
            return
        rows = client.batch(batch.id).tasks()
        failed, left = sum(rows["state"] == "failed"), sum(~rows["state"].isin([*ENDS]))
        assert number(view.actions.cancel) == left
        assert view.actions.retry.disabled == (number(view.actions.retry) == 0)
        if failed:
            assert number(view.actions.retry) == failed
        if view.rows.table is not None:
            for ref, cells in shown(view.rows.table).items():
                [place] = view.view.reader.positions([int(ref)])
                assert cells["state"] == rows["state"].iloc[place]
                assert cells["day"] == rows["day"].iloc[place]

    def teardown(self) -> None:
        """Close the board."""
        try:
            if hasattr(self, "board"):
                saved = str(embed_data(views=[self.board])["manager_state"])
                assert SECRET not in saved
                self.do(lambda _: self.board.close())
                assert {*open_widgets()} <= self.open_before
                self.kernel.close()
                self.cloud.close()
        finally:
            self.stack.close()


Clicks.TestCase.settings = settings(
    **({} if settings.default is settings.get_profile("long") else FEW),
    suppress_health_check=[*HealthCheck],
    phases=[Phase.generate],
    print_blob=True,
)
TestClicks = Clicks.TestCase

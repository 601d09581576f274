"""The magics, in a real IPython shell."""

import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from cloudtasks_nb.client.client import Client
from cloudtasks_nb.errors import CloudTasksError, EndpointError, InvalidInputError, QueueNotFoundError
from cloudtasks_nb.magics import QueueNames
from cloudtasks_nb.service import open_clients
from tests.cases import cases

PATIENCE = 240.0  # seconds after which something that should happen counts as not happening
URL = "http://127.0.0.1:9/run"
TABLE = tomllib.loads(Path(__file__).with_name("magics.toml").read_text(encoding="utf-8"))

Run = Callable[[str], Any]
Complete = Callable[[str], list[str]]


class Queue:
    """A queue that keeps what is enqueued."""

    def __init__(self, name: str, *, there: bool) -> None:
        self.name = f"projects/p/locations/l/queues/{name}"
        self.there = there
        self.enqueued: list[tuple[str, Any]] = []

    def tasks(self) -> pd.DataFrame:
        """List one task."""
        if not self.there:
            raise QueueNotFoundError(f"there is no queue {self.name}", resource=self.name, hint="make it")
        return pd.DataFrame({"queue": [self.name]}, index=["t1"])

    def enqueue(self, url: str, body: Any) -> pd.DataFrame:
        """Keep it."""
        self.enqueued.append((url, body))
        return self.tasks().assign(url=url)


class Connection(Client):
    """A connection with these queues, without a service."""

    def __init__(self, *names: str, ready: threading.Event | None = None, error: Exception | None = None) -> None:
        self.made = {name: Queue(name, there=True) for name in names}
        self.ready = ready
        self.error = error
        self.asked = 0

    def queues(self) -> pd.DataFrame:
        """List the queues, or raise, when it is time."""
        self.asked += 1
        if self.ready is not None:
            self.ready.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return pd.DataFrame({"state": "RUNNING"}, index=pd.Index(self.made, name="queue"))

    def queue(self, name: Any, **_: Any) -> Any:
        """Give one of them, or one that is not there."""
        return self.made.get(name) or Queue(name, there=False)

    def batches(self) -> pd.DataFrame:
        """List no batches."""
        return pd.DataFrame({"total": []}, index=pd.Index([], name="batch"))

    def panel(self, *, read_only: bool = False, tz: Any = None) -> Any:  # noqa: ARG002 - as that of a client
        """Give something to show."""
        return "the panel, read-only" if read_only else "the panel"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    """Give a shell with the extension loaded; it leaves no trace in this process."""
    monkeypatch.setattr(open_clients, "_open", [])
    monkeypatch.setattr(open_clients, "_held", [])
    config = Config({"HistoryManager": {"enabled": False}})
    made = InteractiveShell(config=config, ipython_dir=str(tmp_path), user_module=ModuleType("notebook"))
    made.run_line_magic("load_ext", "cloudtasks_nb")
    return made


@pytest.fixture
def run(shell: InteractiveShell) -> Run:
    """Run a cell and give its last value; an error is raised."""

    def run(cell: str) -> Any:
        done = shell.run_cell(cell)
        done.raise_error()
        return done.result

    return run


@pytest.fixture
def complete(shell: InteractiveShell) -> Complete:
    """Complete a line at its end, as a kernel does."""

    def complete(line: str) -> list[str]:
        with provisionalcompleter():
            return [found.text for found in shell.Completer.completions(line, len(line))]

    return complete


@pytest.fixture
def tasks(shell: InteractiveShell) -> Connection:
    """Give the connection that the notebook calls `tasks`."""
    shell.user_ns["tasks"] = made = Connection("reports", "mails")
    return made


@cases(("queues", ["reports", "mails"]), ("tasks reports", ["t1"]), ("batches", []))
def test_a_line_gives_what_the_method_gives(run: Run, tasks: Connection, line: str, index: list[str]) -> None:
    """A verb returns the frame of its method, which an assignment keeps; `%ct panel` ends a cell with the widget."""
    assert run(f"%ct {line}").index.tolist() == index
    assert run(f"frame = %ct {line}\nframe").index.tolist() == index
    assert run("%ct panel") == "the panel"


@cases(
    ('{"day": "2026-01-01", "n": [1, 2.5, null]}', {"day": "2026-01-01", "n": [1, 2.5, None]}),
    *(("[1,\n 2]", [1, 2]), ("7", 7), ("", None)),
    *((text, text) for text in ("day=2026-01-01\nagain", '{"day": }', '"a text"', "null")),
)
def test_a_cell_is_the_body(run: Run, tasks: Connection, cell: str, body: Any) -> None:
    """The cell is sent as JSON if it is an object, a list or a number, else as the text that it is."""
    made = run(f"%%ct enqueue reports {URL}\n{cell}\n")
    assert made["url"].tolist() == [URL]
    assert tasks.made["reports"].enqueued == [(URL, body)]


def test_python_in_braces_is_filled_in(run: Run, shell: InteractiveShell, tasks: Connection) -> None:
    """Names and expressions of the notebook can stand in the line, as in every magic."""
    shell.user_ns.update(name="mails", url=URL)
    run('%%ct enqueue {name} {url}\n{"name": "left alone"}')
    assert tasks.made["mails"].enqueued == [(URL, {"name": "left alone"})]


@pytest.mark.parametrize("named", [None, 7, pd.DataFrame({"task": ["t1"]})], ids=["none", "a number", "a frame"])
def test_without_tasks_the_newest_connection_is_used(run: Run, shell: InteractiveShell, named: Any) -> None:
    """A notebook without `tasks`, or that calls something else so, uses the last connection; else `tasks` is used."""
    shell.user_ns["tasks"] = named
    held = [Connection("older"), Connection("newer")]
    for connection in held:
        open_clients.add(connection)
    assert run("%ct queues").index.tolist() == ["newer"]
    shell.user_ns["tasks"] = Connection("reports")
    assert run("%ct queues").index.tolist() == ["reports"]


@cases(*map(tuple, TABLE["errors"]))
def test_errors_are_short(shell: InteractiveShell, tasks: Connection, capsys: Any, cell: str, words: list[str]) -> None:
    """An error is a line or two: no traceback, but near names and the next step, and the cell counts as failed."""
    done = shell.run_cell(cell)
    shown = capsys.readouterr().out.strip().splitlines()
    assert isinstance(done.error_in_exec, CloudTasksError)
    assert shown == f"{type(done.error_in_exec).__name__}: {done.error_in_exec}".splitlines()[:2]
    assert [word for word in words if word not in "\n".join(shown)] == []


def test_no_connection_is_said(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any connection the error names the call that makes one."""
    shell.run_cell("%ct queues")
    assert "tasks = ct.local()" in capsys.readouterr().out


def test_another_error_keeps_its_traceback(shell: InteractiveShell, tasks: Connection, capsys: Any) -> None:
    """An error that is none of ours is not hidden behind one line."""
    tasks.error = ZeroDivisionError("a fault in the library")
    shell.run_cell("%ct queues")
    assert "Traceback" in capsys.readouterr().out


@cases(*map(tuple, TABLE["completions"]))
def test_verbs_and_queues_are_completed(complete: Complete, tasks: Connection, line: str, found: list[str]) -> None:
    """Tab gives the verbs, then the names of the queues, and nothing else."""
    assert complete(line) == found


@pytest.mark.parametrize("line", ["%ct queues ", "%ct tasks reports ", "%%ct enqueue reports ", "%ct nothing "])
def test_where_no_queue_stands_none_is_offered(complete: Complete, tasks: Connection, line: str) -> None:
    """A place that takes no queue gets no queue, and the service is not asked."""
    assert not {"reports", "mails", "queues"} & set(complete(line))
    assert tasks.asked == 0


def test_without_a_connection_only_verbs_are_completed(complete: Complete) -> None:
    """No connection is made for a keystroke."""
    assert complete("%ct t") == ["tasks"]
    assert "reports" not in complete("%ct tasks ")


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Give an event that a slow service waits for; it is set after the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_a_slow_service_does_not_hold_up_the_keyboard(held: threading.Event) -> None:
    """Names that are late are left out, the service is asked once, and its answer serves the next keystroke."""
    client = Connection("reports", ready=held)
    names = QueueNames(patience=0.0)
    assert [names.of(client), names.of(client)] == [[], []]
    assert client.asked == 1
    held.set()
    for thread in threading.enumerate():
        if thread.name == "cloudtasks-nb-names":
            thread.join(PATIENCE)
    assert names.of(client) == ["reports"]
    assert client.asked == 1


def test_names_are_asked_for_again_when_they_are_old(tasks: Connection) -> None:
    """A queue that was made meanwhile appears, at once where somebody mistyped its name."""
    kept, fleeting = QueueNames(patience=PATIENCE, fresh=PATIENCE), QueueNames(patience=PATIENCE, fresh=0.0)
    assert kept.of(tasks) == fleeting.of(tasks) == ["reports", "mails"]
    tasks.made["new"] = Queue("new", there=True)
    assert kept.of(tasks) == ["reports", "mails"]
    assert kept.of(tasks, anew=True) == fleeting.of(tasks) == ["reports", "mails", "new"]


@pytest.mark.parametrize("error", [EndpointError("nobody answers"), RuntimeError("closed")])
def test_a_service_that_fails_gives_what_was_known(tasks: Connection, error: Exception) -> None:
    """A keystroke raises nothing: names that were known stay, and a failing service is left alone for a while."""
    names = QueueNames(patience=PATIENCE, fresh=PATIENCE)
    names.of(tasks)
    tasks.error = error
    assert names.of(tasks, anew=True) == names.of(tasks) == ["reports", "mails"]
    assert tasks.asked == 2


def test_a_queue_is_missing_and_so_is_the_service(shell: InteractiveShell) -> None:
    """Near names are a courtesy: without them the error is still the one about the queue."""
    shell.user_ns["tasks"] = Connection("reports", error=EndpointError("nobody answers"))
    with pytest.raises(QueueNotFoundError, match=r"queues/reprots\s+→ make it"):
        shell.run_line_magic("ct", "tasks reprots")
    with pytest.raises(InvalidInputError, match="%ct queues lists the queues"):
        shell.run_line_magic("ct", "tasks")


def test_loading_twice_changes_nothing(shell: InteractiveShell, complete: Complete, tasks: Connection) -> None:
    """A notebook whose first cell is run again has each completion once."""
    shell.run_line_magic("reload_ext", "cloudtasks_nb")
    assert complete("%ct ") == ["queues", "tasks", "batches", "panel"]
    assert complete("%ct tasks ") == ["reports", "mails"]

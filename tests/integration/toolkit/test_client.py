"""The connection: what it talks to, queues made and listed, Google's own client and forked commands beside it."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import pandas as pd
import pytest
from google.cloud import tasks_v2

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb._frames import QUEUES
from cloudtasks_nb._frames import frame as declared
from cloudtasks_nb.service import open_clients
from tests.cases import cases
from tests.integration.conftest import LOCATION, Emulator, Intercept, dtypes, impatient
from tests.interrupts import interrupt, interruptible
from tests.processes import run
from tests.raising import raises


def test_queues_are_a_frame(tasks: ct.Client) -> None:
    """Columns and dtypes are the declared ones, the same without queues; statistics are there."""
    empty = tasks.queues()
    tasks.queue("q", create=True).pause().enqueue("http://127.0.0.1:9/")
    full = tasks.queues()
    for frame in (empty, full):
        assert dtypes(frame) == dtypes(declared(QUEUES, {}, index="queue"))
        assert (frame.index.name, str(frame.index.dtype)) == ("queue", "string")
    assert (len(empty), full.index.tolist()) == (0, ["q"])
    (row,) = full[["state", "tasks", "rate", "max_attempts", "name"]].to_numpy().tolist()
    assert row == ["PAUSED", 1, 500.0, 5, f"{LOCATION}/queues/q"]
    assert full.max_backoff["q"] == pd.Timedelta("1h")


def test_an_endpoint_without_statistics(tasks: ct.Client, queue: ct.Queue, intercept: Intercept) -> None:
    """Where v2beta3 is not served the settings come from v2, and depth and rates are not known."""

    async def without(call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        if rpc == "ListQueueStats":
            raise errors.ServiceError("no", code="UNIMPLEMENTED")
        return await call()

    intercept(without)
    found = tasks.queues()
    assert dtypes(found) == dtypes(declared(QUEUES, {}, index="queue"))
    assert found.loc[queue.id, ["tasks", "oldest_due", "running", "done_last_minute", "effective_rate"]].isna().all()
    assert found.rate[queue.id] == 500


def test_a_new_queue(tasks: ct.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """It gets a log and few attempts by default, and one line shows which defaults are the toolkit's, if any."""
    queue = tasks.queue("reports", create=True, rate=50, max_concurrent=8, min_backoff="1min")
    ours = "log_sampling_ratio=1.0 (Cloud Tasks' own default: 0.0), max_attempts=5 (Cloud Tasks' own default: 100)"
    assert capsys.readouterr().out == f"made queue {queue.id} with {ours}\n"
    row = tasks.queues().loc[queue.id]
    assert (row.rate, row.max_concurrent, row.max_attempts, row.log_sampling_ratio) == (50, 8, 5, 1)
    assert row.min_backoff == pd.Timedelta("1min")
    tasks.queue("other", create=True, max_attempts=100, log_sampling_ratio=0.0)
    assert capsys.readouterr().out == "made queue other\n"
    assert list(tasks.queues().loc["other", ["max_attempts", "log_sampling_ratio"]]) == [100, 0]


def test_the_same_cell_again(tasks: ct.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue that is as asked for is left alone, without a word, however its values are written."""
    name = "reports"
    for backoff in ("90s", 90, pd.Timedelta("1min 30s")):
        tasks.queue(name, create=True, rate=50, min_backoff=backoff)
    assert capsys.readouterr().out.count("\n") == 1


@cases(
    ({"rate": 50, "max_concurrent": 4, "min_backoff": "1min"}, "max_concurrent 8 → 4, min_backoff 0.1s → 60s"),
    ({"max_backoff": pd.Timedelta("10s")}, "max_backoff 3600s → 10s"),
    ({"rate": 20}, "rate 50 → 20"),
)
def test_an_existing_queue_is_changed(
    tasks: ct.Client, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], text: str
) -> None:
    """Only the settings that differ are changed, and one line shows the values before and after."""
    name = "reports"
    tasks.queue(name, create=True, rate=50, max_concurrent=8, max_attempts=9).pause()
    capsys.readouterr()
    tasks.queue(name, create=True, **settings)
    assert capsys.readouterr().out == f"queue {name}: {text}\n"
    row = tasks.queues().loc[name]
    assert (row.state, row.max_attempts) == ("PAUSED", 9)


def test_who_loses_the_race_brings_its_settings(
    tasks: ct.Client, queue: ct.Queue, intercept: Intercept, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that somebody creates between our look-up and our call is an existing queue."""
    rpcs: list[str] = []

    async def too_early(call: Callable[[], Awaitable[Any]], rpc: str, fields: dict[str, Any]) -> Any:
        rpcs.append(rpc)
        if rpcs == ["GetQueue"]:
            raise errors.QueueNotFoundError(resource=fields["name"], code="NOT_FOUND")
        return await call()

    intercept(too_early)
    tasks.queue(queue.id, create=True, rate=7)
    assert rpcs == ["GetQueue", "CreateQueue", "GetQueue", "UpdateQueue"]
    assert capsys.readouterr().out == f"queue {queue.id}: rate 500 → 7\n"


def test_full_names(tasks: ct.Client) -> None:
    """A full name is taken as it is, also of another project; Google's client spells it alike."""
    queue = tasks.queue("projects/other/locations/eu/queues/q")
    assert (queue.id, queue.name) == ("q", tasks_v2.CloudTasksClient.queue_path("other", "eu", "q"))
    assert tasks.queue("q").name == tasks_v2.CloudTasksClient.queue_path("demo", "us-central1", "q")


def test_googles_client_beside(tasks: ct.Client, queue: ct.Queue) -> None:
    """`tasks.client` is Google's own client for the same endpoint, and is created once."""
    assert isinstance(tasks.client, tasks_v2.CloudTasksClient)
    assert tasks.client is tasks.client
    assert tasks.client.get_queue(name=queue.name).name == queue.name
    request = tasks_v2.HttpRequest(url="http://127.0.0.1:9/")
    made = tasks.client.create_task(parent=queue.pause().name, task=tasks_v2.Task(http_request=request))
    assert queue.tasks()["name"].tolist() == [made.name]


def test_the_block_closes(emulator: Emulator) -> None:
    """After `with` the channels are closed and verbs are refused; closing twice does no harm."""
    with ct.connect("p", "l", endpoint=emulator.ready["grpc"]) as tasks:
        tasks.queues()
        client = tasks.client
        assert open_clients.newest() is tasks
    assert open_clients.newest() is not tasks
    tasks.close()
    with pytest.raises(errors.PreconditionError, match="this connection is closed"):
        tasks.queues()
    with pytest.raises(ValueError, match="closed channel"):
        client.list_queues(parent="projects/p/locations/l")


def test_the_emulator_of_the_environment(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CLOUD_TASKS_EMULATOR_HOST` is honoured, and the badge says LOCAL; `endpoint=` comes first."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.ready["grpc"])
    with ct.connect("p", "l") as tasks:
        assert tasks.endpoint == emulator.ready["grpc"]
        assert tasks.certs_url == f"{emulator.ready['http']}/oauth2/v1/certs"
        assert len(tasks.queues()) == 0
        assert repr(tasks) == f"<Cloud Tasks in p / l [LOCAL {emulator.ready['grpc']}]>"
    with ct.connect("p", "l", endpoint="127.0.0.1:1") as tasks:
        assert tasks.endpoint == "127.0.0.1:1"
    with ct.connect("p", "l", endpoint="cloudtasks.googleapis.com") as tasks:
        assert repr(tasks) == "<Cloud Tasks in p / l [GOOGLE p]>"


def test_a_project_that_is_not_known_yet() -> None:
    """The note names it once, in words, and not as None."""
    with ct.connect() as tasks:
        assert repr(tasks) == "<Cloud Tasks in (project not known) / (location not known) [GOOGLE]>"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Be on a machine without credentials; keep how often they were looked for."""
    asked: list[str] = []

    def missing(**_: Any) -> None:
        asked.append("default")
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", missing)
    return asked


def test_without_credentials_the_first_verb_says_so(nobody: list[str]) -> None:
    """`connect()` and `queue()` call nobody and do not fail; the first verb has the command that mends it."""
    with ct.connect("p", "us-central1") as tasks:
        queue = tasks.queue("reports")
        assert (repr(tasks), nobody) == ("<Cloud Tasks in p / us-central1 [GOOGLE p]>", [])
        login = "gcloud auth application-default login"
        for verb in (tasks.queues, queue.tasks, queue.attempts, queue.pause):
            with raises(errors.CredentialsError, "no Google credentials were found", hint=login):
                verb()
        assert login in tasks._repr_mimebundle_()["text/plain"]


def test_an_emulator_needs_no_credentials(tasks: ct.Client, nobody: list[str]) -> None:
    """Nobody looks for credentials when an emulator is talked to."""
    tasks.queues()
    assert nobody == []


def test_the_project_of_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody names a project, the default credentials may know it; looked for by the first need only."""
    found = google.auth.credentials.AnonymousCredentials()
    monkeypatch.setattr(google.auth, "default", lambda **_: (found, "adc-project"))
    with ct.connect(location="l") as tasks:
        assert tasks.queue("q").name == "projects/adc-project/locations/l/queues/q"


def test_how_a_connection_shows_itself(tasks: ct.Client, queue: ct.Queue) -> None:
    """Place, badge and the queues, in text and HTML."""
    shown = tasks._repr_mimebundle_()
    for text in (shown["text/plain"], shown["text/html"]):
        for word in ("demo / us-central1", f"LOCAL {tasks.endpoint}", queue.id, "RUNNING"):
            assert word in text


def test_a_connection_without_queues_says_the_next_step(tasks: ct.Client) -> None:
    """The line to type is shown."""
    assert 'tasks.queue("reports", create=True)' in tasks._repr_mimebundle_()["text/plain"]


def test_an_id_that_is_taken(paused: ct.Queue) -> None:
    """The error names the id and the time when it is free again."""
    paused.enqueue("https://svc.example.com/run", {"n": 1}, task_id="t")
    with raises(errors.AlreadyExistsError, 'a task "t" in queue', hint="another task_id"):
        paused.enqueue("https://svc.example.com/run", {"n": 2}, task_id="t")
    assert paused.tasks(body=True).body.to_list() == [{"n": 1}]


def test_a_queue_for_a_name(tasks: ct.Client, queue: ct.Queue) -> None:
    """A Queue is as good as its full name, also to change its settings."""
    assert tasks.queue(queue, create=True, rate=5).name == queue.name
    assert tasks.queues().rate[queue.id] == 5


def test_an_emulator_of_the_environment_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """The error says that a variable leads there."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", f"127.0.0.1:{free_port}")
    with impatient() as tasks, pytest.raises(errors.EndpointError, match="which CLOUD_TASKS_EMULATOR_HOST names"):
        tasks.queues()


def test_an_interrupted_verb_leaves_the_connection_usable(queue: ct.Queue, intercept: Intercept) -> None:
    """After an interrupt the next cell works."""
    calls: list[str] = []

    async def interrupt_first(call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        calls.append(rpc)
        if len(calls) == 1:
            interrupt()
        return await call()

    def cell() -> None:
        for _ in range(1000):
            queue.tasks()

    intercept(interrupt_first)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        cell()
    assert len(queue.tasks()) == 0


SCRIPT = """
import os
{imports}
import cloudtasks_nb as ct
with ct.connect() as tasks:
    for _ in range(10):
        tasks.queues()
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("imports", ["", "from cloudtasks_nb import *", "import cloudtasks_nb.fanout.plan.plan"])
def test_a_command_prints_no_warning_of_grpc(emulator: Emulator, imports: str) -> None:
    """`!command` in a cell forks the kernel, as this does; nothing is printed, whatever was imported first."""
    environment = {**os.environ, "CLOUD_TASKS_EMULATOR_HOST": emulator.ready["grpc"]}
    done = run(sys.executable, "-W", "ignore", "-c", SCRIPT.format(imports=imports), environment=environment)
    assert (done.returncode, done.stderr) == (0, "")

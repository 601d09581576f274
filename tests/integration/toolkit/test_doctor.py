"""`tasks.doctor()`: one row a check, whatever is wrong."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pandas as pd
import pytest
from google.oauth2.credentials import Credentials

import cloudtasks_nb as ct
from cloudtasks_nb.client.checks import store as store_check
from cloudtasks_nb.errors import EndpointError
from cloudtasks_nb.service.connection import Connection
from tests.cases import cases
from tests.integration.conftest import PATIENCE, Intercept, Target, dtypes, impatient, options

CHECKS = [
    *("credentials", "principal", "project", "api", "location", "queues", "permissions", "log", "store", "clock"),
    "versions",
]
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")


def wrong(found: pd.DataFrame) -> list[str]:
    """Name the checks that are not ok."""
    return found.index[~found.ok.astype(bool)].tolist()


def test_an_emulator_is_well(tasks: ct.Client) -> None:
    """Everything is ok, checks that an emulator does not need are marked so, and the frame has the declared columns."""
    found = tasks.doctor()
    tasks.queue("reports", create=True)
    assert tasks.doctor().detail["queues"] == "1 queue: reports"
    assert found.index.tolist() == CHECKS
    assert dtypes(found) == {"ok": "boolean", "detail": "string", "fix": "string"}
    assert wrong(found) == []
    unneeded = found.index[found.detail.str.contains("not needed")]
    assert unneeded.tolist() == ["credentials", "principal", "permissions"]
    assert 'tasks.queue("reports", create=True)' in found.fix["queues"]


def test_nobody_answers(free_port: int) -> None:
    """It does not raise: the first call says what is wrong and what to do, and the checks after it are not made."""
    with impatient("p", "l", f"127.0.0.1:{free_port}") as tasks:
        found = tasks.doctor()
    assert wrong(found) == ["api", "location", "queues", "log", "clock"]
    assert found.detail["api"] == f"nothing answers at 127.0.0.1:{free_port}"
    assert "ct.local()" in found.fix["api"]
    assert set(found.detail[wrong(found)[1:]]) == {"not checked"}
    assert set(found.fix[wrong(found)[1:]]) == {'mend "api" first'}


def test_who_does_not_answer_is_asked_once(intercept: Intercept) -> None:
    """All checks together wait once for an answer."""
    waits: list[str] = []

    async def nobody(_: Any, rpc: str, __: Any) -> Any:
        waits.append(rpc)
        raise EndpointError("nothing answers", hint="start it")

    intercept(nobody)
    with ct.connect("p", "l", endpoint="127.0.0.1:9") as tasks:
        first = tasks.doctor()
        assert waits == ["ListQueues"]
        assert tasks.doctor().equals(first)
    assert waits == ["ListQueues"] * 2


def test_nothing_is_known(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """Without credentials, project, location and network each cause has its own next step."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port}")
    with ct.connect() as tasks:
        found = tasks.doctor()
    assert wrong(found) == [check for check in CHECKS[:-1] if check != "store"]  # which is a folder
    assert "gcloud auth application-default login" in found.fix["credentials"]
    assert (found.detail["log"], found.fix["log"]) == ("not checked", 'mend "credentials" first')
    assert "does not answer" in found.detail["clock"]
    assert found.fix["clock"] == "check the network and the proxy"


def test_nobody_names_a_project(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """Credentials without a project are no error; the line that names one is shown."""
    monkeypatch.setattr(google.auth, "default", lambda **_: (Credentials("token"), None))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port}")
    with ct.connect() as tasks:
        found = tasks.doctor()
    assert (found.ok["credentials"], found.ok["project"], found.detail["project"]) == (True, False, "not known")
    assert 'ct.connect("my-project", …)' in found.fix["project"]
    assert found.fix["api"] == 'mend "project" first'


def test_a_check_that_breaks(tasks: ct.Client, intercept: Intercept) -> None:
    """A bug of a check is a finding, and the others go on."""

    async def broken(call: Any, rpc: str, _: Any) -> Any:
        if rpc == "ListLogEntries":
            raise ZeroDivisionError("a bug")
        return await call()

    intercept(broken)
    found = tasks.doctor()
    assert (wrong(found), found.detail["log"]) == (["log"], "ZeroDivisionError: a bug")


@options("--new-queue-delay", "3600")
def test_a_queue_that_was_just_made(tasks: ct.Client) -> None:
    """That it is not found for some minutes is no fault."""
    tasks.queue("reports", create=True)
    found = tasks.doctor()
    assert wrong(found) == []
    assert found.detail["queues"] == "reports was just made, and can take minutes to become available"


def test_the_queue_of_a_batch(tasks: ct.Client, queue: ct.Queue, target: Target) -> None:
    """The queues of batches are looked at too, while queues of others are not."""
    queue.fan_out(pd.DataFrame({"day": ["2013-01-01"]}), url=target.url).wait(PATIENCE)
    with ct.connect("demo", "us-central1", endpoint=tasks.endpoint) as other:
        assert other.doctor().detail["queues"] == f"1 queue: {queue.id}"


@cases(
    (200, True, "a task reached it after"),
    (405, True, "is reached, and answers 405 to a GET request"),
    (401, False, "answers 401: it wants a token"),
    (404, False, "answers 404: nothing is there"),
    (500, False, "answers 500: the service fails"),
)
def test_the_answer_of_a_target(
    tasks: ct.Client, queue: ct.Queue, target: Target, *, status: int, ok: bool, detail: str
) -> None:
    """One task is sent to it with a GET request, its answer is explained, and the task is removed."""
    target.script(status)
    found = tasks.doctor(target.url).loc["target"]
    assert (found.ok, [one.method for one in target.received]) == (ok, ["GET"])
    assert detail in found.detail
    assert len(queue.tasks()) == 0


@options("--wait-for-loopback")
def test_a_handler_that_does_not_listen(
    tasks: ct.Client, queue: ct.Queue, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is not said to be busy; the embedded emulator tells whom its tasks wait for."""
    address = f"127.0.0.1:{free_port}"
    monkeypatch.setattr(Connection, "absent_handlers", lambda _, name: [address] if name == queue.name else [])
    found = tasks.doctor(f"http://{address}/report/a1").loc["target"]
    assert (found.detail, found.fix) == (f"no handler listens at {address} (report)", "ct.serve(report)")


def test_a_target_without_a_queue(tasks: ct.Client, paused: ct.Queue, target: Target) -> None:
    """A paused queue cannot carry the task: nothing is sent, and the doctor says so."""
    checks = tasks.doctor(target.url)
    found = checks.loc["target"]
    assert (found.ok, target.received) == (False, [])
    assert "a queue that runs" in found.detail
    assert (checks.ok["queues"], "is paused" in checks.detail["queues"]) == (False, True)
    assert list(checks.fix[["queues", "target"]]) == [f'tasks.queue("{paused.name.rpartition("/")[2]}").resume()'] * 2


@pytest.fixture
def in_sight() -> Iterator[Path]:
    """Give a folder of which everybody may pass the folders above it; those of pytest are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder, "team")


@POSIX
@cases(
    (0o755, 0o755, "{me} and group {us} and {all}, and written by {me}"),
    (0o755, 0o770, "{me} and group {us}, and written by {me} and group {us}"),
    (0o755, 0o1777, "{me} and group {us} and {all}, and written by {me} and group {us} and {all}"),
    (0o755, 0o700, "{me}, and written by {me}"),
    (0o710, 0o755, "{me} and group {us}, and written by {me}"),
    (0o700, 0o777, "{me}, and written by {me}"),
)
def test_who_can_use_a_store(tasks: ct.Client, in_sight: Path, above: int, mode: int, told: str) -> None:
    """The modes of a store in a folder, and of those above it, say who can read and write it."""
    in_sight.mkdir()
    in_sight.chmod(mode)
    in_sight.parent.chmod(above)
    names = {"me": in_sight.owner(), "us": in_sight.group(), "all": "everybody on this machine"}
    with ct.connect(endpoint=tasks.endpoint, store=in_sight) as sharing:
        found = sharing.doctor()
    assert found.detail["store"].endswith(f"; by its mode it can be read by {told.format(**names)}")
    assert wrong(found) == []


@POSIX
def test_a_home_that_others_can_read(tasks: ct.Client, in_sight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be closed is a finding; where a system has no modes, nothing is said of them."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(in_sight))
    in_sight.mkdir()
    in_sight.chmod(0o1777)
    found = tasks.doctor()
    assert wrong(found) == ["store"]
    assert f"the home {in_sight} can be read by {in_sight.owner()} and group " in found.detail["store"]
    assert "CLOUDTASKS_NB_HOME" in found.fix["store"]
    monkeypatch.setattr(store_check, "_MODES", False)
    found = tasks.doctor()
    assert (wrong(found), "by its mode" in found.detail["store"]) == ([], False)


@POSIX
def test_the_owner_of_a_store_without_a_name(tasks: ct.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have no name: its number is told."""

    def unknown(_: Path) -> str:
        raise KeyError

    monkeypatch.setattr(Path, "owner", unknown)
    assert f"read by user {os.getuid()}" in tasks.doctor().detail["store"]

"""What is typed wrongly: one error that names the thing and the next step, and nothing half-done stays behind."""

import datetime as dt
import re
import tomllib
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jupyter_client.manager import start_new_kernel

import cloudtasks_nb as ct
from cloudtasks_nb.errors import CloudTasksError
from tests.integration.conftest import PATIENCE
from tests.integration.fanout.conftest import sent

TABLE = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text(encoding="utf-8"))
ACCEPTED = TABLE.pop("accepted")
FRAME = pd.DataFrame({"day": ["a", "b"], "when": pd.Timestamp("2026-01-02 06:00"), "n": [1, 2], "m": [1.5, None]})


def report(day: str, origin: str = "JFK") -> str:
    """Serve, or deploy."""
    return f"{origin} on {day}"


def with_a_frame() -> int:
    """Use a frame of this module."""
    return len(FRAME)


def with_a_secret() -> str:
    """Have what looks like a secret."""
    return (password := "swordfish") + password


def yields() -> Iterator[int]:
    """Yield."""
    yield 1


async def yields_later() -> AsyncIterator[int]:
    """Yield."""
    yield 1


NAMES: dict[str, Any] = {
    **{one.__name__: one for one in (report, with_a_frame, with_a_secret, yields, yields_later, Decimal, Path, sent)},
    "ct": ct,
    "dt": dt,
    "np": np,
    "pd": pd,
    "df": FRAME,
    "url": "https://svc.example.com/run",
    "account": "a@p.iam.gserviceaccount.com",
}
#: What is made for the lines that use it.
MADE = {
    "handler": "ct.serve(report)",
    "batch": "sent(queue.fan_out(df, url=url, body=['day'], progress=False))",
    "plan": "queue.fan_out(df, url=url, body=['day'], dry_run=True)",
}


@pytest.fixture
def names(tasks: ct.Client, paused: ct.Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what a line can use, in an empty folder, for a project that the environment names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDTASKS_NB_STORE", "gs://team/tasks")
    monkeypatch.setenv("CLOUDTASKS_NB_LOCATION", "europe-west1")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    return {**NAMES, "tasks": tasks, "queue": paused}


@pytest.mark.parametrize(("line", "kind", "says", "hint"), [row for rows in TABLE.values() for row in rows])
def test_a_mistake(names: dict[str, Any], tmp_path: Path, line: str, kind: str, says: str, hint: str) -> None:
    """It is named with the next step; another word is offered only where the table has one, and nothing is changed."""
    tasks, queue = names["tasks"], names["queue"]
    for name in re.findall("|".join(MADE), line):
        names[name] = eval(MADE[name], names)  # noqa: S307 - our own code
    before = tasks.queues(), len(queue.tasks()), len(tasks.batches())
    with pytest.raises(CloudTasksError) as caught:
        eval(line, names)  # noqa: S307 - our own code
    error = caught.value
    assert kind in {one.__name__ for one in type(error).__mro__}
    assert says in error.message
    assert hint in (error.hint or "")
    assert ("did you mean" in error.message) == ("did you mean" in says)
    assert "hunter2" not in str(error)
    assert "private_key" not in str(error)
    assert (len(queue.tasks()), len(tasks.batches())) == before[1:]
    assert tasks.queues().equals(before[0])
    assert tasks.clock.now - pd.Timestamp.now("UTC") < pd.Timedelta("30min")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_is_at_a_limit(names: dict[str, Any], line: str) -> None:
    """The smallest and the largest values are accepted, also by the service, and 0 where it has a meaning."""
    eval(line, names)  # noqa: S307 - our own code


#: What is there in a kernel.
BEFORE = "import cloudtasks_nb as ct\ntasks = ct.local()\ndef look():\n    return tasks.queue('nowhere').tasks()"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a kernel with a connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path_factory.mktemp("home")))
        manager, client = start_new_kernel(startup_timeout=PATIENCE)
    try:
        assert client.execute_interactive(BEFORE, timeout=PATIENCE, output_hook=print)["content"]["status"] == "ok"
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def traceback(client: Any, cell: str) -> str:
    """Run a cell and return the traceback that is shown, without colours."""
    shown: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        shown.extend(message["content"].get("traceback", ()))

    client.execute_interactive(cell, timeout=PATIENCE, output_hook=hook)
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(shown))


def test_only_public_names_are_offered(client: Any) -> None:
    """The tab key behind ``ct.`` shows what is meant to be used."""
    offered = client.complete("ct.", reply=True, timeout=PATIENCE)["content"]["matches"]
    assert sorted(offered) == sorted(ct.__all__)


def test_a_traceback_is_short(client: Any) -> None:
    """An error shows the line of the cell and its message, nothing of the package and of other errors; `%tb` has it."""
    short, long = traceback(client, "look()"), traceback(client, "%tb")
    assert re.findall(r"^-+> \d+ (.+)$", short, re.MULTILINE) == ["look()", "    return tasks.queue('nowhere').tasks()"]
    assert "cloudtasks_nb" not in short
    assert short.splitlines()[-2].startswith('QueueNotFoundError: there is no queue "nowhere"')
    assert short.splitlines()[-1].startswith('  → tasks.queue("nowhere", create=True) creates it')
    assert "cloudtasks_nb" in long
    assert "direct cause" in long
    for cell, kind in (("ct.conect()", "UnknownNameError"), ("ct.connect(projct='p')", "ArgumentError")):
        shown = traceback(client, cell)
        assert (f"\n{kind}: " in shown, len(shown.splitlines()) <= 9) == (True, True)

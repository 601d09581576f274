"""The first mistakes of a newcomer, typed into a kernel: each is shown in a few lines that say what to type instead."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

import cloudtasks_nb as ct
from tests.cases import cases
from tests.integration.conftest import PATIENCE

#: What is there when the mistakes are made.
BEFORE = """
import pandas as pd
import cloudtasks_nb as ct
tasks = ct.local()
queue = tasks.queue("reports", create=True)
def report(day, origin): return f"{origin} on {day}"
handler = ct.serve(report)
df = pd.DataFrame({"day": ["2013-01-01", "2013-01-02"], "origin": ["JFK", "LGA"], "n": [1, 2]})
batch = queue.pause().fan_out(df, url=handler, body=["day", "origin"])
plan = queue.fan_out(df, url="https://svc.example/run", dry_run=True)
"""

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a kernel with a queue, a handler, a batch and a plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path_factory.mktemp("home")))
        manager, client = start_new_kernel(startup_timeout=PATIENCE)
    try:
        assert client.execute_interactive(BEFORE, timeout=PATIENCE, output_hook=print)["content"]["status"] == "ok"
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


@pytest.fixture
def run(client: Any) -> Run:
    """Run a cell and return the traceback that is shown, without colours."""

    def run(cell: str) -> str:
        shown: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            shown.extend(message["content"].get("traceback", ()))

        client.execute_interactive(cell, timeout=PATIENCE, output_hook=hook)
        return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(shown))

    return run


def test_only_public_names_are_offered(client: Any) -> None:
    """The tab key behind ``ct.`` shows what is meant to be used."""
    offered = client.complete("ct.", reply=True, timeout=PATIENCE)["content"]["matches"]
    assert sorted(offered) == sorted(ct.__all__)


def test_the_whole_traceback_is_there_for_the_asking(run: Run) -> None:
    """An error shows the line of the cell and its message, nothing of the package and of other errors; `%tb` has it."""
    run("def look():\n    return tasks.queue('nowhere').tasks()")
    short, long = run("look()"), run("%tb")
    assert re.findall(r"^-+> \d+ (.+)$", short, re.MULTILINE) == ["look()", "    return tasks.queue('nowhere').tasks()"]
    assert "cloudtasks_nb" not in short
    assert short.splitlines()[-2].startswith('QueueNotFoundError: there is no queue "nowhere"')
    assert short.splitlines()[-1].startswith('  → tasks.queue("nowhere", create=True) creates it')
    assert "cloudtasks_nb" in long
    assert "direct cause" in long


@cases(
    ('batch.wait("5 parsecs")', "InvalidInputError", 'use "10min"'),
    ("queue.fanout(df, url=handler)", "UnknownNameError", 'did you mean "fan_out"?'),
    ("queue.create_task(handler)", "UnknownNameError", 'did you mean "enqueue"?'),
    ("batch.retry()", "UnknownNameError", 'did you mean "retry_failed"?'),
    ("batch.state", "UnknownNameError", 'did you mean "status"?'),
    ("tasks.list_queues()", "UnknownNameError", 'did you mean "queues"'),
    ("tasks.clock.advence('1h')", "UnknownNameError", 'did you mean "advance"'),
    ("plan.send()", "UnknownNameError", 'did you mean "submit"?'),
    ("handler.call()", "UnknownNameError", 'did you mean "calls"?'),
    ("ct.conect('my-project')", "UnknownNameError", 'did you mean "connect"?'),
    ("ct.connect(projct='my-project')", "ArgumentError", 'did you mean "project"'),
    ("ct.local(stor='results')", "ArgumentError", 'did you mean "store"?'),
    ("ct.serve(report, wokers=3)", "ArgumentError", 'did you mean "workers"?'),
    ("ct.deploy(report, projekt='my-project')", "ArgumentError", 'did you mean "project"?'),
    ("ct.handlers.app(report, audiense='https://svc.example')", "ArgumentError", 'did you mean "audience"?'),
    ("batch.wait(timout=5)", "ArgumentError", 'did you mean "timeout"?'),
    ("queue.schedule(handler, every='1h')", "ArgumentError", "→ schedule(url, body, at=, delay=, tz="),
    ("queue.enqueue(handler, json={})", "ArgumentError", 'did you mean "body"?'),
    ("queue.fan_out(df, handler, ['day'])", "ArgumentError", "→ fan_out(data, url, body=, key="),
    ("queue.fan_out(df, 'https://svc.example', at='{n}')", "RowsError", 'unit="s"'),
    ("queue.fan_out(df)", "ArgumentError", "missing a required argument: 'url'"),
    ("queue.backfill('2013', '2014', freq='D', url=handler, by={'n': [1]})", "ArgumentError", 'did you mean "across"?'),
    ("tasks.queue('reports', creat=True)", "InvalidInputError", 'did you mean "create"'),
    (
        "queue.backfill('2013', '2014', freq='D', url=handler, tz='Europe/Zuerich')",
        "InvalidInputError",
        'did you mean "Europe/Zurich"',
    ),
)
def test_a_mistake(run: Run, cell: str, name: str, words: str) -> None:
    """It is shown in a few lines: the line of the cell, the error, and what helps."""
    shown = run(cell)
    assert f"\n{name}: " in shown
    assert words in shown
    assert len(shown.splitlines()) <= 9

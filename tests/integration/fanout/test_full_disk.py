"""Rows that cannot be stored are not sent: a full disk or a locked outbox is an error, and nothing has happened."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import OutboxError
from tests.integration.conftest import Emulator, Target
from tests.raising import raises

URL = "http://127.0.0.1:9/run"


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 200 KB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tasks: ct.Client, paused: ct.Queue) -> None:
    """The error names the file and the ways out; no batch is there, no task was created, and later the cell works."""
    rows = pd.DataFrame({"text": [hashlib.sha512(str(row).encode()).hexdigest() for row in range(5_000)]})
    assert tasks.batches().empty
    with small_files(), raises(OutboxError, r"outbox\.sqlite3.* is full", hint="CLOUDTASKS_NB_HOME"):
        paused.fan_out(rows, url=URL, progress=False)
    assert (len(tasks.batches()), len(paused.tasks())) == (0, 0)
    assert paused.fan_out(rows, url=URL, progress=False).progress().total == 5_000


#: Fills a disk of 8 MB twice with a fan-out that is too large, and does something small after each time.
SMALL_DISK = """
    import hashlib, json, os, sys
    from pathlib import Path
    import pandas as pd
    import cloudtasks_nb as ct
    from cloudtasks_nb.errors import CloudTasksError

    endpoint, queue, url = sys.argv[1:]

    def cell(name, count):
        texts = [hashlib.sha512(f"{name} {row}".encode()).hexdigest() for row in range(count)]
        return queue.fan_out(pd.DataFrame({"text": texts}), url=url, name=name, progress=False)

    def outcome(verb):
        try:
            return verb() or "done"
        except CloudTasksError as error:
            return f"{type(error).__name__}: {error}"

    def run(name):
        return f"{cell(name, 50).wait().succeeded} succeeded"

    with ct.connect("demo", "us-central1", endpoint=endpoint) as tasks:
        queue = tasks.queue(queue)
        old = cell("old", 100)
        old.wait()
        found = {"full": outcome(lambda: cell("many", 60_000))}
        found["few"] = outcome(lambda: run("few"))
        found["full again"] = outcome(lambda: cell("many", 60_000))
        found["delete"] = outcome(old.delete)
        found["few more"] = outcome(lambda: run("few more"))
        log = Path(os.environ["CLOUDTASKS_NB_HOME"], "outbox.sqlite3-wal")
        found["log"] = log.stat().st_size if log.exists() else 0
    print(json.dumps(found))
"""


def on_small_disk(folder: Path, program: str, *words: str) -> dict[str, Any]:
    """Run a program whose home is a disk of 8 MB of its own; return what it prints last."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    mount = 'mount -t tmpfs -o size=8m none "$1" && export CLOUDTASKS_NB_HOME="$1" && shift && exec "$@"'
    child = [sys.executable, "-c", textwrap.dedent(program), *words]
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", str(folder), *child]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))


def test_a_full_disk_leaves_room_for_what_is_small(
    once: ct.Queue, emulator: Emulator, target: Target, tmp_path: Path
) -> None:
    """A fan-out that does not fit takes none: smaller ones and a deletion work, and the file's log is short."""
    found = on_small_disk(tmp_path, SMALL_DISK, emulator.ready["grpc"], once.id, target.url)
    log = found.pop("log")
    assert {key: value.split(":")[0] for key, value in found.items()} == {
        "full": "OutboxError",
        "few": "50 succeeded",
        "full again": "OutboxError",
        "delete": "done",
        "few more": "50 succeeded",
    }
    assert log < 1_000_000

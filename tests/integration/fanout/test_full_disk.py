"""Rows that cannot be stored are not sent: a full disk or a locked outbox is an error, and nothing has happened."""

import json
import subprocess
import sys
import textwrap

import pandas as pd

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator

ROWS = pd.DataFrame({"row": range(300)})
URL = "http://127.0.0.1:9/run"

#: Runs a cell while files may not grow, looks what there is, and runs it again where there is room.
CHILD = """
    import hashlib, json, resource, sys
    import pandas as pd
    import cloudtasks_nb as ct
    from cloudtasks_nb.errors import OutboxError

    texts = [hashlib.sha512(bytes(str(row), "ascii")).hexdigest() for row in range(5_000)]
    with ct.connect("demo", "us-central1", endpoint=sys.argv[1]) as tasks:
        queue = tasks.queue(sys.argv[2])
        cell = lambda: queue.fan_out(pd.DataFrame({"text": texts}), url="http://127.0.0.1:9/run", progress=False)
        assert tasks.batches().empty
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            cell()
        except OutboxError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        found = {"message": message, "batches": len(tasks.batches()), "tasks": len(queue.tasks())}
        print(json.dumps({**found, "total": cell().progress().total}))
"""


def test_a_full_disk(paused: ct.Queue, emulator: Emulator) -> None:
    """The error names the file and the ways out; no batch is there, no task was created, and later the cell works."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), emulator.ready["grpc"], paused.id]
    # If the folder of this test is on a temporary disk, the child says so before it prints its result.
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
    message = found.pop("message")
    assert "outbox.sqlite3" in message
    assert "is full" in message
    assert "CLOUDTASKS_NB_HOME" in message
    assert found == {"batches": 0, "tasks": 0, "total": 5_000}

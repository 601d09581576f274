"""The tasks of rows have a header with their tag, however they are created."""

from contextlib import nullcontext

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.batch.claims import own_key
from cloudtasks_nb.store.results import tag_of
from tests.integration.conftest import Emulator, Target
from tests.integration.fanout.conftest import fault

BOTH_TRANSPORTS = True


@pytest.mark.parametrize("batching", [True, False])
def test_requests_have_the_tags_of_their_tasks(
    emulator: Emulator, tasks: ct.Client, queue: ct.Queue, target: Target, *, batching: bool
) -> None:
    """Beside the headers of the row, also where tasks are created one by one."""
    with nullcontext() if batching else fault(emulator, "BatchCreateTasks", "UNIMPLEMENTED"):
        rows = pd.DataFrame({"day": range(3)})
        batch = queue.fan_out(rows, url=target.url, headers={"X-Day": "{day}"}, progress=False)
        assert batch.wait("60s").succeeded == 3
    key = own_key(tasks._catalog.outbox, batch.id)
    found = {request.headers["x-cloudtasks-taskname"]: request.headers for request in target.received}
    assert sorted(found) == sorted(batch.tasks()["task"])
    assert all(headers["batch-tag"] == tag_of(key, task) for task, headers in found.items())
    assert sorted(headers["x-day"] for headers in found.values()) == ["0", "1", "2"]

"""The memory of a fan-out does not grow with the number of rows."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FEW, MANY = 50_000, 500_000
SAME = 25  # MiB by which two runs may differ

#: Plan an iterator of frames into an outbox, send it to a service that acknowledges at once, and print the peak memory.
CHILD = """
    import asyncio, datetime as dt, json, resource, sys
    import pandas as pd
    from google.cloud.tasks_v2 import types
    from google.longrunning import operations_pb2
    from cloudtasks_nb.fanout.plan.identity import Place
    from cloudtasks_nb.fanout.outbox.spool import BatchSpec
    from cloudtasks_nb.fanout.outbox.outbox import Outbox
    from cloudtasks_nb.fanout.outbox.records import whole
    from cloudtasks_nb.fanout.plan.recipe import TaskOptions
    from cloudtasks_nb.fanout.plan.recipe import compile_recipe
    from cloudtasks_nb.fanout.plan.render import plan_chunks
    from cloudtasks_nb.fanout.states import State
    from tests.unit.fanout.conftest import send

    path, rows = sys.argv[1], int(sys.argv[2])
    done = operations_pb2.Operation(done=True)
    done.metadata.Pack(types.BatchCreateTasksMetadata.pb()(state=2))
    answer = done.SerializeToString()

    class Acknowledging:
        google = False
        calls = 0

        async def raw(self, rpc, request, *, resource_name):
            self.calls += 1
            await asyncio.sleep(0)
            return answer

    def frames():
        for start in range(0, rows, 25_000):
            flight = range(start, min(rows, start + 25_000))
            yield pd.DataFrame({"flight": flight, "origin": "JFK", "day": pd.Timestamp("2026-01-01")})

    recipe = compile_recipe(TaskOptions(url="https://svc.example/run/{origin}", body=["flight", "day"]))
    place = Place(endpoint="google", project="p", location="l", queue="q")
    with Outbox(path) as outbox:
        with outbox.spool(BatchSpec(place=place, recipe=recipe.identity, description=recipe.describe())) as spool:
            for chunk in plan_chunks(frames(), recipe, now=dt.datetime.now(dt.UTC)):
                spool.add(chunk)
            batch = spool.commit().batch
        channel = Acknowledging()
        asyncio.run(send(outbox, batch, channel))
        sent = outbox.batches.counts(whole(batch))[State.SENT]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"sent": sent, "calls": channel.calls, "peak": peak}))
"""


def fan_out(path: Path, rows: int) -> dict[str, Any]:
    """Fan rows out in a process of their own."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(rows)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """From an iterator through plan, outbox and sender: ten times as many rows take the same memory."""
    few, many = (fan_out(tmp_path / str(rows) / "outbox.sqlite3", rows) for rows in (FEW, MANY))
    assert (few["sent"], many["sent"]) == (FEW, MANY)
    assert (few["calls"], many["calls"]) == (FEW // 100, MANY // 100)
    assert many["peak"] - few["peak"] < SAME

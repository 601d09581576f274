"""What the outbox costs a row: storing, giving out and acknowledging it, recording its outcome, opening a new try."""

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from cloudtasks_nb.fanout.evidence import Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.plan.recipe import TaskOptions, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from tests.benchmarks import flights
from tests.benchmarks.figures import Bench, case

_SPEC = BatchSpec(place=Place(endpoint="e", project="p", location="l", queue="q"), recipe=b"recipe")
_TURN, _PAGE = 24, 1_000  # requests, and outcomes, that are stored together


def _measure(bench: Bench) -> None:
    rows = bench.size.listed
    data = flights.frame(rows)
    for folder in bench.rounds():
        with Outbox(folder / "outbox.sqlite3") as outbox:
            spent, batch = _cpu(store, outbox, data)
            bench.report("plan", spent / rows)
            spent, tasks = _cpu(send, outbox, batch)
            bench.report("send", spent / rows)
            spent, _ = _cpu(_record, outbox, batch, tasks)
            bench.report("record", spent / rows)
            spent, opened = _cpu(outbox.outcomes.new_try, batch)
            bench.report("retry", spent / opened)


def _cpu(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the CPU microseconds of some work, and its result."""
    start = time.process_time()
    result = work(*arguments)
    return 1e6 * (time.process_time() - start), result


def store(outbox: Outbox, data: pd.DataFrame, url: str = flights.URL) -> str:
    """Plan and store rows, flights unless another URL is given; return the id of their batch."""
    recipe = compile_recipe(TaskOptions(url=url))
    with outbox.spool(_SPEC) as spool:
        for chunk in plan_chunks(data, recipe, now=dt.datetime.now(dt.UTC)):
            spool.add(chunk)
        return spool.commit().batch


def send(outbox: Outbox, batch: str) -> list[str]:
    """Give all rows out, and store that they were accepted; return their tasks."""
    queue, tasks, acks = outbox.requests.queue(batch), list[str](), list[Ack]()
    while requests := queue.turn(acks, _TURN, now=time.time()):
        acks = [Ack(seq=request.seq, sent=request.refs) for request in requests]
        tasks += [task for request in requests for task in request.tasks]
    return tasks


def _record(outbox: Outbox, batch: str, tasks: list[str]) -> None:
    for start in range(0, len(tasks), _PAGE):
        outbox.outcomes.record(batch, map(_evidence, range(_PAGE), tasks[start : start + _PAGE]))


def _evidence(number: int, task: str) -> Evidence:
    """Return a success, or in one of ten rows a failure."""
    told: dict[str, Any] = {"task": task, "attempts": 1, "began": 1 << 50, "duration": 1_000}
    if number % 10:
        return Evidence(**told, source=Source.LOG, fact=Fact.ANSWERED, status=0)
    message = f"ValueError: no {number}"
    return Evidence(**told, source=Source.RESULTS, fact=Fact.LAST_FAILED, status=13, message=message)


OUTBOX = case(
    "outbox",
    "What the outbox costs a row",
    _measure,
    "100,000 flights of 19 columns; CPU of the process. One outcome in ten is a failure with a message of its own.",
    """
    plan   | plan and store a row                  | µs
    send   | give a row out, and store its answer  | µs
    record | find a row, and record its outcome    | µs
    retry  | open a new try for a failed row       | µs
    """,
)

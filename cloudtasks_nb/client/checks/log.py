"""Check the operations log: whether it can be read, whether the queues write it, and how soon an entry appears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.client.checks.probe import with_probe
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import percent_text
from cloudtasks_nb.errors import PermissionDeniedError
from cloudtasks_nb.fanout.plan.recipe import TaskOptions
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.service.oplog import Wanted

__all__ = ["check_log"]

_HOUR = 3_600_000_000  # microseconds
_PATIENCE = 60.0  # seconds to wait for an entry; usually it takes some seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds between two reads
#: A task that is deleted before it is due. If it cannot be, one attempt ends it: the domain never exists (RFC 6761).
_PROBE = TaskOptions(url="https://cloudtasks-nb.invalid/", method="GET", delay="1h", retry={"max_attempts": 1})


async def check_log(context: CheckContext) -> Finding:
    """Read the log, look at the sampling of the used queues, and wait for the entry of a probe."""
    entries = await _read(context)
    queues = {name: queue.stackdriver_logging_config.sampling_ratio for name, queue in context.queues.items()}
    silent = [name.queue for name, ratio in queues.items() if ratio == 0]
    if silent:
        return Finding(
            ok=False,
            detail=f"can be read, but these queues write no log: {', '.join(silent)} ({LOG_PRICE})",
            fix=f'tasks.queue("{silent[0]}").update(log_sampling_ratio=1.0)',
        )
    if not queues:
        return Finding(ok=True, detail="can be read; whether queues write it shows when there is one")
    partly = [f"{name.queue} {percent_text(ratio)}" for name, ratio in queues.items() if ratio < 1]
    note = f"; sampled, so some outcomes stay unknown: {', '.join(partly)}" if partly else ""
    if context.endpoint.local:
        return Finding(ok=True, detail=f"can be read, and every queue writes it{note}")
    whole = [name for name, ratio in queues.items() if ratio == 1]
    if not whole:
        return Finding(ok=True, detail=f"can be read{note}")
    try:
        return await with_probe(context, whole[0], _PROBE, lambda task: _wait(context, task, note))
    except PermissionDeniedError as error:
        seen = "it has entries of the last hour" if entries else "it has no entry of the last hour"
        detail = f"can be read, and {seen}; how soon an entry appears was not tested: {error.message}{note}"
        return Finding(ok=True, detail=detail)


async def _read(context: CheckContext) -> bool:
    """Return whether the log has an entry of the last hour of a used queue."""
    location = context.endpoint.parent()
    any_queue = next(iter(context.queues), None) or QueueName.parse(f"{location}/queues/none")
    return await context.connection.watcher.is_logged(any_queue, _last_hour(context))


def _last_hour(context: CheckContext, tasks: Sequence[str] | None = None) -> Wanted:
    return Wanted(since=context.connection.clock.micros() - _HOUR, tasks=tasks)


async def _wait(context: CheckContext, task: TaskName, note: str) -> Finding:
    """Wait until the log has an entry of a task that was just created."""
    watcher, started, pause = context.connection.watcher, time.monotonic(), _FIRST_PAUSE
    immediate = await watcher.log_is_immediate()
    while True:
        found = await watcher.is_logged(task.queue, _last_hour(context, [task.task]))
        waited = time.monotonic() - started
        if found:
            return Finding(ok=True, detail=f"an entry can be read after {duration_text(waited)}{note}")
        if immediate or waited > _PATIENCE:
            break
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    project = task.queue.project
    return Finding(
        ok=False,
        detail=f"can be read, but the entry of a new task did not appear within {duration_text(waited)}: the project "
        "excludes the log of Cloud Tasks, or routes it elsewhere",
        fix=f"gcloud logging sinks describe _Default --project={project} shows the exclusions; "
        f"gcloud logging sinks update _Default --remove-exclusions=NAME --project={project} removes one",
    )

"""The time that one update of the watcher takes in a panel with a hundred thousand tasks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import cloudtasks_nb as ct
from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.panels import PanelContext, TasksPanel
from cloudtasks_nb.service.watch import Pending, Snapshot, now_micros
from tests.benchmarks.figures import Bench, Case, figures
from tests.benchmarks.flights import URL
from tests.benchmarks.servers import filled
from tests.log_entry import log_entry

__all__ = ["PANEL"]

_DONE = 500  # tasks that an update reports as done: what a queue dispatches in a second at most


def _ticks(bench: Bench) -> None:
    count = bench.size.listed
    with filled("shown", count) as (_emulator, tasks, _queue):
        for _ in bench.rounds():
            panel = _loaded(tasks)
            if len(panel._ids) != count:
                raise AssertionError(f"{len(panel._ids):,} tasks are loaded and not {count:,}")
            try:
                bench.report("plain", _tick(bench, tasks, panel))
                panel.table.filter("flights")
                panel.table.sort("schedule_time", descending=True)
                bench.report("sorted", _tick(bench, tasks, panel))
            finally:
                panel.close()


def _loaded(tasks: ct.Client) -> TasksPanel:
    """Return a panel that has loaded all tasks of the queue."""
    context = PanelContext(
        connection=tasks._connection, catalog=tasks._catalog, open_queue=tasks._open_queue, queues=tasks.queues
    )
    panel = TasksPanel(context, queue="shown")
    panel.refresh()
    panel._load_all()
    # The updates come from here: the panel must not look tasks up at the same time.
    panel._lookup_running = True
    return panel


def _tick(bench: Bench, tasks: ct.Client, panel: TasksPanel) -> float:
    """Return the median of the milliseconds that an update takes, from the fetched result to the changed widgets."""
    watcher, queue = tasks._connection.watcher, panel.context.name("shown")
    taken = []
    for _ in range(bench.size.ticks):
        values = _loop.run(watcher.read_queue(queue))
        there = panel.table.page_keys
        found = _loop.run(watcher.lookup(queue, there))
        gone = sorted(panel._ids.difference(there))[:_DONE]
        snapshot = _snapshot(queue, values, gone)
        start = time.perf_counter()
        _apply(panel, snapshot, found)
        taken.append(1000 * (time.perf_counter() - start))
        if panel._ids.intersection(gone):
            raise AssertionError("tasks that are done are still shown")
    return statistics.median(taken)


def _apply(panel: TasksPanel, snapshot: Snapshot, found: Mapping[str, Pending | None]) -> None:
    panel.apply(snapshot)
    # Every task has been tried since, so that the whole page changes.
    tried = {
        task: Pending(state="retrying", attempts=one.attempts + 1, schedule_time=now_micros(), **_FAILED)
        for task, one in found.items()
        if one is not None
    }
    panel.apply_lookup(tried)


_FAILED: dict[str, Any] = {"last_status": "INTERNAL", "last_message": "INTERNAL(13): HTTP status code 500"}


def _snapshot(queue: QueueName, values: Mapping[str, Any], done: Sequence[str]) -> Snapshot:
    now = now_micros()
    entries = tuple(
        log_entry(task, now, insert_id=f"{now}-{number}", queue=queue.queue, url=URL)
        for number, task in enumerate(done)
    )
    return Snapshot(queue=queue, at=now, values=values, entries=entries, log_until=now)


PANEL = Case(
    name="panel",
    title="Panel: a tick with 100,000 tasks",
    how=(
        f"A tasks panel that has loaded all tasks of its queue hears that {_DONE} of them are done, and how the 50 "
        "on its page are now, which all have changed; from there until the widgets have their new state, without the "
        "browser. The median of 20 ticks a round."
    ),
    figures=figures(
        """
        plain  | in the order in which tasks were loaded | ms | ≤ 50
        sorted | sorted by time, filtered by a text      | ms | ≤ 50
        """
    ),
    run=_ticks,
)

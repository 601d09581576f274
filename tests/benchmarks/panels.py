"""The time that panels take with many tasks and rows: an update, a summary, and the steps of a cancel."""

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch.batch import batch_view
from cloudtasks_nb.fanout.batch.row_query import RowQuery
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels import BatchPanel, PanelContext, TasksPanel
from cloudtasks_nb.panels.batch_box import BatchNow, Pacing
from cloudtasks_nb.panels.batch_details import RunSummary
from cloudtasks_nb.service.clock import now_micros
from cloudtasks_nb.service.watch import Pending, Snapshot
from tests.benchmarks.fan_out import home
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.flights import URL
from tests.benchmarks.servers import connected, filled
from tests.log_entry import log_entry
from tests.unit.fanout.conftest import Outcome, record_outcomes

_DONE = 500  # tasks that an update reports as done: what a queue dispatches in a second at most


def _ticks(bench: Bench) -> None:
    count = bench.size.listed
    with filled("shown", count) as (_emulator, tasks, _queue):
        for _ in bench.rounds():
            panel = _loaded(tasks)
            if panel.table.total != count:
                raise AssertionError(f"{panel.table.total:,} tasks are loaded and not {count:,}")
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
        gone = sorted(panel.table._rows.places.keys() - there)[:_DONE]
        snapshot = _snapshot(queue, values, gone)
        start = time.perf_counter()
        _apply(panel, snapshot, found)
        taken.append(1000 * (time.perf_counter() - start))
        if panel.table.known(gone):
            raise AssertionError("tasks that are done are still shown")
    return statistics.median(taken)


def _apply(panel: TasksPanel, snapshot: Snapshot, found: Mapping[str, Pending | None]) -> None:
    panel.apply(snapshot)
    # Every task has been tried since, so that the whole page changes.
    there = {task: one for task, one in found.items() if one is not None}
    failed = partial(Pending, state="retrying", last_status="INTERNAL", last_message=_FAILED)
    tried = {task: failed(attempts=one.attempts + 1, schedule_time=now_micros()) for task, one in there.items()}
    panel.apply_lookup(tried)


_FAILED = "INTERNAL(13): HTTP status code 500"


def _snapshot(queue: QueueName, values: Mapping[str, Any], done: Sequence[str]) -> Snapshot:
    now = now_micros()
    entry = partial(log_entry, at=now, queue=queue.queue, url=URL)
    entries = tuple(entry(task, insert_id=f"{now}-{number}") for number, task in enumerate(done))
    return Snapshot(queue=queue, at=now, values=values, entries=entries, log_until=now)


PANEL = case(
    "panel",
    "Panel: a tick with 100,000 tasks",
    _ticks,
    f"A tasks panel that has loaded all tasks of its queue hears that {_DONE} of them are done, and how the 50 "
    "on its page are now, which all have changed; from there until the widgets have their new state, without the "
    "browser. The median of 20 ticks a round.",
    """
    plain  | in the order in which tasks were loaded | ms | ≤ 50
    sorted | sorted by time, filtered by a text      | ms | ≤ 50
    """,
)


def _run(bench: Bench) -> None:
    for folder in bench.rounds():
        with home(folder), connected() as (_emulator, tasks):
            batch = _half_sent(tasks, bench.size.listed)
            bench.report("cancel", _longest_pause(batch))
            bench.report("summary", _summary(batch))
            for key, state in (("all", ""), ("state", "succeeded")):
                bench.report(key, _row_tick(bench, batch, RowQuery(state=state)))


def _half_sent(tasks: ct.Client, count: int) -> ct.Batch:
    """Return a batch of which about half of the rows are in a paused queue, and the others are being sent."""
    queue = tasks.queue("run", create=True).pause()
    batch = queue.fan_out(pd.DataFrame({"row": range(count)}), url=URL, key=["row"], progress=False)
    enough = threading.Event()
    end = batch_view(batch).listen(lambda: enough.set() if batch.progress().unsent < count / 2 else None)
    enough.wait()
    end()
    return batch


def _longest_pause(batch: ct.Batch) -> float:
    """Cancel a batch, and return the most seconds in which a panel would have shown no progress."""
    seen = [(time.perf_counter(), 0)]

    def changed() -> None:
        done = batch.progress().done
        if done != seen[-1][1]:
            seen.append((time.perf_counter(), done))

    end = batch_view(batch).listen(changed)
    progress = batch.cancel().wait()
    end()
    if progress.cancelled != progress.total:
        raise AssertionError(f"not all rows are cancelled: {progress!r}")
    return max(after - before for (before, _), (after, _) in pairwise(seen))


def _summary(batch: ct.Batch) -> float:
    """Let all rows of a batch succeed, and return the milliseconds in which the summary of its run is drawn."""
    outbox, start = batch._outbox, now_micros()
    refs = [ref for page in outbox.rows.pages(whole(batch.id)) for ref in page.refs]
    times: list[dict[str, Any]] = [
        {"last_attempt_time": start + 5_000 * n, "duration": 20_000 + n % 977 * 1_000} for n in range(len(refs))
    ]
    succeeded = partial(Outcome, attempt=1, state=State.SUCCEEDED, attempts=1, last_status=0)
    record_outcomes(outbox, batch.id, (succeeded(ref=ref, **at) for ref, at in zip(refs, times, strict=True)))
    shown, view = RunSummary(), batch_view(batch)
    began = time.perf_counter()
    shown.draw(BatchNow(view=view, progress=batch.progress()))
    taken = time.perf_counter() - began
    if f"{len(refs):,} succeeded" not in shown.html():
        raise AssertionError("the summary does not have all rows")
    shown.close()
    return 1000 * taken


def _row_tick(bench: Bench, batch: ct.Batch, query: RowQuery) -> float:
    """Return the median of the milliseconds in which the table of rows is read again and shown after a change."""
    panel: BatchPanel = batch.panel()
    rows, taken = panel.view.rows, []
    rows.choose(query)
    now = BatchNow(view=batch_view(batch), progress=batch.progress())
    rows.draw(now)
    assert rows.table is not None
    rows.table.sort("last_attempt_time", descending=True)
    panel.settle()
    for _ in range(bench.size.ticks):
        rows._pacing, rows.shown = Pacing(), replace(rows.shown, changed=0.0)
        start = time.perf_counter()
        rows.draw(now)
        taken.append(1000 * (time.perf_counter() - start))
    panel.close()
    return statistics.median(taken)


RUN = case(
    "run",
    "Panel: the run of a batch with 100,000 rows",
    _run,
    "A batch is cancelled when half of its rows are in the queue: the longest time between two changes of what is "
    "shown as done, until all rows are cancelled. Then all rows have ended: the time in which the summary of the "
    "run is read, and its charts are drawn for the first time, without the browser; and the time in which the table of "
    "rows, sorted by time, shows what has changed, the median of 20 ticks a round.",
    """
    cancel  | longest pause between two steps of a cancel | s  | ≤ 1
    summary | the summary of the run                      | ms | ≤ 200
    all     | a tick of the table of all rows             | ms | ≤ 50
    state   | a tick of the table of rows in one state    | ms | ≤ 50
    """,
)

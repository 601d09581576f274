"""A batch takes memory only while it has work, or somebody looks at it."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable

import pandas as pd
import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.fanout.batch import tracker as tracker_module
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.tracker import Tracker
from tests.unit.fanout.batch.test_live import FakeLive, be_notebook
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeWatcher, Harness


def fan_out(harness: Harness) -> Batch:
    """Return a batch of three rows."""
    return harness.queue().fan_out(pd.DataFrame({"n": range(3)}), url="https://svc/run", name="n", progress=False)


def finished(harness: Harness, look: Callable[[Batch], object] = lambda _: None) -> weakref.ref[Tracker]:
    """Finish a batch that somebody looks at, and return its tracker."""
    batch = harness.sent(fan_out(harness))
    look(batch)
    harness.finish(batch)
    return weakref.ref(batch._own_tracker)


def until(condition: Callable[[], bool]) -> None:
    """Collect garbage until a condition holds."""
    deadline = time.monotonic() + user.PATIENCE
    while gc.collect() is None or not condition():
        assert time.monotonic() < deadline
        _loop.run(asyncio.sleep(0.01))


def tasks() -> int:
    """Return how much work runs in the background."""
    return len(asyncio.all_tasks(_loop.loop()))


def test_a_finished_batch_is_forgotten(harness: Harness) -> None:
    """It is read from the outbox when somebody asks for it again."""
    tracker = finished(harness)
    until(lambda: tracker() is None)
    batch = harness.catalog.get("n")
    assert batch.progress().succeeded == 3
    assert harness.catalog.frame().index.tolist() == [batch.id]


def test_a_batch_that_is_shown_is_forgotten_with_its_output(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output stays as it is: nothing changes the batch any more."""
    monkeypatch.setattr("cloudtasks_nb.fanout.batch.batch.in_notebook", lambda: True)
    screens: list[FakeLive] = be_notebook(monkeypatch)
    tracker = finished(harness, Batch._ipython_display_)
    until(lambda: tracker() is None)
    assert "3 succeeded" in screens[0].shown[-1]


def test_a_deleted_batch_is_forgotten(harness: Harness) -> None:
    """Whoever has deleted it."""
    tracker = finished(harness)
    harness.catalog.get("n").delete()
    until(lambda: tracker() is None)


def test_a_closed_panel_leaves_nothing_behind(harness: Harness) -> None:
    """No work in the background either."""
    before = tasks()
    tracker = finished(harness, lambda batch: user.show(batch.panel()).close())
    until(lambda: tracker() is None and tasks() <= before)


def test_panels_that_nobody_closes_need_no_task_each(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """They look into the outbox now and then, which takes a moment."""
    monkeypatch.setattr(tracker_module, "_FOLLOW", 3600.0)
    before, panels = tasks(), []
    finished(harness, lambda batch: panels.append(user.show(batch.panel())))
    until(lambda: tasks() <= before)
    panels[0].close()


def test_a_batch_with_work_goes_on_without_anybody(harness: Harness) -> None:
    """Its rows are sent, and their outcomes are stored."""
    harness.transport.open.clear()
    tracker = weakref.ref(fan_out(harness)._own_tracker)
    gc.collect()
    harness.transport.open.set()
    until(lambda: len(harness.transport.created) == 3)
    assert tracker() is not None


def test_a_batch_that_another_kernel_deleted_is_made_anew(
    harness: Harness, watcher: FakeWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cell sends its rows, and gives a batch that works."""
    monkeypatch.setattr(tracker_module, "_FOLLOW", 0.01)
    batch = harness.sent(fan_out(harness))
    harness.finish(batch)
    harness.catalog.outbox.batches.delete(batch.id)
    until(lambda: batch._own_tracker.deleted)
    again = harness.sent(fan_out(harness))
    harness.finish(again)
    assert (again.id, again.progress().succeeded) == (batch.id, 3)
    assert "deleted" in repr(batch)

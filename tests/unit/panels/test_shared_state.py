"""One batch in several views: what one of them changes, all show."""

from collections.abc import Iterator

import pandas as pd
import pytest

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.batch import tracker
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.batch.test_live import FakeLive, be_notebook
from tests.unit.panels import user
from tests.unit.panels.conftest import FakeWatcher, Harness


@pytest.fixture
def batch(harness: Harness) -> Batch:
    """Return a batch of three rows, of which one failed."""
    made = harness.sent(harness.queue().fan_out(pd.DataFrame({"n": range(3)}), url="https://svc/run", progress=False))
    harness.finish(made, 1)
    return made


@pytest.fixture
def other(batch: Batch, watcher: FakeWatcher) -> Iterator[Harness]:
    """Return another connection to the same service and outbox."""
    made = Harness(watcher)
    yield made
    made.close()


def test_a_retry_in_the_panel_leaves_the_cell_as_it_was(
    batch: Batch, harness: Harness, screens: list[FakeLive]
) -> None:
    """The output of a cell shows how the batch ended there; other objects of the batch know of the retry."""
    batch._ipython_display_()
    shown = [*screens[0].shown]
    assert "1 failed" in shown[-1]
    same = harness.catalog.get(batch.id)
    panel = user.show(batch.panel())
    user.click(panel, panel.view.actions.retry)
    assert same.progress().failed == 0
    harness.sent(batch)
    harness.finish(batch)
    harness.until(batch, lambda: batch.progress().succeeded == 3)
    assert screens[0].shown == shown


def test_a_retry_of_another_connection_is_seen_at_once(batch: Batch, other: Harness) -> None:
    """Run again, the cell with `ct.local("folder")` makes a new connection; the old objects do not stay behind."""
    panel = user.show(batch.panel())
    same = other.catalog.get(batch.id)
    assert same.progress().failed == 1
    same.retry_failed()
    other.sent(same)
    other.until(batch, lambda: not batch.progress().failed)
    other.finish(same)
    other.until(batch, lambda: batch.progress().succeeded == 3)
    panel.refresh()
    assert "3</b> of 3 done" in panel.view.bar.value


def test_what_another_process_does_is_noticed(
    batch: Batch, harness: Harness, other: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody looks at a finished batch, the outbox is asked what others did; they may have deleted it."""
    monkeypatch.setattr(tracker, "_FOLLOW", 0.01)
    outbox = other.catalog.outbox  # without a tracker, as that of another process
    assert outbox.outcomes.new_try(whole(batch.id)) == 1
    harness.until(batch, lambda: batch.progress().unsent == 1)
    assert "1 unsent, and no process sends them → batch.resume()" in repr(batch)
    outbox.outcomes.new_try(whole(batch.id), None, {State.SUCCEEDED})
    outbox.batches.delete(batch.id)
    harness.until(batch, lambda: batch._own_tracker.deleted)
    assert repr(batch) == f"<batch {batch.id}, deleted>"
    with pytest.raises(BatchNotFoundError):
        batch.progress()


def test_an_output_says_how_old_it_is(batch: Batch) -> None:
    """It stays as it is when its kernel ends."""
    at = batch.progress().at
    assert at is not None
    assert f"as of {at:%Y-%m-%d %H:%M} UTC" in batch._repr_mimebundle_()["text/html"]


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> list[FakeLive]:
    """Be a notebook whose outputs are looked at."""
    monkeypatch.setattr("cloudtasks_nb.fanout.batch.batch.in_notebook", lambda: True)
    return be_notebook(monkeypatch)

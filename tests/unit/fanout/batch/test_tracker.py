"""From when on a batch reads the log."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb.fanout.batch.progress import Progress, pack
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox

HOUR = dt.timedelta(hours=1)
MARGIN = dt.timedelta(minutes=5)
LOOK_BACK = dt.timedelta(minutes=10)


def tracker(outbox: Outbox, batch: str, age: dt.timedelta) -> Tracker:
    """Make the tracker of a batch that is that old."""
    connection: Any = SimpleNamespace(transport=None, store=None, watcher=SimpleNamespace(listing=None, lookup=None))
    record = outbox.batches.get(batch)
    return Tracker(connection, outbox, replace(record, created=dt.datetime.now(dt.UTC) - age))


def read_until(outbox: Outbox, batch: str, at: dt.datetime) -> None:
    """Have a tracker of before know what the log says up to a time."""
    counts: dict[str, Any] = dict.fromkeys(Progress.__dataclass_fields__)
    progress = Progress(**{**counts, "total": 3, "unsent": 0, "rejected": 0, "succeeded": 3, "sources": {"log": at}})
    outbox.batches.save_snapshot(batch, pack(progress))


@pytest.mark.parametrize(
    ("age", "read", "back"),
    [
        (10 * HOUR, None, 10 * HOUR + MARGIN),
        (10 * HOUR, HOUR, HOUR + LOOK_BACK + MARGIN),
        (10 * HOUR, 10 * HOUR, 10 * HOUR + MARGIN),
        (10 * HOUR, -HOUR, 10 * HOUR + MARGIN),
    ],
    ids=["never read", "read until an hour ago", "read when it was made", "read when the clock was ahead"],
)
def test_the_log_is_read_on_from_where_it_was_read(
    outbox: Outbox, batch: str, age: dt.timedelta, read: dt.timedelta | None, back: dt.timedelta
) -> None:
    """A retry of yesterday's batch does not read its whole log again, only what may have come late."""
    now = dt.datetime.now(dt.UTC)
    if read is not None:
        read_until(outbox, batch, now - read)
    since = dt.datetime.fromtimestamp(tracker(outbox, batch, age)._unread_since() / 1e6, dt.UTC)
    assert abs(since - (now - back)) < dt.timedelta(minutes=1)

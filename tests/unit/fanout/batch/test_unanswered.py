"""What is said when nothing answers at the endpoint of a batch."""

import datetime as dt
from types import SimpleNamespace
from typing import Any

from cloudtasks_nb.fanout.batch.status import absent_handlers, unanswered_note
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.service.endpoint import Endpoint
from tests.cases import cases
from tests.unit.fanout.conftest import chunks, spool

PLACE: dict[str, Any] = {"project": "p", "location": "l", "target": "h:1", "local": True}


@cases(
    ({"http": "http://h:2", "folder": "/data"}, "safe in the folder, and 3 unsent rows", "ct.local('/data')"),
    ({"http": "http://h:2"}, "temporary, so its tasks are lost", "again from ct.local() on"),
    ({}, "3 unsent rows are safe in the outbox", "start the emulator again"),
    ({"local": False}, "safe in Cloud Tasks, and 3 unsent rows", "continues by itself as soon as"),
    ids=["folder", "temporary", "another emulator", "Google"],
)
def test_the_note(endpoint: dict[str, Any], safe: str, back: str) -> None:
    """It says since when nothing answers, what is safe, and what brings the batch back."""
    since = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    note = unanswered_note("nothing answers at h:1", since, Endpoint(**{**PLACE, **endpoint}), 3)
    assert note.startswith("nothing answers at h:1 since 2026-01-02 03:04:05 UTC: ")
    assert safe in note
    assert back in note


def test_handlers_of_others_do_not_stop_a_batch(outbox: Outbox) -> None:
    """A queue may have tasks of several batches; each waits for its own target."""
    batch = spool(outbox, chunks(range(3))).batch
    connection: Any = SimpleNamespace(absent_handlers=lambda _: ["h:1", "svc"])
    (found,) = absent_handlers(connection, outbox, outbox.batches.get(batch))
    assert found == ("no handler listens at svc: its tasks wait, and no attempt is spent", None)

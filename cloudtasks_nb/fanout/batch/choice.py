"""Choose one of the batches that are found, by what a user calls it."""

from __future__ import annotations

from collections.abc import Sequence

from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox.records import BatchRecord

__all__ = ["choose"]


def choose(found: Sequence[BatchRecord], batch: str | None) -> BatchRecord:
    """Return the batch with this id, name or beginning of an id; the first one for None.

    Parameters
    ----------
    found : sequence of BatchRecord
        The newest first: of several batches with this name the first one is returned, and a note says so.

    Raises
    ------
    BatchNotFoundError
        If there is none, or several ids begin so.
    """
    names = [record.name for record in found if record.name]
    if batch is not None:
        exact = [record for record in found if record.id == batch]
        named = [record for record in found if record.name == batch]
        if len(named) > 1 and not exact:
            newest = named[0]
            notify(
                f'{len(named)} batches are named "{batch}"; this is the newest, of {newest.created:%Y-%m-%d} in queue '
                f"{newest.place.queue}: {newest.id}"
            )
        found = exact or named[:1] or [record for record in found if record.id.startswith(batch)]
    if not found:
        raise BatchNotFoundError(
            "there is no batch yet"
            if batch is None
            else f'there is no batch "{batch}" in this outbox{did_you_mean(batch, names)}',
            resource=batch,
            hint="tasks.batches() lists those there are; queue.fan_out(...) makes one",
        )
    if batch is not None and len(found) > 1:
        raise BatchNotFoundError(
            f'"{batch}" may be {len(found)} batches: {", ".join(record.id for record in found[:5])}',
            resource=batch,
            hint="give more of the id",
        )
    return found[0]

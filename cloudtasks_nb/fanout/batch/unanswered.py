"""Say what it means for a batch that nothing answers: at its endpoint, or where its tasks are sent to."""

from __future__ import annotations

import datetime as dt
import urllib.parse
from collections.abc import Sequence

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.plan.render import read_target
from cloudtasks_nb.service.absent_handlers import describe_absent
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import Endpoint

__all__ = ["absent_handlers", "unanswered_note"]


def absent_handlers(connection: Connection, outbox: Outbox, record: BatchRecord) -> Sequence[tuple[str, str | None]]:
    """Return which handlers of this machine a batch waits for: a sentence and what starts each. Makes a call."""
    addresses = connection.absent_handlers(record.place.queue_name)
    if not addresses:
        return ()
    pages = outbox.rows.pages(record.whole, wire=True)
    urls = (read_target(wire)[0] for page in pages for wire in page.wire if wire)
    own = urllib.parse.urlsplit(next(urls, "")).netloc  # other batches share the queue
    target = str(record.description.get("url", ""))
    name = target.removeprefix("handler:") if target.startswith("handler:") else ""
    return [describe_absent(address, f"http://{address}/{name}") for address in addresses if address == own]


def unanswered_note(message: str, since: dt.datetime | None, endpoint: Endpoint, unsent: int) -> str:
    """Return the sentence for the user, with the one next step that helps.

    Parameters
    ----------
    message : str
        That nothing answers.
    since : datetime, optional
        When the service answered last.
    unsent : int
        Rows that are only in the outbox.
    """
    line = f"{message} since {since:%H:%M:%S} UTC" if since else message
    kept = f", and {unsent:,} unsent rows in the outbox" if unsent else ""
    if endpoint.folder is not None:
        return (
            f"{line}: its tasks are safe in the folder{kept}; ct.local({endpoint.folder!r}) starts the emulator "
            "again, and the batch continues by itself"
        )
    if endpoint.http is not None:
        return (
            f"{line}: the emulator was temporary, so its tasks are lost; run the cells again from ct.local() on: "
            "they send all rows to a new one"
        )
    if endpoint.local:
        kept = f"{unsent:,} unsent rows are safe in the outbox; " if unsent else ""
        return f"{line}: {kept}start the emulator again at this address, and the batch continues by itself"
    return f"{line}: the tasks are safe in Cloud Tasks{kept}; the batch continues by itself as soon as it answers"

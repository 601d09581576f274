"""What is said of a batch besides its counts: what keeps it up now, and what is worth knowing."""

from __future__ import annotations

from cloudtasks_nb.fanout.batch.track import Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.service.absent_handlers import describe_absent
from cloudtasks_nb.service.connection import Connection

__all__ = ["blockers", "notes"]


def blockers(connection: Connection, tracker: Tracker) -> list[str]:
    """Say what keeps rows from their end."""
    lines = []
    if tracker.trouble:
        lines.append(tracker.trouble)
    if tracker.stopped is not None and not tracker.sending:
        lines.append(str(tracker.stopped))
    if tracker.progress.finished:
        return lines
    if tracker.unanswered:
        folder = connection.endpoint.folder
        again = "" if folder is None else f"; ct.local({folder!r}) starts the emulator again"
        lines.append(f"the rest is sent as soon as something answers there{again}")
    if tracker.rival:
        lines.append(tracker.rival)
    lines += [error.message for error in tracker.unread if error.message not in lines]
    if tracker.queue_values.get("state") == "PAUSED" and not tracker.cancelling:
        lines.append(f"the queue {tracker.queue.queue} is paused and dispatches nothing: queue.resume()")
    return lines + (_absent(connection, tracker) if tracker.progress.ready else [])


def notes(tracker: Tracker, outbox: Outbox) -> list[str]:
    """Say what else is worth knowing."""
    said = []
    already = outbox.batches.settings(tracker.batch).get("already")
    if already:
        said.append(f"{already:,} were there already: made by another machine, or before its outbox was deleted")
    if tracker.queue_values.get("log_sampling_ratio") == 0:
        said.append("the queue writes no log, so outcomes cannot be known: queue.update(log_sampling_ratio=1.0)")
    if tracker.stopped_by:
        said.append(tracker.stopped_by)
    return said


def _absent(connection: Connection, tracker: Tracker) -> list[str]:
    """Say for which handler of this machine the tasks wait."""
    addresses = connection.absent_handlers(str(tracker.queue))
    target = str(tracker.record.description.get("url", ""))
    name = target.removeprefix("handler:") if target.startswith("handler:") else ""
    return [describe_absent(address, f"http://{address}/{name}") for address in addresses]

"""Entries of the operations log, as the toolkit reads them."""

from typing import Any

from cloudtasks_nb.service.oplog import Entry


def log_entry(task: str, at: int, **changes: Any) -> Entry:
    """Return an entry about the first attempt on a task, which succeeded; the log received it at once."""
    facts: dict[str, Any] = {"insert_id": task, "time": at, "received": at, "queue": "q", "deleted": False}
    facts |= {"attempt": 1, "status": "OK", "duration": 0.1, "retry_time": None, "max_attempts": 5, "url": ""}
    return Entry(task=task, **{**facts, **changes})

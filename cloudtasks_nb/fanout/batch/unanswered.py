"""Say what it means for a batch that nothing answers at its endpoint: since when, what is safe, what brings it back."""

from __future__ import annotations

import datetime as dt

from cloudtasks_nb._settings import Endpoint

__all__ = ["unanswered_note"]


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

"""Say what it means for a batch that nothing answers at its endpoint: since when, what is safe, what brings it back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import CloudTasksError, EndpointError

__all__ = ["Unanswered"]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The time since which nothing answers, and the error that says so."""

    since: dt.datetime
    error: EndpointError

    @classmethod
    def after(cls, before: Unanswered | None, errors: Iterable[CloudTasksError]) -> Unanswered | None:
        """Return the state after a call with these errors; None if something has answered."""
        error = next((error for error in errors if isinstance(error, EndpointError)), None)
        if error is None:
            return None
        return cls(dt.datetime.now(dt.UTC) if before is None else before.since, error)

    def note(self, endpoint: Endpoint, unsent: int) -> str:
        """Return the sentence for the user, with the one next step that helps.

        Parameters
        ----------
        unsent : int
            Rows that are only in the outbox.
        """
        line = f"{self.error.message} since {self.since:%H:%M:%S} UTC"
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

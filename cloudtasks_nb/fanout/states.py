"""The states of a row."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

from cloudtasks_nb.errors import OutboxError

__all__ = ["FINAL", "IN_DOUBT", "OPEN", "RETRYING", "State"]


class State(IntEnum):
    """What is known of the newest task of a row. The numbers are stored, and are the bytes of `Rows.states`.

    They start at 2: SQLite writes 0 and 1 in no byte and 2 to 127 in one, and rows that do not grow stay in their page.
    """

    UNSENT = 2  #: safe in the outbox, not yet acknowledged by the service
    SENT = 3  #: acknowledged; whether it is due, runs or retries is the watcher's to know
    SUCCEEDED = 4
    FAILED = 5
    REJECTED = 6  #: never created, with the reason
    CANCELLED = 7
    GONE = 8  #: no longer in the queue, outcome unknown

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise OutboxError(
            f"the outbox is damaged: {value!r} is not the state of any row",
            hint="move the file away to begin a new one; CLOUDTASKS_NB_HOME names its folder",
        )


#: The number that is stored for an unsent row in a request of a sender that has ended: its task may have been created.
#: Everywhere else such a row is `SENT`, until a sender has found out.
IN_DOUBT = 10

#: In the bytes of `Rows.states`: a sent row whose last attempt failed, and which is tried again.
RETRYING = 9

#: The stored states of rows that are not final.
OPEN = (State.UNSENT, State.SENT, IN_DOUBT)

#: States in which nothing more happens by itself, in the order in which they are listed.
FINAL = (State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED, State.GONE)

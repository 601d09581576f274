"""The states of a row, and the numbers under which they are stored. What follows from each is in `_frames.py`."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

from cloudtasks_nb._frames import STATES
from cloudtasks_nb.errors import OutboxError

__all__ = ["BY_ATTEMPT", "FINAL", "IN_DOUBT", "OPEN", "RETRYING", "SUCCESSES", "WORDS", "State"]


class State(IntEnum):
    """What is known of the newest task of a row. The numbers are stored, and are the bytes of `Rows.states`.

    They start at 2: SQLite writes 0 and 1 in no byte and 2 to 127 in one, and rows that do not grow stay in their page.
    """

    UNSENT = 2  #: safe in the outbox, not yet acknowledged by the service
    SENT = 3  #: acknowledged; whether it is due, runs or retries is the watcher's to know
    SUCCEEDED = 4
    FAILED = 5
    REJECTED = 6
    CANCELLED = 7
    GONE = 8

    @property
    def word(self) -> str:
        """Its name in frames and charts; "queued" for what is sent."""
        return WORDS[self]

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

#: The words of states, and of what else is in the bytes of `Rows.states`.
WORDS = {state: state.name.lower() for state in State} | {State.SENT: "queued", RETRYING: "retrying"}

#: States in which nothing more happens by itself, in the order in which they are listed.
FINAL = tuple(state for state in State if STATES[state.word].end)

#: Those of them that are an end as it was wanted.
SUCCESSES = tuple(state for state in FINAL if STATES[state.word].success)

#: Those of them that an attempt has brought about, of which it may be known when it began and how long it took.
BY_ATTEMPT = tuple(state for state in FINAL if STATES[state.word].attempted)

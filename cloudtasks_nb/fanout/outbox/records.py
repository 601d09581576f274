"""Values that the outbox takes and returns: states, outcomes, batches, requests and answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudtasks_nb.fanout.outbox.facts import BatchFacts
from cloudtasks_nb.fanout.plan.identity import Place, named_identity
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = [
    "IMPORTED",
    "MADE_BY",
    "Ack",
    "BatchRecord",
    "Choice",
    "Request",
    "Retrying",
    "RowFilter",
    "Scope",
    "Spooled",
    "whole",
]


#: The parts of a batch's description that say who made it, and that it came from another home.
MADE_BY, IMPORTED = "_made_by", "_imported"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows of a batch are meant: all of them, or those of one input.

    Where the input has all rows of the batch, they are read as those of the batch.
    """

    batch: str
    input: int  #: the number under which the outbox knows the input; 0: all rows of the batch are meant
    rows: int  #: how many rows the input has

    def covers(self, total: int) -> bool:
        """Return whether these are all rows of a batch that has so many."""
        return not self.input or self.rows == total


def whole(batch: str) -> Scope:
    """Return all rows of a batch."""
    return Scope(batch, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """What became of the rows of one `fan_out`."""

    batch: str
    created: bool  #: the batch is new; else the rows were added to one that was there
    known: int  #: rows that the batch had already
    added: int = 0  #: rows that the batch did not have and that will be sent
    duplicates: int = 0  #: rows left out because an earlier one sends the same request
    rejected: int = 0  #: rows left out because they are no valid task
    left: Mapping[State, int] = field(default_factory=dict)  #: of the known rows, how many are in which state
    by_id: bool = False  #: without a name: the batch has other rows too, and another disk finds it only by its id
    scope: Scope | None = field(default=None, compare=False)  #: the rows of this input; None for those of another home


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """The record of a batch in the outbox, without its rows."""

    id: str
    identity: bytes  #: what the id is made of
    place: Place
    name: str | None
    recipe: bytes  #: digest of the templates
    description: Mapping[str, Any]  #: given by the caller when the batch was created
    created: dt.datetime
    changed: dt.datetime  #: when a row last changed; 90 days later the batch is forgotten
    counts: Mapping[State, int]  #: every state, also those with no row; rows in doubt count as sent
    round: int  #: grows with every new try and every added row; one notification a round
    doubtful: int = 0  #: rows that may have been sent by a sender that has ended
    facts: BatchFacts = field(default_factory=BatchFacts)

    @property
    def given_name(self) -> str | None:
        """The name that `fan_out` was given. `name` is None if it is the id: the batch is found by its rows, too."""
        return self.id if self.identity == named_identity(self.place, self.id) else self.name

    @property
    def made_by(self) -> str | None:
        """Who made it: user@host."""
        return self.description.get(MADE_BY)

    @property
    def imported(self) -> bool:
        """Whether another home has made it."""
        return bool(self.description.get(IMPORTED))

    @property
    def whole(self) -> Scope:
        """All its rows."""
        return whole(self.id)

    @property
    def total(self) -> int:
        """All rows."""
        return sum(self.counts.values())

    @property
    def done(self) -> bool:
        """Whether every row is final."""
        return not any(n for state, n in self.counts.items() if state not in FINAL)


@dataclass(frozen=True, slots=True)
class Retrying:
    """The rows whose last attempt failed, and which are tried again."""

    rows: int = 0
    attempts: int = 0  #: the most that were made of a row
    due: int | None = None  #: when the next attempt is due, microseconds since 1970; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which failed rows are chosen: those of which one of these is true."""

    causes: frozenset[str | int] = frozenset()  #: as the outbox stores them: of a message, else a canonical code
    statuses: frozenset[int] = frozenset()  #: canonical codes of the last attempt
    http: frozenset[int] = frozenset()  #: HTTP statuses of the last attempt
    assumed: frozenset[int] = frozenset()  #: canonical codes of last attempts whose HTTP statuses are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """Which rows of a batch are read: those for which all of this is true."""

    states: frozenset[State] = frozenset(State)
    tried: bool | None = None  #: whether the last attempt is known to have failed; None: either
    cause: str | int | None = None  #: of the failure, as the outbox stores it; None: any


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Up to 100 rows that are sent together."""

    seq: int  #: grows with each request of an outbox
    refs: Sequence[int]
    attempt: int  #: the try that all its rows are in
    tasks: Sequence[str]  #: id of each task
    wire: Sequence[bytes]  #: each Task without its name
    started: float  #: when it may first have been sent, seconds since 1970
    tried: bool  #: a sender that has ended may have sent it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What became of a request: each of its rows is in one of the fields."""

    seq: int
    sent: Sequence[int] = ()
    rejected: Mapping[int, str] = field(default_factory=dict)  #: row -> the service's reason
    again: Sequence[int] = ()  #: surely not created: to be sent with another request, unless the request is cancelled
    gone: Sequence[int] = ()  #: whether they were created cannot be known

"""Values that the outbox takes and returns: batches and what is known of each as a whole, requests and answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from sqlite3 import Connection
from typing import Any, TypedDict

import orjson

from cloudtasks_nb.fanout.plan.identity import Place, named_identity
from cloudtasks_nb.fanout.states import FINAL, State

__all__ = [
    "IMPORTED",
    "MADE_BY",
    "Ack",
    "BatchFacts",
    "BatchRecord",
    "Cancel",
    "Change",
    "Choice",
    "LastingOptions",
    "Published",
    "Reached",
    "Request",
    "Retrying",
    "RowFilter",
    "Scope",
    "Spooled",
    "StoredGate",
    "change_facts",
    "stored_facts",
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


class LastingOptions(TypedDict, total=False):
    """The options of a `fan_out` that hold in every round of its batch, also after a restart."""

    send_rate: float | None  #: tasks created a second
    canary: float | str | None  #: rows that are sent first, or a share of all rows, also as "1%"
    pause_at: float | str | None  #: failed rows that pause the sending, or a share, also as "5%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """A cancel that is not carried out yet."""

    at: int  #: when it was wished, microseconds since 1970
    by: str  #: the connection that wished it
    #: The inputs whose rows are to be cancelled: of each its number, how many rows it has, and the name by which the
    #: store knows the cancel (None: another home has cancelled it, and deletes the tasks). Empty: all rows.
    parts: tuple[tuple[int, int, str | None], ...] = ()
    remote: bool = False  #: another home has cancelled all rows, and deletes the tasks

    @property
    def has_remote(self) -> bool:
        """Whether rows are to be cancelled that another home has cancelled."""
        return self.remote or any(name is None for *_, name in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGate:
    """What was decided by `canary` and `pause_at`."""

    canary: float | str | None = None  #: the option by which `last` was found
    last: int = 0  #: ref of the last row of the canary; 0: the other rows may be sent
    round: int = 1  #: in which failures count
    failed: int = 0  #: rows that had failed before failures began to count
    ended: int = 0  #: rows that had succeeded or failed before that
    paused: tuple[int, int] | None = None  #: how many rows had failed, and ended, when the sending paused


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How a batch was reached last."""

    target: str = ""  #: address of the endpoint; empty: it was never reached
    folder: str | None = None  #: of a local emulator that has one
    store: str | None = None  #: the place of the results
    machine: str | None = None  #: that a temporary emulator runs on; None: the endpoint is not temporary
    ended: bool = False  #: it was reported that the temporary emulator has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What of a batch is in a store that homes share."""

    store: str = ""  #: its URL
    parts: int | None = None  #: how many parts of the batch are there; None: not known
    blocks: tuple[str, ...] = ()  #: names of the blocks there that this home has


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """What is known of a batch as a whole; `Batches.change` changes it."""

    options: LastingOptions = field(default_factory=LastingOptions)  #: of the newest `fan_out`
    function: tuple[str, str | None] | None = None  #: name and version of the function that `fan_out` was given last
    periods: tuple[str, str] | None = None  #: first and last moment that backfills were asked for, as ISO text
    reached: Reached = field(default_factory=Reached)
    progress: Mapping[str, Any] | None = None  #: as the process saw it that watched the batch last, as JSON
    notifications: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: of the end, by URL
    gate: StoredGate = field(default_factory=StoredGate)
    #: Who may have sent the unsent rows, which are held for that; None: nobody was named, "": the user has confirmed.
    held_for: str | None = None

    sender: Mapping[str, Any] | None = None  #: process and address of the last sender
    cancel: Cancel | None = None
    cancels_known: tuple[str, ...] = ()  #: names of the cancels in the store that this home knows
    cancelled_by: str | None = None  #: who wished the last cancel of all rows
    cancelled_in: int | None = None  #: the round of the batch then, if it was another home

    keys: tuple[str, ...] = ()  #: in hex; new tasks are sent with the first one
    claimed_in: str | None = None  #: URL of the store in which the batch has a claim
    published: Published = field(default_factory=Published)
    owner_tokens: tuple[str, ...] = ()  #: what this home may have written last as the owner in a shared store
    #: Who owned the batch before this home, and when that wrote last; None: what it has sent was found out.
    owned_before: tuple[str, float] | None = None
    foreign_rows: int = 0  #: rows that other homes have made
    log_read: float | None = None  #: when the log was read for what other homes have sent, seconds since 1970
    log_rows: int = 0  #: the newest row of which the whole log was read; `sql.ALL`: it had no entry of the batch
    log_error: str | None = None  #: why it could not be read; "": results have told instead
    sent_by_others: bool = False  #: other homes have sent rows
    existing: int = 0  #: tasks that existed before this home sent any

    log_sampled: bool = False  #: tasks may have left the queue without an entry in the log
    corrected: int = 0  #: rows that had another outcome until the log told
    has_results: bool = False  #: a task has a stored result
    keeps_objects: bool = False  #: the results stay in many objects, as they could not be packed

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> BatchFacts:
        """Return the facts that are stored, from their JSON values; the others are those of a new batch."""
        found = {name: _frozen(value) for name, value in stored.items()}
        return cls(**found | {name: kind(**found[name]) for name, kind in _KINDS.items() if found.get(name)})

    @property
    def cancels_all(self) -> bool:
        """Whether all rows are to be cancelled."""
        return self.cancel is not None and not self.cancel.parts


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


#: What `Batches.change` takes: it makes other facts of those that are stored.
Change = Callable[[BatchFacts], BatchFacts]
_KINDS: dict[str, type[Any]] = {"cancel": Cancel, "gate": StoredGate, "reached": Reached, "published": Published}


def stored_facts(connection: Connection, num: int, name: str | None = None) -> BatchFacts:
    """Return the facts of the batch with a number, or one of them only."""
    query = "SELECT name, value FROM facts WHERE num = ? AND name = coalesce(?, name)"
    return BatchFacts.of({name: orjson.loads(value) for name, value in connection.execute(query, (num, name))})


def change_facts(connection: Connection, num: int, change: Change) -> tuple[BatchFacts, BatchFacts]:
    """Store what a function makes of the facts of a batch, in an open transaction; return them before and after.

    Each is stored apart, so that one that changes often, as the progress does, has none of the others written.
    """
    before = stored_facts(connection, num)
    after = change(before)
    values = ((one.name, getattr(before, one.name), getattr(after, one.name)) for one in fields(BatchFacts))
    changed = [(num, name, orjson.dumps(value).decode()) for name, old, value in values if value != old]
    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", changed)
    return before, after


def _frozen(value: Any) -> Any:
    """Return a JSON value with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value

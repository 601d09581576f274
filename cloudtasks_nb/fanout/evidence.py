"""What became of a row: what is told of its task, and how that adds up.

Three witnesses tell of tasks: the queue, the stored results and the operations log (`batch/witnesses.py`). What they
tell is evidence, and `fold` adds evidence to what is stored of a row. The same evidence gives the same row in any
order, however late it comes and however often.

A task leaves its queue when it succeeds, when it is deleted, and when it is given up after a failed attempt. The log
has the first two, and an entry for each attempt. So a row is *gone* if its task has left the queue and nothing tells
why: no result is stored, and the log has no success and no deletion, or it lacks entries. If the log has every entry
and the last one is a failed attempt, the task was given up: the row has *failed*, by elimination. If another attempt
was to follow that one, or the log does not have it, entries were lost. A row whose task the batch itself deletes is
*cancelled* in place of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from cloudtasks_nb._names import code_name
from cloudtasks_nb.fanout.causes import Fault, cause_of
from cloudtasks_nb.fanout.states import State

__all__ = ["DELETED", "LAST", "RAISED", "Evidence", "Fact", "Row", "Source", "fold", "status_name"]

T = TypeVar("T")

#: A bit of `Row.heard`, below those of `Source`: the newest attempt failed, and it is the last that the queue allows.
LAST = 1

#: In place of an HTTP status: no service said it, the function of a handler raised an exception.
RAISED = 0

#: The reason of a row that is gone because somebody else has deleted its task.
DELETED = "deleted from the queue"


class Source(IntEnum):
    """Who tells it. Of what several tell of one attempt, the highest one counts. The numbers are stored, as bits."""

    QUEUE = 2
    RESULTS = 4
    LOG = 8


class Fact(IntEnum):
    """What ended a task. Of several facts the highest one counts. The numbers are stored, but that of `LAST_FAILED`.

    That an attempt was the last possible one follows from the limit of the queue, which may have been a higher one. So
    it counts only while no later attempt is known, and the queue has not shown the task after this attempt.
    """

    LEFT = 1  #: the task left the queue; the log may lack entries
    LEFT_LOGGED = 2  #: the task left the queue; all entries of the log were read
    DELETED = 3  #: it was deleted
    LAST_FAILED = 4  #: the attempt failed that the queue allows as the last one
    ANSWERED = 5  #: the log has a success
    GAVE_UP = 6  #: the handler has stored that its function gives up; the log has a success then
    STORED = 7  #: the handler has stored a success


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a witness tells of a task at one time. Times are microseconds since 1970, of the service.

    Evidence without a fact tells at least that the task was created.
    """

    task: str
    source: Source
    fact: Fact | None = None
    seen: int | None = None  #: of the queue: when the task was there, or, with a fact, had left
    reason: str | None = None  #: of the queue: how all of its tasks left
    attempts: int | None = None  #: number of the attempt that the fields below are about
    status: int | None = None  #: canonical code; 0: it succeeded
    http: int | None = None  #: HTTP status, of a service that made the function fail if there is one; or `RAISED`
    message: str | None = None
    fault: Fault | None = None  #: what the traceback tells that the message is of
    due: int | None = None  #: when there is another attempt
    began: int | None = None
    duration: int | None = None  #: microseconds

    @property
    def cause(self) -> str | None:
        """What the message tells, as it is stored; None: no more than the status."""
        return cause_of(self.message or "") if self.fault is None else str(self.fault)


class Row(NamedTuple):
    """What is stored of a row: the outbox has a column of the same name for each field, and `try` for `tries`."""

    ref: int
    tries: int  #: number of its newest task
    state: int
    deleting: int | None = None  #: the try whose task the batch itself deletes
    fact: int | None = None
    seen: int | None = None  #: when its task was there, or had left, at last; None above `LEFT_LOGGED`
    reason: str | None = None  #: how its task left; shown while it is gone
    attempts: int | None = None
    heard: int | None = None  #: who has told of the newest attempt: a sum of `Source`, and `LAST`
    status: int | None = None
    http: int | None = None
    due: int | None = None
    began: int | None = None
    duration: int | None = None
    message: str | None = None  #: the newest one that tells more than the status of its attempt, else the newest one
    said: int | None = None  #: the attempt of the message
    code: int | None = None  #: the status of that attempt
    cause: str | None = None  #: what the message tells, whether it is shown or not; None: no more than the status
    current: bool | None = None  #: whether the message is shown: it is not of an earlier attempt that ended otherwise


def fold(row: Row, news: Evidence, tries: int, cause: str | None) -> Row:
    """Return a row after evidence of its task in one of its tries.

    Parameters
    ----------
    tries : int
        The try. A later one than the row's begins the row anew; an earlier one is ignored.
    cause : str, optional
        What the row is counted under if the evidence's message counts: its cause, or a less exact one.
    """
    if tries < row.tries or (tries == row.tries and row.state == State.REJECTED):
        return row
    if tries > row.tries:
        row = Row(ref=row.ref, tries=tries, state=State.SENT)
    # Tuples rather than names of fields, which take twice the time: this runs for each row.
    ref, _, state, deleting, *_ = row
    fact, seen, reason = _end(row[4:7], news)
    attempt = _attempt(row[7:14], news)
    message = _message(row[14:18], news, cause)
    current = message[1] == (attempt[0] or 0) or message[2] == attempt[2]
    # The queue tells of an attempt that has ended only if there will be another one.
    heard, status, due = attempt[1] or 0, attempt[2], attempt[4]
    failed = heard & (LAST | Source.QUEUE) == LAST
    ended = bool(status) and heard & Source.LOG > 0 and due is None
    state = _state_of(state, fact, failed=failed, ended=ended, own=deleting == tries)
    reason = DELETED if fact == Fact.DELETED else reason
    return Row._make((ref, tries, state, deleting, fact, seen, reason, *attempt, *message, current))


def status_name(status: int | None, http: int | None) -> str | None:
    """Return how an attempt ended, by its canonical code and its HTTP status; None: that is not known.

    Examples
    --------
    >>> status_name(5, 404), status_name(13, None), status_name(13, RAISED)
    ('NOT_FOUND', 'INTERNAL', 'ERROR')
    """
    return "ERROR" if http == RAISED else None if status is None else code_name(status)


def _end(known: tuple[Any, ...], news: Evidence) -> tuple[Any, ...]:
    """Return what ended the task, and when and why: of what the queue tells, the latest counts."""
    fact, seen, _ = known
    if news.source is not Source.QUEUE:
        if news.fact is None or news.fact is Fact.LAST_FAILED or news.fact <= (fact or 0):
            return known
        return int(news.fact), None, None
    later = news.seen is not None and (news.seen, news.fact or 0) > (seen or 0, fact or 0)
    if later and (fact is None or fact <= Fact.LEFT_LOGGED):
        return (None, news.seen, None) if news.fact is None else (int(news.fact), news.seen, news.reason)
    return known


def _attempt(known: tuple[Any, ...], news: Evidence) -> tuple[Any, ...]:
    """Return what is known of the newest attempt: of each value, what the highest source tells that has it."""
    if news.attempts is None and news.status is None:
        return known
    attempts, heard, status, http, due, began, duration = known
    number, last, source = news.attempts or 0, attempts or 0, news.source
    bit = 0 if news.status is None else source | (LAST if news.fact is Fact.LAST_FAILED else 0)
    others = (heard or 0) & ~LAST
    if number > last:
        return number, bit, news.status, news.http, news.due, news.began, news.duration
    if number < last:
        return known
    return (
        attempts,
        (heard or 0) | bit,
        _better(status, news.status, source, others),
        _better(http, news.http, source, others & ~Source.LOG),  # the log has none
        _better(due, news.due, source, others & ~Source.RESULTS),
        _better(began, news.began, source, others & ~Source.QUEUE),
        _better(duration, news.duration, source, others & ~Source.QUEUE),
    )


def _message(known: tuple[Any, ...], news: Evidence, cause: str | None) -> tuple[Any, ...]:
    """Return the message that counts, its attempt, how that ended, and the cause."""
    number = news.attempts or 0
    if news.message and _weight(news.message, number, news.status, news.cause) > _weight(*known):
        return news.message, number, news.status, cause
    return known


def _state_of(state: int, fact: int | None, *, failed: bool, ended: bool, own: bool) -> int:
    """Return the state of a row that was in a state, by all that is known of its task.

    Parameters
    ----------
    failed : bool
        The last possible attempt failed.
    ended : bool
        The newest attempt failed, and by the log no other one was to follow.
    own : bool
        The batch itself deletes the task.
    """
    if fact is not None and fact > Fact.LAST_FAILED:
        return State.FAILED if fact == Fact.GAVE_UP else State.SUCCEEDED
    if state == State.CANCELLED and not own:
        return state  # it was cancelled before it was sent
    if failed:
        return State.FAILED
    if fact is None:
        return State.SENT
    if own:
        return State.CANCELLED
    return State.FAILED if fact == Fact.LEFT_LOGGED and ended else State.GONE


def _better(known: T | None, new: T | None, source: Source, others: int) -> T | None:
    """Return which of two values counts: that of the higher source, if it has one."""
    return known if new is None or (known is not None and others >= 2 * source) else new


def _weight(message: str | None, attempt: int | None, status: int | None, cause: str | None) -> tuple[Any, ...]:
    """Return what makes one message, of an attempt that ended with a status, count instead of another one."""
    traced = Fault.parse(cause) is not None
    tells = traced or cause_of(message or "") is not None
    known = -1 if status is None else status
    return tells, attempt or 0, traced, message or "", known, cause or "" if traced else ""

"""What becomes of rows: outcomes that were heard of, and new tries."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cloudtasks_nb.fanout.causes import cause_of, kind_of
from cloudtasks_nb.fanout.outbox.causes import chosen
from cloudtasks_nb.fanout.outbox.database import Repository, transaction
from cloudtasks_nb.fanout.outbox.records import FINAL, IN_DOUBT, OPEN, Choice, Outcome, State
from cloudtasks_nb.fanout.outbox.rows import locate
from cloudtasks_nb.fanout.outbox.tallies import (
    AMONG,
    COUNTED,
    as_json,
    counted,
    number_of,
    paged,
    ranges,
    replace,
    tally,
    touch,
)

__all__ = ["MOST_CAUSES", "Outcomes", "Row", "fold"]

#: The most causes that are counted for a batch; of further messages only the type of the exception counts.
MOST_CAUSES = 1_000

_PAGE = 1_000

#: From which states an outcome may bring a row to a state. A late success corrects any other state.
_MAY_COME_FROM: dict[State, frozenset[int]] = {
    State.SENT: frozenset({State.UNSENT, IN_DOUBT}),
    State.SUCCEEDED: frozenset({*OPEN, State.FAILED, State.GONE, State.CANCELLED}),
    State.FAILED: frozenset({*OPEN, State.GONE}),
    State.CANCELLED: frozenset({*OPEN, State.GONE}),  # the deletion is certain, the log may lag
    State.GONE: frozenset(OPEN),
}


class Row(NamedTuple):
    """What is stored of a row, as the columns of the table are named."""

    ref: int
    attempt: int  #: the number of its newest try
    state: int
    deleting: int | None = None
    attempts: int | None = None
    status: int | None = None
    http: int | None = None
    message: str | None = None
    cause: str | None = None
    due: int | None = None
    began: int | None = None
    duration: int | None = None
    reason: str | None = None
    counted: int | str = ""  #: what it counted as when it was read


_READ = f"""SELECT ref, try, state, deleting, attempts, status, http, message, cause, due, began, duration, reason,
    {COUNTED} FROM rows WHERE {AMONG}"""
_WRITE = """UPDATE rows SET state = ?, attempts = ?, status = ?, http = ?, message = ?, cause = ?, due = ?, began = ?,
    duration = ?, reason = ? WHERE ref = ?"""
_FORGET = """deleting = NULL, attempts = NULL, status = NULL, http = NULL, upstream = NULL, message = NULL,
    cause = NULL, due = NULL, began = NULL, duration = NULL, reason = NULL, gave_up = NULL, version = NULL"""


def fold(row: Row, news: Outcome, cause: str | None) -> Row:
    """Return a row after an outcome of its task.

    Outcomes of another try are ignored. Of two attempts the later one counts, whichever is known first. The message of
    an attempt that ended otherwise is dropped with it. What a handler said is not replaced by a message that tells no
    more than the status (`cause` None). A row that is gone after the deletion of its task was asked for is cancelled.

    Parameters
    ----------
    cause : str, optional
        The cause that the message tells.
    """
    # Unpacked, and packed by `_make`, because this runs for each row: names of fields take twice the time.
    ref, attempt, state, deleting, attempts, status, http, message, why, due, began, duration, reason, counted = row
    if news.attempt != attempt:
        return row
    to, said = news.state, news.reason
    if to is State.GONE and deleting == attempt:
        to, said = State.CANCELLED, ""
    if to is not None and state in _MAY_COME_FROM.get(to, ()):
        state, reason = to, reason if said is None else said or None
    new = news.attempts
    older = new is not None and attempts is not None and new < attempts
    if not older:
        later = new is not None and attempts is not None and new > attempts
        if later or news.http_status is not None:
            http = news.http_status
        other = later and None not in (news.last_status, status) and news.last_status != status
        if other or (news.last_message and (cause is not None or why is None)):
            message, why = news.last_message or None, cause
        attempts = attempts if new is None else new
        status = status if news.last_status is None else news.last_status
        due = due if news.schedule_time is None else news.schedule_time
        began = began if news.last_attempt_time is None else news.last_attempt_time
        duration = duration if news.duration is None else news.duration
    return Row._make(
        (ref, attempt, state, deleting, attempts, status, http, message, why, due, began, duration, reason, counted)
    )


class Outcomes(Repository):
    """What became of the rows' tasks."""

    @transaction
    def record(
        self, connection: sqlite3.Connection, batch: str, outcomes: Iterable[Outcome], *, from_log: bool = False
    ) -> int:
        """Store what is known of tasks, as `fold` decides; return how many rows changed their state.

        Rows that were final and are corrected `from_log` are counted in the setting `corrected`.
        """
        num = number_of(connection, batch)
        left: Counter[int] = Counter()
        for page in paged(outcomes, _PAGE):
            left += _record_page(connection, num, page)
        corrected = sum(count for state, count in left.items() if state in FINAL)
        if from_log and corrected:
            connection.execute(
                """INSERT INTO settings VALUES (?, 'corrected', ?)
                   ON CONFLICT DO UPDATE SET value = value + excluded.value""",
                (num, corrected),
            )
        touch(connection, num)
        return left.total()

    @transaction
    def new_try(
        self,
        connection: sqlite3.Connection,
        batch: str,
        rows: Iterable[tuple[int, str | None]] | None = None,
        allowed: Collection[State] = (State.FAILED,),
        choice: Choice | None = None,
    ) -> int:
        """Open a new try for rows that are in one of the allowed states; return how many will be sent again.

        Parameters
        ----------
        rows : iterable of (ref, task id or None), optional
            All rows of the batch when left out. With a task id, a row is only taken if that is its newest task, so
            that the same call twice, or from two kernels, sends once.
        allowed : collection of State
            Unsent and sent rows are never taken.
        choice : Choice, optional
            Of all rows of the batch, only those that it has.
        """
        codes = as_json(FINAL & set(allowed))
        num = number_of(connection, batch)
        wanted = _rows_in(connection, num, codes, choice) if rows is None else _unchanged(connection, batch, rows)
        opened = sum(_reopen(connection, num, as_json(page), codes) for page in paged(wanted, _PAGE))
        if opened:
            connection.execute("UPDATE batches SET round = round + 1 WHERE num = ?", (num,))
            touch(connection, num)
        return opened

    @transaction
    def adopt(self, connection: sqlite3.Connection, batch: str, tries: Mapping[int, int], *, pending: bool) -> int:
        """Record that rows were sent from elsewhere; return how many of them are in a newer try than was known.

        Parameters
        ----------
        tries : mapping
            The try of a task of each row, by its ref. That of a row's newest task is never lowered.
        pending : bool
            The tasks are in the queue, so that a row that was thought to be final is not.
        """
        num, adopted = number_of(connection, batch), 0
        open_ = f"{State.UNSENT:d}, {IN_DOUBT}" + (f", {State.FAILED:d}, {State.GONE:d}" if pending else "")
        sent = f"UPDATE rows SET state = {State.SENT:d}"
        for page in paged(tries.items(), _PAGE):
            with counted(connection, AMONG, as_json(ref for ref, _ in page)):
                newer = f"{sent}, try = ?, {_FORGET} WHERE ref = ? AND try BETWEEN 1 AND ? - 1"
                adopted += connection.executemany(newer, [(newest, ref, newest) for ref, newest in page]).rowcount
                connection.executemany(f"{sent} WHERE ref = ? AND try = ? AND state IN ({open_})", page)
        if adopted:
            touch(connection, num)
        return adopted

    @transaction
    def raise_round(self, connection: sqlite3.Connection, batch: str, least: int) -> None:
        """Bring the round of a batch to a number, if it is lower."""
        connection.execute(
            "UPDATE batches SET round = max(round, ?) WHERE num = ?", (least, number_of(connection, batch))
        )


def _record_page(connection: sqlite3.Connection, num: int, page: Sequence[Outcome]) -> Counter[int]:
    """Store some outcomes; return how many rows left which state."""
    refs = as_json({outcome.ref for outcome in page})
    before = {row[0]: Row._make(row) for row in connection.execute(_READ, (refs,))}
    causes = _causes(connection, num, {outcome.last_message for outcome in page if outcome.last_message})
    left: list[int] = []
    after = dict(before)
    for news in page:
        row = after.get(news.ref)
        if row is not None:
            new = after[news.ref] = fold(row, news, causes[news.last_message] if news.last_message else None)
            if new.state != row.state:
                left.append(row.state)
    changed = [(row[2], *row[4:-1], ref) for ref, row in after.items() if row is not before[ref]]
    connection.executemany(_WRITE, changed)
    counted = Counter((row[0] >> 32, row[2], row[-1]) for row in before.values())
    # Of a row without status, cause and reason only the state counts.
    bare: Counter[tuple[int, int, int | str]] = Counter(
        (row[0] >> 32, row[2], "") for row in after.values() if row[5] is row[8] is row[12] is None
    )
    rich = as_json(ref for ref, row in after.items() if not row[5] is row[8] is row[12] is None)
    replace(connection, counted, tally(connection, AMONG, rich) + bare)
    return Counter(left)


def _causes(connection: sqlite3.Connection, num: int, messages: Collection[str]) -> dict[str | None, str | None]:
    """Return the cause of each message. Once a batch has `MOST_CAUSES`, new ones are only types of exceptions."""
    found: dict[str | None, str | None] = {message: cause_of(message) for message in messages}
    wanted = {cause for cause in found.values() if cause is not None}
    if not wanted:
        return found
    query = "SELECT DISTINCT cause FROM parts JOIN tallies USING (part) WHERE num = ? AND typeof(cause) = 'text'"
    counted = {cause for (cause,) in connection.execute(query, (num,))}
    room = max(0, MOST_CAUSES - len(counted))
    kept = (wanted & counted) | set(sorted(wanted - counted)[:room])
    return {message: cause if cause is None or cause in kept else kind_of(cause) for message, cause in found.items()}


def _rows_in(connection: sqlite3.Connection, num: int, codes: str, choice: Choice | None) -> Iterator[int]:
    """Yield the refs of rows in some states, read a page at a time as the caller changes them."""
    condition, values = ("TRUE", {}) if choice is None else chosen(choice)
    query = f"""SELECT ref FROM rows WHERE ref > :at AND ref <= :last AND state IN (SELECT value FROM json_each(:codes))
        AND ({condition}) ORDER BY ref LIMIT :size"""
    for first, last in ranges(connection, num):
        page = [(first - 1,)]
        while page:
            bounds = {"at": page[-1][0], "last": last, "codes": codes, "size": _PAGE}
            page = connection.execute(query, {**bounds, **values}).fetchall()
            yield from (ref for (ref,) in page)


def _unchanged(connection: sqlite3.Connection, batch: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[int]:
    for page in paged(rows, _PAGE):
        newest = locate(connection, batch, (task for _, task in page if task is not None))
        yield from (ref for ref, task in page if task is None or newest.get(task) == ref)


def _reopen(connection: sqlite3.Connection, num: int, refs: str, codes: str) -> int:
    """Open a new try for some rows. A row without any try is no valid task, and never becomes one."""
    with counted(connection, AMONG, refs):
        return connection.execute(
            f"""UPDATE rows SET try = try + 1, state = {State.UNSENT:d}, {_FORGET} WHERE {AMONG} AND try > 0
                AND ref >> 32 IN (SELECT part FROM parts WHERE num = ? AND phase = 1)
                AND state IN (SELECT value FROM json_each(?))""",
            (refs, num, codes),
        ).rowcount

"""Outcomes of tasks, and new tries of rows."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from cloudtasks_nb.fanout.outbox.causes import MOST_CAUSES, cause_of, chosen, kind_of
from cloudtasks_nb.fanout.outbox.counters import add_counts, as_json, number, number_of, paged, touch, write_refs
from cloudtasks_nb.fanout.outbox.database import Repository, transaction
from cloudtasks_nb.fanout.outbox.deletions import asked_for
from cloudtasks_nb.fanout.outbox.records import FINAL, Choice, Outcome, State
from cloudtasks_nb.fanout.outbox.rows import locate, ranges

__all__ = ["Outcomes"]

_PAGE = 1_000
_REQUEST = 100  # tasks a call, the service's limit: https://cloud.google.com/tasks/docs/quotas
_REQUEST_BYTES = 2 << 20  # by the average of their blocks, so half of what is allowed

#: From which states an outcome may bring a row to a state. A late success corrects any other state.
_MAY_COME_FROM: dict[State, frozenset[State]] = {
    State.SENT: frozenset({State.UNSENT}),
    State.SUCCEEDED: frozenset({State.UNSENT, State.SENT, State.FAILED, State.GONE, State.CANCELLED}),
    State.FAILED: frozenset({State.UNSENT, State.SENT, State.GONE}),
    State.CANCELLED: frozenset({State.UNSENT, State.SENT, State.GONE}),  # the deletion is certain, the log may lag
    State.GONE: frozenset({State.UNSENT, State.SENT}),
}

# Of two attempts the later one counts, whichever was recorded first. The message of an attempt that ended otherwise is
# dropped with it. What a handler said is not replaced by a message that tells no more than the status (cause NULL).
_OLDER = "excluded.attempts < attempts"
_OTHER = "excluded.attempts > attempts AND excluded.last_status <> last_status"
_SAYS_LESS = "excluded.last_message IS NULL OR (excluded.cause IS NULL AND cause IS NOT NULL)"


def _later(name: str) -> str:
    return f"{name} = coalesce(iif({_OLDER}, NULL, excluded.{name}), {name})"


def _said(name: str) -> str:
    return f"""{name} = CASE WHEN {_OLDER} THEN {name} WHEN {_OTHER} THEN excluded.{name}
        WHEN {_SAYS_LESS} THEN {name} ELSE excluded.{name} END"""


_UPSERT = f"""
    INSERT INTO outcomes (
        ref, attempts, last_status, last_message, cause, schedule_time, last_attempt_time, duration, http_status,
        reason)
    VALUES (:ref, :attempts, :last_status, :last_message, :cause, :schedule_time, :last_attempt_time, :duration,
        :http_status, nullif(:reason, ''))
    ON CONFLICT DO UPDATE SET
        {_later("last_status")}, {_said("last_message")}, {_said("cause")},
        {_later("schedule_time")}, {_later("last_attempt_time")}, {_later("duration")},
        http_status = CASE WHEN {_OLDER} THEN http_status WHEN excluded.attempts > attempts THEN excluded.http_status
            ELSE coalesce(excluded.http_status, http_status) END,
        reason = nullif(coalesce(:reason, reason), ''),
        attempts = max(coalesce(attempts, excluded.attempts), coalesce(excluded.attempts, attempts))"""  # noqa: S608 - names of our columns


class Outcomes(Repository):
    """What became of the rows' tasks."""

    @transaction
    def record(
        self, connection: sqlite3.Connection, batch: str, outcomes: Iterable[Outcome], *, from_log: bool = False
    ) -> int:
        """Store what is known of tasks; return how many rows changed their state.

        Outcomes of an older try are ignored. A succeeded row stays so, and a late success corrects any other state. A
        row that is gone after the batch asked for the deletion of its task is cancelled. Rows that were final and are
        corrected `from_log` are counted in the setting `corrected`.
        """
        num = number_of(connection, batch)
        left: Counter[State] = Counter()
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
        opened = sum(_reopen(connection, num, sorted(set(page)), codes) for page in paged(wanted, _PAGE))
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
        num = number_of(connection, batch)
        adopted = sum(_adopt_page(connection, num, page, pending=pending) for page in paged(tries.items(), _PAGE))
        if adopted:
            touch(connection, num)
        return adopted

    @transaction
    def raise_round(self, connection: sqlite3.Connection, batch: str, least: int) -> None:
        """Bring the round of a batch to a number, if it is lower."""
        connection.execute(
            "UPDATE batches SET round = max(round, ?) WHERE num = ?", (least, number_of(connection, batch))
        )


def _adopt_page(connection: sqlite3.Connection, num: int, page: Sequence[tuple[int, int]], *, pending: bool) -> int:
    wanted = dict(page)
    found = connection.execute(
        "SELECT ref, try, state FROM rows WHERE try > 0 AND ref IN (SELECT value FROM json_each(?))", (as_json(wanted),)
    ).fetchall()
    open_ = {State.UNSENT, State.FAILED, State.GONE} if pending else {State.UNSENT}
    newer = [(ref, state) for ref, attempt, state in found if wanted[ref] > attempt]
    same = [(ref, state) for ref, attempt, state in found if wanted[ref] == attempt and state in open_]
    connection.execute(
        "DELETE FROM outcomes WHERE ref IN (SELECT value FROM json_each(?))", (as_json(ref for ref, _ in newer),)
    )
    connection.executemany(
        "UPDATE rows SET state = ?, try = ? WHERE ref = ?",
        [(State.SENT, wanted[ref], ref) for ref, _ in (*newer, *same)],
    )
    left = Counter(state for _, state in (*newer, *same))
    add_counts(connection, num, {state: -n for state, n in left.items()})
    add_counts(connection, num, {State.SENT: len(newer) + len(same)})
    return len(newer)


def _record_page(connection: sqlite3.Connection, num: int, page: Sequence[Outcome]) -> Counter[State]:
    """Store some outcomes; return how many rows left which state."""
    gone = asked_for(connection, (outcome.ref for outcome in page if outcome.state is State.GONE))
    if gone:
        page = [
            replace(outcome, state=State.CANCELLED, reason="")
            if outcome.state is State.GONE and outcome.ref in gone
            else outcome
            for outcome in page
        ]
    now = {
        ref: (attempt, state)
        for ref, attempt, state in connection.execute(
            "SELECT ref, try, state FROM rows WHERE ref IN (SELECT value FROM json_each(?))",
            (as_json(outcome.ref for outcome in page),),
        )
    }
    current = [outcome for outcome in page if now.get(outcome.ref, (None,))[0] == outcome.attempt]
    left: Counter[State] = Counter()
    changes: Counter[int] = Counter()
    steps: dict[int, State] = {}
    for outcome in current:
        before, to = steps.get(outcome.ref, State(now[outcome.ref][1])), outcome.state
        if to is not None and before in _MAY_COME_FROM.get(to, ()):
            left[before] += 1
            changes[before] -= 1
            changes[to] += 1
            steps[outcome.ref] = to
    connection.executemany("UPDATE rows SET state = ? WHERE ref = ?", [(to, ref) for ref, to in steps.items()])
    causes = _causes(connection, num, {outcome.last_message for outcome in current if outcome.last_message})
    connection.executemany(
        _UPSERT, [_columns(outcome, causes, moved=steps.get(outcome.ref) is outcome.state) for outcome in current]
    )
    add_counts(connection, num, changes)
    return left


def _causes(connection: sqlite3.Connection, num: int, messages: Collection[str]) -> dict[str | None, str | None]:
    """Return the cause of each message. Once a batch has `MOST_CAUSES`, new ones are only types of exceptions."""
    found: dict[str | None, str | None] = {message: cause_of(message) for message in messages}
    wanted = {cause for cause in found.values() if cause is not None}
    new = wanted - _counted(connection, num, as_json(wanted))
    if not new or number(connection, "SELECT count(*) FROM causes WHERE num = ?", num) + len(new) <= MOST_CAUSES:
        return found
    connection.execute("DELETE FROM causes WHERE num = ? AND n = 0", (num,))
    room = MOST_CAUSES - number(connection, "SELECT count(*) FROM causes WHERE num = ?", num)
    kept = (wanted - new) | set(sorted(new)[: max(0, room)])
    return {message: cause if cause in kept or cause is None else kind_of(cause) for message, cause in found.items()}


def _counted(connection: sqlite3.Connection, num: int, causes: str) -> set[str]:
    cursor = connection.execute(
        "SELECT DISTINCT cause FROM causes WHERE num = ? AND cause IN (SELECT value FROM json_each(?))", (num, causes)
    )
    return {cause for (cause,) in cursor}


def _columns(outcome: Outcome, causes: Mapping[str | None, str | None], *, moved: bool) -> dict[str, int | str | None]:
    return {
        "ref": outcome.ref,
        "attempts": outcome.attempts,
        "last_status": outcome.last_status,
        "http_status": outcome.http_status,
        "last_message": outcome.last_message or None,
        "cause": causes.get(outcome.last_message),
        "schedule_time": outcome.schedule_time,
        "last_attempt_time": outcome.last_attempt_time,
        "duration": outcome.duration,
        "reason": outcome.reason if moved else None,
    }


def _rows_in(connection: sqlite3.Connection, num: int, codes: str, choice: Choice | None) -> Iterator[int]:
    """Yield the refs of rows in some states, read a page at a time as the caller changes them."""
    condition, values = ("TRUE", {}) if choice is None else chosen(choice)
    for first, last in ranges(connection, num):
        at = first - 1
        while True:
            page = connection.execute(
                f"""SELECT r.ref FROM rows r LEFT JOIN outcomes o ON o.ref = r.ref
                    WHERE r.ref > :at AND r.ref <= :last AND r.state IN (SELECT value FROM json_each(:codes))
                    AND ({condition}) ORDER BY r.ref LIMIT :size""",  # noqa: S608 - names of our columns
                {"at": at, "last": last, "codes": codes, "size": _PAGE, **values},
            ).fetchall()
            if not page:
                break
            at = page[-1][0]
            yield from (ref for (ref,) in page)


def _unchanged(connection: sqlite3.Connection, batch: str, rows: Iterable[tuple[int, str | None]]) -> Iterator[int]:
    for page in paged(rows, _PAGE):
        newest = locate(connection, batch, (task for _, task in page if task is not None))
        yield from (ref for ref, task in page if task is None or newest.get(task) == ref)


def _reopen(connection: sqlite3.Connection, num: int, refs: list[int], codes: str) -> int:
    # A row without any try is no valid task, and what did not pass once cannot be sent now either.
    found = connection.execute(
        """SELECT r.ref, r.state, r.try FROM json_each(?) j CROSS JOIN rows r ON r.ref = j.value
           JOIN parts p ON p.part = r.ref >> 32
           WHERE p.num = ? AND p.status = 1 AND r.try > 0 AND r.state IN (SELECT value FROM json_each(?))
           ORDER BY r.ref""",
        (as_json(refs), num, codes),
    ).fetchall()
    left = Counter(state for _, state, _ in found)
    chosen = as_json(ref for ref, _, _ in found)
    connection.execute(
        "UPDATE rows SET try = try + 1, state = ? WHERE ref IN (SELECT value FROM json_each(?))", (State.UNSENT, chosen)
    )
    connection.execute("DELETE FROM outcomes WHERE ref IN (SELECT value FROM json_each(?))", (chosen,))
    add_counts(connection, num, {State.UNSENT: len(found)} | {state: -n for state, n in left.items()})
    alike: dict[int, list[int]] = {}
    for ref, _, attempt in found:
        alike.setdefault(attempt + 1, []).append(ref)
    for attempt, group in alike.items():
        for request in _packed(connection, group):
            connection.execute("UPDATE batches SET issued = issued + 1 WHERE num = ?", (num,))
            connection.execute(
                """INSERT INTO requests (num, seq, try, refs, tried)
                   SELECT num, issued, ?, ?, 0 FROM batches WHERE num = ?""",
                (attempt, write_refs(request), num),
            )
    return len(found)


def _packed(connection: sqlite3.Connection, refs: list[int]) -> Iterator[list[int]]:
    """Cut rows into requests: by number, and by the average size of the rows around them."""
    request: list[int] = []
    size = 0.0
    first = last = -1
    average = 0.0
    for ref in refs:
        if not first <= ref <= last:
            first, n, raw = connection.execute(
                "SELECT first, n, raw FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1", (ref,)
            ).fetchone()
            last, average = first + n - 1, raw / n
        if request and (len(request) == _REQUEST or size + average > _REQUEST_BYTES):
            yield request
            request, size = [], 0.0
        request.append(ref)
        size += average
    if request:
        yield request

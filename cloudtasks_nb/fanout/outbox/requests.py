"""Requests of up to 100 rows: what may have been sent is stored before it is sent, and forgotten when it is answered.

A stored request is a flight: rows in one try. Of a sender that has ended without an answer, its unsent rows
are in doubt (`IN_DOUBT`): the service may have their tasks. The tasks that a cancelled batch deletes are stored in the
same way, so that a killed process loses none.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from sqlite3 import Connection
from typing import NamedTuple

import orjson

from cloudtasks_nb.fanout.evidence import Fact
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import Database, Hold, Repository, StoredBlock, hold, read_block, transaction
from cloudtasks_nb.fanout.outbox.records import Ack, Request, Scope, stored_facts
from cloudtasks_nb.fanout.outbox.rows import tasks_of
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, task_ids
from cloudtasks_nb.fanout.states import IN_DOUBT, State

__all__ = ["MAX_TASKS", "DeletionPage", "DeletionQueue", "RequestQueue", "Requests"]

#: Tasks a batch call, the service's limit (https://cloud.google.com/tasks/docs/quotas).
MAX_TASKS = 100

_BYTES = 3 << 20  # of tasks in a request, so that names and envelopes stay below the 4 MiB that servers take
_CANCELLED = 10_000  # unsent rows in a transaction: so many take about a tenth of a second
#: Refs and tries of the rows in requests of a batch.
_FLYING = "SELECT value, try FROM flights JOIN json_each(refs) WHERE num = :batch"
_Flight = tuple[int, list[int], int, float]  # number of a request, its rows (ascending), their try, when it started
_Contents = tuple[Sequence[int], bytes, list[bytes]]  # refs of rows, their keys, and their tasks without names
#: Whether a row is in one of some scopes, which are given as JSON.
_IN_SCOPES = f"EXISTS (SELECT 1 FROM json_each(:scopes) j WHERE {sql.WITHIN.format(scope='j.value', ref='ref')})"
_WAITING = f"state IN ({State.UNSENT:d}, {IN_DOUBT})"


class Requests(Repository):
    """The requests of the batches of an outbox."""

    cancels = 0  #: grows when this process cancels requests

    def lock(self, batch: str, job: str = "send") -> Hold | None:
        """Become the one that sends a batch, or does another job, until the lock is released or the process ends.

        None: another one has the lock.
        """
        return hold(self._database.path, f"{batch}-{job}")

    def announce_sender(self, batch: str) -> Hold:
        """Note that this process sends the batch, or waits to send it, until the lock is released or the process ends.

        The lock on sending is free at times, such as while a sender waits for the service to answer.
        """
        while (held := self.lock(batch, f"sender-{secrets.token_hex(4)}")) is None:
            pass  # somebody has looked at it between its creation and its locking
        return held

    def has_sender(self, batch: str) -> bool:
        """Return whether a process sends the batch, or waits to send it; remove what killed ones have left."""
        for path in (self._database.path.parent / "locks").glob(f"{batch}-sender-*.lock"):
            held = hold(self._database.path, path.stem)
            if held is None:
                return True
            held.release()
        return False

    def waiting(self, rows: Scope) -> bool:
        """Return whether rows are to be sent, or may have been sent by a sender that has ended."""
        return any(state in {State.UNSENT, IN_DOUBT} for state, _, _ in self._database.read(sql.tallied, rows))

    def repeats(self, batch: str) -> bool:
        """Return whether rows are to be sent that had another try before."""
        query = f"""SELECT EXISTS (SELECT 1 FROM spans CROSS JOIN rows INDEXED BY repeated
                    ON ref BETWEEN first AND last WHERE scope = :num AND try > 1 AND {_WAITING})"""
        return self._number(query, batch) > 0

    def untried(self, batch: str) -> bool:
        """Return whether rows are to be sent that had no other try before."""
        query = f"SELECT EXISTS (SELECT 1 FROM {sql.ROWS} AND try = 1 AND state = {State.UNSENT:d})"
        return self._number(query, batch) > 0

    def queue(self, batch: str) -> RequestQueue:
        """Return the requests of a batch, for one sender."""
        return RequestQueue(self._database, batch)

    def find_doubtful(self, batch: str) -> None:
        """Put the unsent rows of requests in doubt whose sender has ended."""
        flies = self._number("SELECT EXISTS (SELECT 1 FROM flights WHERE num = :num)", batch)
        if flies and (held := self.lock(batch)) is not None:
            try:
                self._database.write(_find_doubtful, batch)
            finally:
                held.release()

    def cancel(self, rows: Scope, size: int = _CANCELLED) -> Iterator[int]:
        """Cancel the rows that are not sent, `size` of them in a transaction; yield how many were, after each.

        Rows of requests in flight stay as they are until their sender, or the next one, finds out whether they were
        created. Those that were become sent, and the caller has to delete them. No row is given out that is to be
        cancelled by `BatchFacts.cancel`.
        """
        cancelled, after = 1, -1
        while cancelled:
            cancelled, after = self._database.write(_cancel, rows, after, size)
            self.cancels += 1
            if cancelled:
                yield cancelled

    def void(self, batch: str) -> Collection[int]:
        """Return the numbers of the requests in flight that are cancelled."""
        query = "SELECT seq FROM flights JOIN batches USING (num) WHERE id = ? AND void"
        return {*self._database.read(sql.firsts, query, (batch,))}


class _Turn(NamedTuple):
    """What is the same for all requests that are given out in one transaction."""

    connection: Connection
    num: int  #: of the batch
    until: int  #: the last ref whose row may be sent
    cancelled: str | None  #: the numbers of the scopes whose rows are cancelled, as JSON


class RequestQueue(Repository):
    """Gives the requests of a batch to one sender, and stores its answers.

    Requests that an earlier sender has left come first, then rows that are to be sent, in input order. Not for use by
    two threads at once.
    """

    def __init__(self, database: Database, batch: str) -> None:
        super().__init__(database)
        self.batch = batch
        self._left: list[_Flight] | None = None  # of earlier senders; None: not read yet
        self._round = 0
        self._after = -1  # all rows up to this ref were given out in this pass over the rows
        self._last = -1  # of all rows that were given out; those behind it are in no request
        self._block = StoredBlock(0, b"")  # the last one that was read
        self._changing = False  # whether it may get tasks: only another home has rendered some rows

    @transaction
    def turn(
        self,
        connection: Connection,
        acks: Collection[Ack],
        want: int,
        *,
        now: float,
        size: int = MAX_TASKS,
        until: int | None = None,
    ) -> list[Request]:
        """Store answers and give out up to `want` requests, in one transaction.

        Parameters
        ----------
        now : float
            Seconds since 1970: when the requests may be sent at the earliest.
        size : int
            Rows in a request that was never sent.
        until : int, optional
            The last ref whose row may be sent; rows in doubt are given out all the same.
        """
        num = sql.number_of(connection, self.batch)
        if self._left is None:
            self._left = _find_doubtful(connection, self.batch)
        if self._changing:
            self._block = StoredBlock(0, b"")
        self._changing = sql.has_elsewhere(connection, num)
        round_ = sql.number(connection, "SELECT round FROM batches WHERE num = ?", (num,))
        facts = stored_facts(connection, num, "cancel")
        parts = facts.cancel.parts if facts.cancel else ()
        cancelled = sql.as_json(-number for number, *_ in parts) if parts else None
        moved: sql.Tally = Counter()
        for ack in acks:
            self._settle(connection, ack, moved)
        sql.adjust(connection, moved)
        if acks:
            sql.touch(connection, num)
        if round_ != self._round:  # rows anywhere may have a new try
            self._round, self._after = round_, -1
        turn = _Turn(connection, num, sql.ALL if until is None else until, cancelled)
        requests: list[Request] = []
        while self._left and len(requests) < want:
            requests += self._again(turn, self._left.pop(0))
        if len(requests) < want and not facts.cancels_all:
            requests += self._fresh(turn, want - len(requests), size, now)
        return requests

    def _settle(self, connection: Connection, ack: Ack, moved: sql.Tally) -> None:
        """Store the answer to one request. A row whose outcome is known by now keeps it.

        What is `moved` in the usual way is added to the tallies by the caller, once for all requests.
        """
        found = connection.execute("DELETE FROM flights WHERE seq = ? RETURNING try, void", (ack.seq,)).fetchone()
        if found is None:
            return  # another sender of this batch has stored it
        attempt, void = found
        _move(connection, ack.sent, State.SENT, attempt, moved)
        _move(connection, sorted(ack.rejected), State.REJECTED, attempt, moved)
        reasons = [(reason, ref) for ref, reason in ack.rejected.items()]
        connection.executemany(f"UPDATE rows SET reason = ? WHERE ref = ? AND state = {State.REJECTED:d}", reasons)
        # Those of a cancelled request stay in question, as tasks to be deleted: the log may have their outcome.
        _move(connection, ack.gone, State.SENT if void else State.GONE, attempt, moved)
        if void:
            deleting = f"UPDATE rows SET deleting = try WHERE {sql.AMONG} AND try = ? AND state = {State.SENT:d}"
            connection.execute(deleting, (sql.as_json(ack.gone), attempt))
        if ack.again:
            _move(connection, ack.again, State.CANCELLED if void else State.UNSENT, attempt, moved)
            self._after = min(self._after, ack.again[0] - 1)

    def _again(self, turn: _Turn, flight: _Flight) -> Iterator[Request]:
        """Yield the request that an earlier sender has left, without rows that are known by now.

        Rows that may be sent, rows that may not, and rows that are cancelled are in requests of their own.
        """
        connection, (number, rows, attempt, _) = turn.connection, flight
        left = connection.execute("DELETE FROM flights WHERE seq = ? RETURNING void", (number,)).fetchone()
        if left is None:
            return  # another sender of this batch has stored its answer
        query = f"SELECT ref FROM rows WHERE {sql.AMONG} AND try = ? AND state = {IN_DOUBT} ORDER BY ref"
        refs = sql.firsts(connection, query, (sql.as_json(rows), attempt))
        void = set(refs if left[0] else ())
        if turn.cancelled:
            query = f"SELECT ref FROM (SELECT value AS ref FROM json_each(:refs)) WHERE {_IN_SCOPES}"
            void.update(sql.firsts(connection, query, {"refs": sql.as_json(refs), "scopes": turn.cancelled}))
        groups = [ref for ref in refs if ref not in void], sorted(void)
        borders = ((some, bisect_right(some, turn.until)) for some in groups)
        for part in filter(None, (half for some, at in borders for half in (some[:at], some[at:]))):
            contents = part, *self._contents(connection, part)
            yield self._depart(turn, contents, flight, void=part[0] in void)
            flight = (0, *flight[1:])

    def _fresh(self, turn: _Turn, want: int, size: int, now: float) -> list[Request]:
        """Give out the next unsent rows, those of each try apart; store that they may be sent from now on."""
        requests: list[Request] = []
        for refs, attempt in self._unsent(turn, want * size):
            some = (refs[at : at + size] for at in range(0, len(refs), size))
            for contents in chain.from_iterable(_halved(part, *self._contents(turn.connection, part)) for part in some):
                if len(requests) == want:  # these rows are read again the next time
                    self._after = min(self._after, contents[0][0] - 1)
                    break
                requests.append(self._depart(turn, contents, (0, [], attempt, now)))
                self._last = max(self._last, contents[0][-1])
        if requests:
            turn.connection.execute("UPDATE batches SET begun = 1 WHERE num = ? AND NOT begun", (turn.num,))
        return requests

    def _unsent(self, turn: _Turn, most: int) -> list[tuple[list[int], int]]:
        """Return the next unsent rows behind those that were given out, without those in flight, and their try.

        Rows in the scopes that are cancelled, and rows that only another home has rendered, are none of them.
        """
        connection, num, until, cancelled = turn
        others = f"AND NOT {_IN_SCOPES}" if cancelled else ""
        unsent = f"""SELECT ref, try FROM {sql.ROWS} AND state = {State.UNSENT:d} AND elsewhere IS NULL {others}
                     AND (ref > :last OR (ref, try) NOT IN ({_FLYING})) ORDER BY first, ref LIMIT :most"""
        values = {"num": num, "batch": num, "start": self._after + 1, "end": until, "scopes": cancelled}
        values |= {"last": self._last, "most": most}
        query = f"SELECT min(try), max(try), json_group_array(ref) FROM ({unsent})"
        found = connection.execute(query, values).fetchall()
        if found[0][0] != found[0][1]:  # only then, because GROUP BY sorts
            found = connection.execute(f"{query} GROUP BY try", values).fetchall()
        rows = sorted((sorted(orjson.loads(refs)), attempt) for attempt, _, refs in found if attempt)
        self._after = max([self._after, *(refs[-1] for refs, _ in rows)])
        return rows

    def _contents(self, connection: Connection, refs: Sequence[int]) -> tuple[bytes, list[bytes]]:
        """Return the keys of rows, one behind the other, and their tasks."""
        keys, tasks, at = b"", list[bytes](), 0
        while at < len(refs):
            if not self._block.first <= refs[at] <= self._block.last:
                self._block = read_block(connection, refs[at], "keys, tasks")
            end = bisect_right(refs, self._block.last, at)
            keys += self._block.keys(refs[at:end])
            tasks += self._block.tasks(refs[at:end])
            at = end
        return keys, tasks

    def _depart(self, turn: _Turn, contents: _Contents, flight: _Flight, *, void: bool = False) -> Request:
        """Store that rows may be sent from now on, and return their request.

        `flight` is that of an earlier sender with these rows, or one without rows; the number 0 stands for a new one.
        """
        (number, earlier, attempt, started), (refs, keys, wire) = flight, contents
        values = (number or None, turn.num, sql.as_json(refs), attempt, started, void)
        seq = turn.connection.execute("INSERT INTO flights VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid or 0
        tasks, tried = task_ids(self.batch, keys, attempt), bool(earlier)
        return Request(seq=seq, refs=refs, attempt=attempt, tasks=tasks, wire=wire, started=started, tried=tried)


def _halved(refs: Sequence[int], keys: bytes, tasks: list[bytes]) -> Iterator[_Contents]:
    """Yield rows in as few halves, quarters and so on as the service takes the bytes of."""
    if len(refs) == 1 or sum(map(len, tasks)) <= _BYTES:
        yield refs, keys, tasks
    else:
        half = len(refs) // 2
        yield from _halved(refs[:half], keys[: half * KEY_SIZE], tasks[:half])
        yield from _halved(refs[half:], keys[half * KEY_SIZE :], tasks[half:])


def _find_doubtful(connection: Connection, batch: str) -> list[_Flight]:
    """Put the unsent rows of all requests of a batch in doubt, and return these."""
    found = sql.select(connection, "SELECT seq, refs, try, started FROM flights WHERE num = :num ORDER BY seq", batch)
    flights = [(seq, orjson.loads(refs), attempt, started) for seq, refs, attempt, started in found]
    for _, refs, attempt, _ in flights:
        sql.update(connection, refs, f"state = {IN_DOUBT}", f"state = {State.UNSENT:d} AND try = ?", attempt)
    return flights


def _move(connection: Connection, refs: Sequence[int], to: State, attempt: int, moved: sql.Tally) -> None:
    """Bring rows from unsent, or from doubt, into another state, if they are in this try."""
    if not refs:
        return
    part = refs[0] >> 32
    if refs[-1] - refs[0] + 1 == len(refs) and refs[-1] >> 32 == part:  # usually, and none has failed before
        unsent = f"ref BETWEEN ? AND ? AND try = ? AND state = {State.UNSENT:d} AND status IS NULL"
        values = (to, refs[0], refs[-1], attempt)
        n = connection.execute(f"UPDATE rows SET state = ? WHERE {unsent}", values).rowcount
        moved[part, State.UNSENT, ""] -= n
        moved[part, to, ""] += n
        if n == len(refs):
            return
    sql.update(connection, refs, f"state = {to:d}", f"try = ? AND {_WAITING}", attempt)


def _cancel(connection: Connection, rows: Scope, after: int, most: int) -> tuple[int, int]:
    """Cancel unsent rows behind a ref, and the requests in flight; return how many rows, and the last one's ref."""
    num = sql.number_of(connection, rows.batch)
    given = sql.values(connection, rows, start=after + 1, batch=num, most=most)
    if given["num"] > 0:  # else the rows of requests that are sent are deleted when they have come back
        connection.execute("UPDATE flights SET void = 1 WHERE num = ? AND NOT void", (num,))
    query = f"""SELECT ref FROM {sql.ROWS} AND state = {State.UNSENT:d} AND (ref, try) NOT IN ({_FLYING})
                ORDER BY first, ref LIMIT :most"""
    refs = sql.firsts(connection, query, given)
    sql.update(connection, refs, f"state = {State.CANCELLED:d}", "TRUE")
    sql.touch(connection, num)
    return len(refs), refs[-1] if refs else after


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionPage:
    """Rows whose tasks are to be deleted together, in dispatch order."""

    refs: Sequence[int]
    tasks: Sequence[str]  #: id of each task
    earlier: Collection[int]  #: rows whose deletion was asked for before: their tasks may be deleted already


class DeletionQueue(Repository):
    """Gives out the tasks of a batch that are in the queue, page after page, and stores which were deleted.

    A page is stored before it is given out. If the process is killed before it stores the results, the rows of the page
    whose tasks are missing later count as cancelled: `Outcomes.record` reads what is stored here.

    Parameters
    ----------
    database : Database
    rows : Scope
        Those whose tasks are deleted.
    """

    def __init__(self, database: Database, rows: Scope) -> None:
        super().__init__(database)
        self._rows = rows
        self._after = -1  # ref of the last row that was given out

    @transaction
    def turn(
        self, connection: Connection, page: DeletionPage | None, results: Iterable[bool | None], *, size: int
    ) -> DeletionPage | None:
        """Store the results of one page and give out the next, in one transaction; None when there is none.

        Parameters
        ----------
        page : DeletionPage, optional
        results : iterable of bool or None
            For each row of the page, whether the task was deleted; False: certainly not by this call; None: not known.
        size : int
            Rows in the next page; 0 for no next page.
        """
        num = sql.number_of(connection, self._rows.batch)
        if page is not None:
            _finish(connection, page, results)
            sql.touch(connection, num)
        query = f"""SELECT ref, try, deleting FROM {sql.ROWS} AND state = {State.SENT:d}
                    ORDER BY first, ref LIMIT :size"""
        found = sql.select(connection, query, self._rows, start=self._after + 1, size=size).fetchall()
        if not found:
            return None
        refs = [ref for ref, _, _ in found]
        self._after = refs[-1]
        connection.execute(f"UPDATE rows SET deleting = try WHERE {sql.AMONG}", (sql.as_json(refs),))
        tasks = tasks_of(connection, self._rows.batch, [row[:2] for row in found])
        earlier = {ref for ref, attempt, deleting in found if deleting == attempt}
        return DeletionPage(refs=refs, tasks=tasks, earlier=earlier)

    @transaction
    def leave(self, connection: Connection, *, deleted: bool = False) -> None:
        """Leave the deletion to another home: rows whose tasks leave the queue, or have left it so, are cancelled.

        With `deleted` only those whose tasks were deleted.
        """
        rows, values = f"ref IN (SELECT ref FROM {sql.ROWS})", sql.values(connection, self._rows)
        gone = f"state = {State.GONE:d} AND fact = {Fact.DELETED:d}"
        left = gone if deleted else f"state IN ({State.SENT:d}, {State.GONE:d})"
        with sql.counted(connection, rows, values):
            connection.execute(f"UPDATE rows SET deleting = try WHERE {rows} AND {left}", values)
            change, gone = f"state = {State.CANCELLED:d}, reason = NULL", f"state = {State.GONE:d} AND deleting = try"
            connection.execute(f"UPDATE rows SET {change} WHERE {rows} AND {gone}", values)
        sql.touch(connection, sql.number_of(connection, self._rows.batch))


def _finish(connection: Connection, page: DeletionPage, results: Iterable[bool | None]) -> None:
    by_result: dict[bool | None, list[int]] = {True: [], False: [], None: []}
    for ref, result in zip(page.refs, results, strict=True):
        by_result[result].append(ref)
    # A row that another process has recorded meanwhile, or that has a newer try, stays as it is.
    change = f"state = {State.CANCELLED:d}, fact = {Fact.DELETED:d}, reason = NULL"
    sql.update(connection, by_result[True], change, f"state = {State.SENT:d} AND deleting = try")
    # Those that were seen to have left meanwhile count as cancelled: what became of them is found out anew.
    others = [ref for ref in by_result[False] if ref not in page.earlier]
    change = f"deleting = NULL, state = iif(state = {State.CANCELLED:d}, {State.SENT:d}, state)"
    sql.update(connection, others, change, "deleting = try")

"""Requests of up to 100 rows: they are stored before they are sent, and removed when they are answered."""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from cloudtasks_nb.fanout.outbox.blocks import StoredBlock
from cloudtasks_nb.fanout.outbox.counters import (
    add_counts,
    as_json,
    move,
    number,
    number_of,
    read_refs,
    set_reasons,
    touch,
    write_refs,
)
from cloudtasks_nb.fanout.outbox.database import Database, Repository, transaction
from cloudtasks_nb.fanout.outbox.deletions import ask_for, correct_gone
from cloudtasks_nb.fanout.outbox.locks import Hold, announce, announced, hold
from cloudtasks_nb.fanout.outbox.records import Ack, Request, State
from cloudtasks_nb.fanout.plan.identity import task_ids

__all__ = ["MAX_TASKS", "RequestQueue", "Requests"]

#: Tasks a batch call, the service's limit (https://cloud.google.com/tasks/docs/quotas).
MAX_TASKS = 100

_BYTES = 3 << 20  # of tasks in a request, so that names and envelopes stay below the 4 MiB that servers take
_ALL = 1 << 60  # more than any ref, and more rows than a batch can have
_VOID_SECONDS = 0.05  # for which it is not read again which requests are cancelled
_CACHED = 4  # blocks of about a megabyte


class Requests(Repository):
    """The requests of the batches of an outbox."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._void: dict[str, tuple[int, float, int]] = {}  # newest cancelled request, until when, after which write

    def lock(self, batch: str) -> Hold | None:
        """Become the sender of a batch until the lock is released, or the process ends; None: another one is."""
        return hold(self._database.path, batch)

    def announce_sender(self, batch: str) -> Hold:
        """Note that this process sends the batch, or waits to send it, until the lock is released or the process ends.

        The lock on sending is free at times, such as while a sender waits for the service to answer.
        """
        return announce(self._database.path, f"{batch}-sender")

    def has_sender(self, batch: str) -> bool:
        """Return whether a process sends the batch, or waits to send it."""
        return announced(self._database.path, f"{batch}-sender")

    def cancel_lock(self, batch: str) -> Hold | None:
        """Become the one that cancels a batch until the lock is released, or the process ends; None: another one is."""
        return hold(self._database.path, f"{batch}-cancel")

    def begun(self, batch: str) -> bool:
        """Return whether there ever was a request of this batch."""
        with self._database.reading() as connection:
            num = number_of(connection, batch)
            return number(connection, "SELECT issued FROM batches WHERE num = ?", num) > 0

    def repeats(self, batch: str) -> bool:
        """Return whether requests of this batch are another try of their rows."""
        with self._database.reading() as connection:
            query = "SELECT EXISTS (SELECT 1 FROM requests WHERE num = ? AND try > 1)"
            return number(connection, query, number_of(connection, batch)) > 0

    def queue(self, batch: str) -> RequestQueue:
        """Return the requests of a batch, for one sender."""
        return RequestQueue(self._database, batch)

    @transaction
    def cancel(self, connection: sqlite3.Connection, batch: str, size: int | None = None) -> int:
        """Cancel the rows that are not sent, or about `size` of them; return how many, 0 if there are no more.

        Rows of requests in flight stay unsent until their sender, or the next one, finds out whether they were
        created. Those that were become sent, and the caller has to delete them.
        """
        num = number_of(connection, batch)
        most = _ALL if size is None else size
        cancelled = 0
        for cancel_some in (_cancel_requests, _cancel_fresh):
            while cancelled < most and (found := cancel_some(connection, num, most - cancelled)) is not None:
                cancelled += found
        connection.execute("UPDATE batches SET void = issued WHERE num = ?", (num,))
        correct_gone(connection, num)
        touch(connection, num)
        return cancelled

    def void_until(self, batch: str) -> int:
        """Return the number of the newest request that was cancelled, 0 if none was. Quick enough for an event loop.

        It is read anew after each write of this outbox; what another process has cancelled is seen 50 ms later at most.
        """
        now, writes = time.monotonic(), self._database.writes
        value, until, seen = self._void.get(batch, (0, 0.0, -1))
        if now > until or writes != seen:
            with self._database.reading() as connection:
                value = number(connection, "SELECT coalesce(max(void), 0) FROM batches WHERE id = ?", batch)
            self._void[batch] = value, now + _VOID_SECONDS, writes
        return value


class RequestQueue(Repository):
    """Gives the requests of a batch to one sender, and stores its answers.

    Requests that an earlier sender has left come first, then those of new tries, then rows that were never sent, in
    input order. Not for use by two threads at once.
    """

    def __init__(self, database: Database, batch: str) -> None:
        super().__init__(database)
        self.batch = batch
        self._seen = 0  # newest request that was given out
        self._blocks: OrderedDict[int, StoredBlock] = OrderedDict()

    @transaction
    def turn(
        self,
        connection: sqlite3.Connection,
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
            The last ref whose row may be sent; rows that may have been sent before are given out all the same.
        """
        num, until = number_of(connection, self.batch), _ALL if until is None else until
        for ack in acks:
            _settle(connection, num, ack)
        if acks:
            touch(connection, num)
        requests: list[Request] = []
        while len(requests) < want:
            more = self._left(connection, num, size, now, until)
            if more is None:
                more = self._fresh(connection, num, want - len(requests), size, now, until)
            if more is None:
                break
            requests.extend(more)
        return requests

    @transaction
    def hand_back(self, connection: sqlite3.Connection, requests: Iterable[Request]) -> None:
        """Note that these requests were not sent after all."""
        num = number_of(connection, self.batch)
        connection.executemany(
            "UPDATE requests SET started = NULL WHERE num = ? AND seq = ?",
            [(num, request.seq) for request in requests if not request.tried],
        )

    def _left(
        self, connection: sqlite3.Connection, num: int, size: int, now: float, until: int
    ) -> list[Request] | None:
        """Give out the next request that is stored already, if any of its rows is still unsent."""
        found = connection.execute(
            """SELECT seq, try, refs, started, tried FROM requests
               WHERE num = ? AND seq > ? ORDER BY seq LIMIT 1""",
            (num, self._seen),
        ).fetchone()
        if found is None:
            return None
        seq, attempt, refs, started, tried = found
        self._seen = seq
        # A row whose outcome is known was created.
        cursor = connection.execute(
            """SELECT ref FROM rows
               WHERE ref IN (SELECT value FROM json_each(?)) AND state = ? AND try = ? ORDER BY ref""",
            (as_json(read_refs(refs)), State.UNSENT, attempt),
        )
        unsent = [ref for (ref,) in cursor]
        if not unsent:
            connection.execute("DELETE FROM requests WHERE num = ? AND seq = ?", (num, seq))
            return []
        if started is None:
            size = min(size, bisect_right(unsent, until))
            if not size:
                return []
            if not tried and len(unsent) > size and _split(connection, num, seq, unsent, size):
                del unsent[size:]
            connection.execute("UPDATE requests SET started = ? WHERE num = ? AND seq = ?", (now, num, seq))
        blocks = [(ref, self._block(connection, ref)) for ref in unsent]
        request = Request(
            seq=seq,
            refs=[ref for ref, _ in blocks],
            attempt=attempt,
            tasks=task_ids(self.batch, b"".join(block.key(ref) for ref, block in blocks), attempt),
            wire=[task for ref, block in blocks for task in block.tasks([ref])],
            started=now if started is None else started,
            tried=bool(tried) or started is not None,
        )
        return [request]

    def _fresh(
        self, connection: sqlite3.Connection, num: int, want: int, size: int, now: float, until: int
    ) -> list[Request] | None:
        """Make requests of rows of one block that are in no request yet; None when there are no more such rows."""
        part = connection.execute(
            """SELECT part, next, last FROM parts
               WHERE num = ? AND status = 1 AND next <= min(last, ?) ORDER BY part LIMIT 1""",
            (num, until),
        ).fetchone()
        if part is None:
            return None
        number, start, last = part
        block = self._block(connection, start)
        end = min(block.last, last, until)
        groups = list(block.cut(_unsent(connection, start, end), size, _BYTES))
        issued: int = connection.execute("SELECT issued FROM batches WHERE num = ?", (num,)).fetchone()[0]
        requests = [
            Request(
                seq=seq,
                refs=refs,
                attempt=1,
                tasks=task_ids(self.batch, block.keys(refs), 1),
                wire=block.tasks(refs),
                started=now,
                tried=False,
            )
            for seq, refs in enumerate(groups[:want], issued + 1)
        ]
        connection.executemany(
            "INSERT INTO requests VALUES (?, ?, 1, ?, ?, 0)",
            [(num, request.seq, write_refs(request.refs), now) for request in requests],
        )
        following = groups[want][0] if len(groups) > want else end + 1
        connection.execute("UPDATE parts SET next = ? WHERE part = ?", (following, number))
        self._seen = issued + len(requests)
        connection.execute("UPDATE batches SET issued = ? WHERE num = ?", (self._seen, num))
        return requests

    def _block(self, connection: sqlite3.Connection, ref: int) -> StoredBlock:
        for first, block in self._blocks.items():
            if first <= ref <= block.last:
                self._blocks.move_to_end(first)
                return block
        found = connection.execute(
            "SELECT first, keys, tasks FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1", (ref,)
        ).fetchone()
        block = self._blocks[found[0]] = StoredBlock(*found)
        if len(self._blocks) > _CACHED:
            self._blocks.popitem(last=False)
        return block


def _cancel_requests(connection: sqlite3.Connection, num: int, most: int) -> int | None:
    """Cancel rows of requests that were not sent, and remove these; return how many rows, None if there are none."""
    waiting = connection.execute(
        "SELECT seq, refs, try FROM requests WHERE num = ? AND started IS NULL ORDER BY seq LIMIT ?",
        (num, -(-most // MAX_TASKS)),
    ).fetchall()
    cancelled = sum(move(connection, num, read_refs(refs), State.CANCELLED, attempt) for _, refs, attempt in waiting)
    connection.executemany("DELETE FROM requests WHERE num = ? AND seq = ?", [(num, seq) for seq, _, _ in waiting])
    return cancelled if waiting else None


def _cancel_fresh(connection: sqlite3.Connection, num: int, most: int) -> int | None:
    """Cancel rows of one part that are in no request yet; return how many, None if there is no such part."""
    found = connection.execute(
        "SELECT part, next, last FROM parts WHERE num = ? AND status = 1 AND next <= last ORDER BY part LIMIT 1", (num,)
    ).fetchone()
    if found is None:
        return None
    part, start, last = found
    end = min(last, start + most - 1)
    fresh = connection.execute(
        "UPDATE rows SET state = ? WHERE ref BETWEEN ? AND ? AND state = ?",
        (State.CANCELLED, start, end, State.UNSENT),
    ).rowcount
    add_counts(connection, num, {State.UNSENT: -fresh, State.CANCELLED: fresh})
    connection.execute("UPDATE parts SET next = ? WHERE part = ?", (end + 1, part))
    return fresh


def _settle(connection: sqlite3.Connection, num: int, ack: Ack) -> None:
    """Store the answer to one request. A row whose outcome is known by now keeps it."""
    found = connection.execute("SELECT try FROM requests WHERE num = ? AND seq = ?", (num, ack.seq)).fetchone()
    if found is None:
        return  # another sender of this batch has stored it
    attempt: int = found[0]
    move(connection, num, ack.sent, State.SENT, attempt)
    move(connection, num, sorted(ack.rejected), State.REJECTED, attempt)
    set_reasons(connection, ack.rejected.items())
    move(connection, num, ack.cancelled, State.CANCELLED, attempt)
    _leave(connection, num, ack, attempt)
    connection.execute("DELETE FROM requests WHERE num = ? AND seq = ?", (num, ack.seq))
    if ack.again:
        connection.execute("UPDATE batches SET issued = issued + 1 WHERE num = ?", (num,))
        connection.execute(
            """INSERT INTO requests (num, seq, try, refs, tried)
               SELECT num, issued, ?, ?, 1 FROM batches WHERE num = ?""",
            (attempt, write_refs(ack.again), num),
        )


def _leave(connection: sqlite3.Connection, num: int, ack: Ack, attempt: int) -> None:
    """Store the rows of which it is not known whether they were created.

    Those of a cancelled request stay in question, as tasks that were to be deleted: the log may have their outcome.
    """
    if ack.gone and ack.seq <= number(connection, "SELECT void FROM batches WHERE num = ?", num):
        move(connection, num, ack.gone, State.SENT, attempt)
        ask_for(connection, ack.gone)
    else:
        move(connection, num, ack.gone, State.GONE, attempt)


def _split(connection: sqlite3.Connection, num: int, seq: int, refs: Sequence[int], size: int) -> bool:
    """Leave the first rows in a request, and put the others into a new one; return False if it is cancelled."""
    issue = "UPDATE batches SET issued = issued + 1 WHERE num = ? AND void < ?"
    if not connection.execute(issue, (num, seq)).rowcount:
        return False
    connection.execute(
        """INSERT INTO requests (num, seq, try, refs, tried)
           SELECT num, (SELECT issued FROM batches b WHERE b.num = r.num), try, ?, 0
           FROM requests r WHERE num = ? AND seq = ?""",
        (write_refs(refs[size:]), num, seq),
    )
    connection.execute("UPDATE requests SET refs = ? WHERE num = ? AND seq = ?", (write_refs(refs[:size]), num, seq))
    return True


def _unsent(connection: sqlite3.Connection, first: int, last: int) -> Sequence[int]:
    """Return the unsent rows of a range; in one step of SQLite, because each step releases the interpreter."""
    where = "FROM rows WHERE ref BETWEEN ? AND ? AND state = ? AND try = 1"
    found = (first, last, State.UNSENT)
    n: int = connection.execute(f"SELECT count(*) {where}", found).fetchone()[0]
    if n == last - first + 1:
        return range(first, last + 1)
    return [ref for (ref,) in connection.execute(f"SELECT ref {where} ORDER BY ref", found)]

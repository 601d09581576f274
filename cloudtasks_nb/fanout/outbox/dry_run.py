"""Find out what spooling rows would do: a spool that only decides, in a transaction that is rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.outbox.attach import Decision, decide, new_id, plain_reason
from cloudtasks_nb.fanout.outbox.counters import number
from cloudtasks_nb.fanout.outbox.database import guard
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.outbox.spool import NewBlock, Sorter
from cloudtasks_nb.fanout.plan.chunk import Chunk, Forecast
from cloudtasks_nb.fanout.plan.identity import task_id

__all__ = ["DryRun"]

_KNOWN = "FROM known k JOIN rows r ON r.ref = k.theirs WHERE k.ref NOT IN (SELECT ref FROM reasons)"


class DryRun(Sorter):
    """Takes the chunks of a plan as a `Spool` does, and reports what would happen to their rows.

    It writes temporary tables only, so that it neither changes the outbox nor waits for those that do. In these tables
    the ref of a row is its place in the input.
    """

    def __enter__(self) -> Self:
        try:
            with guard(self._path):
                self._begin()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, chunk: Chunk) -> None:
        """Take a chunk."""
        first = self._intake.rows
        with guard(self._path):
            self._connection.execute("BEGIN")
            found = self._sort(chunk)
            block = NewBlock()
            block.take(chunk, found.new)
            places = range(len(chunk.rows)) if found.new is None else found.new
            self._insert([first + place for place in places], block)
            self._connection.executemany(
                "INSERT OR IGNORE INTO reasons VALUES (?, ?)",
                [(first + place, reason) for place, reason in chunk.rejected.items()],
            )
            self._connection.executemany(
                "INSERT INTO known VALUES (?, ?)", [(first + place, ref) for place, ref in found.known]
            )
            self._connection.executemany(
                "INSERT INTO conflicts VALUES (?)", [(first + place,) for place in found.conflicts]
            )
            self._connection.execute("COMMIT")

    def forecast(self, keys: Sequence[bytes]) -> Forecast:
        """Return what would become of all rows, and of the first ones one by one; `keys` are those of the first rows.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        """
        with guard(self._path):
            self._connection.execute("BEGIN")  # one moment of the outbox for all that follows
            try:
                return self._forecast(decide(self._connection, self._spec, self._intake), keys)
            finally:
                self._connection.execute("ROLLBACK")

    def _forecast(self, decision: Decision, keys: Sequence[bytes]) -> Forecast:
        connection, n = self._connection, len(keys)
        problems: dict[int, str] = dict(connection.execute("SELECT ref, reason FROM reasons WHERE ref < ?", (n,)))
        new = number(connection, "SELECT count(*) FROM incoming WHERE state = ?", State.UNSENT)
        if self._spec.name is None and not self._spec.skip and number(connection, "SELECT count(*) FROM reasons"):
            # The rows that are left over would be another batch than the one that the user means.
            return Forecast(tasks=[None] * n, problems=problems, sendable=new, duplicates=decision.repeated)
        if decision.overlaps:
            return self._overlapping(decision, problems, new, n)
        target = decision.target
        for (ref,) in connection.execute("SELECT ref FROM conflicts WHERE ref < ?", (n,)):
            problems[ref] = f"the batch {target.label if target else ''} has its key with another request"
        counted = connection.execute(f"SELECT r.state, count(*) {_KNOWN} GROUP BY r.state")
        known = {State(state): count for state, count in counted}
        found = connection.execute(f"SELECT k.ref, r.state, r.try {_KNOWN} AND k.ref < ?", (n,))
        states = {ref: (State(state), attempt) for ref, state, attempt in found}
        batch = target.id if target else new_id(connection, decision.identity)
        new += known.pop(State.UNSENT, 0)  # the sending goes on with these
        return Forecast(
            tasks=[task_id(batch, key, states.get(ref, (None, 1))[1]) for ref, key in enumerate(keys)],
            states=[_word(states[ref][0]) if ref in states else "new" for ref in range(n)],
            known={_word(state): count for state, count in known.items()},
            problems=problems,
            sendable=new,
            duplicates=decision.repeated,
            refusal=_refusal(decision),
        )

    def _overlapping(self, decision: Decision, problems: dict[int, str], new: int, n: int) -> Forecast:
        """Return the forecast for rows without a name of which other batches have some."""
        connection = self._connection
        connection.execute("CREATE TEMP TABLE shared (ref INTEGER PRIMARY KEY, label TEXT)")
        for one in decision.overlaps:
            connection.execute(f"INSERT OR IGNORE INTO shared SELECT a.ref, ? {one.rows}", (one.label,))
        for ref, label in connection.execute("SELECT ref, label FROM shared WHERE ref < ?", (n,)):
            problems[ref] = f"the batch {label} has this row"
        return Forecast(
            tasks=[None] * n,
            known={f"in {one.label}": one.shared for one in decision.overlaps},
            problems=problems,
            sendable=new - number(connection, "SELECT count(*) FROM shared"),
            duplicates=decision.repeated,
            refusal=_refusal(decision),
        )


def _refusal(decision: Decision) -> str:
    return next((plain_reason(error) for error in decision.errors if isinstance(error, BatchExistsError)), "")


def _word(state: State) -> str:
    return "in the queue" if state is State.SENT else state.name.lower()

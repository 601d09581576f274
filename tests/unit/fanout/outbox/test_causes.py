"""Why rows failed or are gone: counted as it becomes known, so that showing it does not read the rows."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import FINAL, Outcome, State
from tests.unit.fanout.conftest import all_rows, chunks, refs, send_all, spool


def assert_counted(outbox: Outbox, batch: str) -> None:
    """Assert that the causes that are counted are those of the rows."""
    for state, field, counted in (
        (State.FAILED, "last_status", outbox.rows.failures(batch)),
        (State.GONE, "reasons", outbox.rows.losses(batch)),
    ):
        expected = Counter(all_rows(outbox, batch, field, states={state}))
        assert counted == expected
        assert list(counted.values()) == sorted(counted.values(), reverse=True)


OUTCOMES = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from([State.FAILED, State.GONE, State.SUCCEEDED, None]),
        st.sampled_from([None, 4, 14]),
        st.sampled_from([None, "", "purged"]),
        st.integers(1, 3),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(first=OUTCOMES, second=OUTCOMES, again=st.booleans())
def test_causes_are_those_of_the_rows(tmp_path_factory: Any, first: Any, second: Any, *, again: bool) -> None:
    """After any outcomes and new tries, the counts are what counting all rows would give."""
    with Outbox(tmp_path_factory.mktemp("causes") / "outbox.sqlite3") as outbox:
        batch, other = (spool(outbox, chunks(range(at, at + 8))).batch for at in (0, 100))
        for one in (batch, other):
            send_all(outbox, one)
        for attempt, heard in enumerate([first, second], 1):
            for at, state, status, reason, attempts in heard:
                ref = refs(outbox, batch)[at]
                outcome = Outcome(
                    ref=ref, attempt=attempt, state=state, last_status=status, reason=reason, attempts=attempts
                )
                outbox.outcomes.record(batch, [outcome])
                assert_counted(outbox, batch)
            if again:
                outbox.outcomes.new_try(batch, None, FINAL)
                assert_counted(outbox, batch)
        assert (outbox.rows.failures(other), outbox.rows.losses(other)) == ({}, {})


def test_causes_of_an_earlier_file_are_counted_once(path: Path) -> None:
    """A file of an earlier version has them when it is opened."""
    with Outbox(path) as outbox:
        batch = spool(outbox, chunks(range(8))).batch
        found = refs(outbox, batch)
        outbox.outcomes.record(
            batch, [Outcome(ref=ref, attempt=1, state=State.FAILED, last_status=4) for ref in found[:3]]
        )
        outbox.outcomes.record(batch, [Outcome(ref=ref, attempt=1, state=State.GONE) for ref in found[3:5]])
    with closing(sqlite3.connect(path)) as connection:
        for name in ("states_changed", "outcomes_made", "outcomes_changed"):
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("DROP TABLE causes")
        connection.execute("ALTER TABLE outcomes DROP COLUMN http_status")
        connection.execute("PRAGMA user_version = 2")
    with Outbox(path) as outbox:
        assert outbox.rows.failures(batch) == {4: 3}
        assert outbox.rows.losses(batch) == {None: 2}
        assert_counted(outbox, batch)


def test_showing_the_causes_reads_no_rows(outbox: Outbox, batch: str) -> None:
    """The work does not grow with the rows: neither their table nor that of their outcomes is read."""
    send_all(outbox, batch)
    outbox.outcomes.record(
        batch, [Outcome(ref=ref, attempt=1, state=State.FAILED, last_status=4) for ref in refs(outbox, batch)]
    )
    read: set[str | None] = set()

    def note(_: int, table: str | None, *__: object) -> int:
        read.add(table)
        return sqlite3.SQLITE_OK

    with outbox._database.reading() as connection:
        connection.set_authorizer(note)
        assert outbox.rows.failures(batch) == {4: 250}
        assert outbox.rows.losses(batch) == {}
        connection.set_authorizer(None)
    assert read & {"rows", "outcomes", "causes"} == {"causes"}

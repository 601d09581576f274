"""Why rows failed or are gone: counted as it becomes known, so that showing it does not read the rows."""

import sqlite3
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtasks_nb._names import CODES
from cloudtasks_nb.fanout.outbox.causes import MOST_CAUSES, NO_STATUS
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import FINAL, Outcome, State
from tests.unit.fanout.conftest import all_rows, chunks, refs, send_all, spool


def assert_counted(outbox: Outbox, batch: str) -> None:
    """Assert that the causes that are counted are those of the rows."""
    with outbox._database.reading() as connection:
        rows = connection.execute(
            """SELECT r.state, coalesce(o.cause, o.last_status), o.last_status, o.reason FROM parts p
               JOIN rows r ON r.ref BETWEEN p.part << 32 AND p.last LEFT JOIN outcomes o ON o.ref = r.ref
               WHERE p.num = (SELECT num FROM batches WHERE id = ?)""",
            (batch,),
        ).fetchall()
    failed = Counter(_name(cause) for state, cause, _, _ in rows if state == State.FAILED)
    retrying = Counter(
        _name(cause) for state, cause, status, _ in rows if state in (State.UNSENT, State.SENT) and status
    )
    counted: list[Any] = [outbox.causes.failed(batch), outbox.causes.retrying(batch), outbox.causes.lost(batch)]
    assert counted == [failed, retrying, Counter(reason for state, _, _, reason in rows if state == State.GONE)]
    assert all(list(one.values()) == sorted(one.values(), reverse=True) for one in counted)
    found = outbox.causes.errors(batch)
    assert {one.cause: one.failed for one in found if one.failed} == failed
    assert {one.cause: one.retrying for one in found if one.retrying} == retrying


def _name(cause: Any) -> str:
    return CODES[cause] if isinstance(cause, int) else cause or NO_STATUS


OUTCOMES = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.fixed_dictionaries(
            {
                "state": st.sampled_from([State.FAILED, State.GONE, State.SUCCEEDED, None]),
                "last_status": st.sampled_from([None, 4, 14]),
                "reason": st.sampled_from([None, "", "purged"]),
                "attempts": st.integers(1, 3),
                "last_message": st.sampled_from(
                    [None, "KeyError: 'a17'", "KeyError: 5", "ValueError: no", "INTERNAL(13): HTTP status code 500"]
                ),
            }
        ),
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
            for at, facts in heard:
                outbox.outcomes.record(batch, [Outcome(ref=refs(outbox, batch)[at], attempt=attempt, **facts)])
                assert_counted(outbox, batch)
            if again:
                outbox.outcomes.new_try(batch, None, FINAL)
                assert_counted(outbox, batch)
            outbox.outcomes.adopt(batch, dict.fromkeys(refs(outbox, batch)[:3], attempt), pending=True)
            assert_counted(outbox, batch)
        assert (outbox.causes.failed(other), outbox.causes.retrying(other), outbox.causes.lost(other)) == ({}, {}, {})


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
        assert outbox.causes.failed(batch) == {"DEADLINE_EXCEEDED": 250}
        assert outbox.causes.retrying(batch) == outbox.causes.lost(batch) == {}
        connection.set_authorizer(None)
    assert read & {"rows", "outcomes", "causes"} == {"causes"}


def test_messages_that_differ_in_every_row_are_counted_by_their_type(outbox: Outbox) -> None:
    """However many causes a batch has, showing them stays quick."""
    words = ["".join(chr(97 + int(digit)) for digit in f"{n:04d}") for n in range(1_500)]
    batch = spool(outbox, chunks(range(len(words)))).batch
    outbox.outcomes.record(
        batch,
        [
            Outcome(ref=ref, attempt=1, state=State.FAILED, last_status=13, last_message=f"ValueError: {word}")
            for ref, word in zip(refs(outbox, batch), words, strict=True)
        ],
    )
    assert_counted(outbox, batch)
    found = outbox.causes.failed(batch)
    assert next(iter(found)) == "ValueError: …"
    assert (sum(found.values()), len(found) <= MOST_CAUSES + 1) == (1_500, True)


def test_the_message_of_the_newest_attempt_counts(outbox: Outbox, batch: str) -> None:
    """What a handler said stays until it says something else, or an attempt ends with another status."""
    ref = refs(outbox, batch)[0]
    send_all(outbox, batch)
    told = [
        (1, 5, "KeyError: 'a'", "KeyError: …"),
        (1, None, "NOT_FOUND(5): HTTP status code 404", "KeyError: …"),
        (2, 5, None, "KeyError: …"),
        (1, None, "ValueError: of an earlier attempt", "KeyError: …"),
        (3, 4, None, "DEADLINE_EXCEEDED"),
        (3, None, "TimeoutError: slow", "TimeoutError: slow"),
    ]
    for attempts, status, message, cause in told:
        outbox.outcomes.record(
            batch, [Outcome(ref=ref, attempt=1, attempts=attempts, last_status=status, last_message=message)]
        )
        assert outbox.causes.retrying(batch) == {cause: 1}
    assert all_rows(outbox, batch, "last_message")[0] == "TimeoutError: slow"

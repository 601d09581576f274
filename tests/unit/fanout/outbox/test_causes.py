"""Why rows failed or are gone: counted as it becomes known, so that showing it does not read the rows."""

import sqlite3
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtasks_nb._names import CODES
from cloudtasks_nb.fanout.causes import NO_STATUS, Fault, cause_of
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import MOST_CAUSES
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import FINAL, State
from tests.unit.fanout.conftest import Outcome, all_rows, chunks, record_outcomes, refs, send_all, spool, tell, watched


def assert_counted(outbox: Outbox, batch: str) -> None:
    """Assert that the causes that are counted are those of the rows."""
    columns = ("states", "last_status", "last_message", "reasons")
    rows = list(zip(*(all_rows(outbox, batch, column) for column in columns), strict=True))
    failed = Counter(_name(status, text) for state, status, text, _ in rows if state == State.FAILED)
    open_ = [row for row in rows if row[0] in (State.UNSENT, State.SENT) and row[1]]
    retrying = Counter(_name(status, text) for _, status, text, _ in open_)
    found = outbox.causes.found(whole(batch))
    assert {one.key: one.failed for one in found if one.failed} == failed
    assert {one.key: one.retrying for one in found if one.retrying} == retrying
    assert outbox.causes.lost(whole(batch)) == Counter(reason for state, _, _, reason in rows if state == State.GONE)
    for counted, all_of in (
        (outbox.causes.failed(whole(batch)), failed),
        (outbox.causes.retrying(whole(batch)), retrying),
    ):
        assert list(counted.values()) == sorted(all_of.values(), reverse=True)  # no text stands for two causes
    assert {*outbox.causes.spans(whole(batch))} == {one.key for one in found}


def _name(status: int | None, message: str | None) -> str:
    fault = FAULTS.get(message)
    known = cause_of(message or "") if fault is None else str(fault)
    return known or (NO_STATUS if status is None else CODES[status])


NOON = 1_767_355_200_000_000  # microseconds since 1970
#: What the tracebacks of some messages tell.
FAULTS: dict[str | None, Fault] = {
    "KeyError: 'b'": Fault("KeyError", "report, etl.py line 1"),
    "KeyError: 'c'": Fault("KeyError", "report, etl.py line 1"),
    "KeyError: 'd'": Fault("KeyError", "report, etl.py line 2"),
    "KeyError: …": Fault("KeyError", "report, etl.py line 2", "404"),
}
MESSAGES = [None, "KeyError: 'a17'", "KeyError: 5", "ValueError: no", "INTERNAL(13): HTTP status code 500", *FAULTS]


OUTCOMES = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.fixed_dictionaries(
            {
                "state": st.sampled_from([State.FAILED, State.GONE, State.SUCCEEDED, None]),
                "last_status": st.sampled_from([None, 4, 14]),
                "reason": st.sampled_from([None, "purged"]),
                "attempts": st.integers(1, 3),
                "last_message": st.sampled_from(MESSAGES),
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
                ref, fault = refs(outbox, batch)[at], FAULTS.get(facts["last_message"])
                tell(outbox, batch, ref, attempt=attempt, fault=fault, **facts)
                assert_counted(outbox, batch)
            if again:
                outbox.outcomes.new_try(whole(batch), None, FINAL)
                assert_counted(outbox, batch)
            tell(outbox, batch, refs(outbox, batch)[:3], attempt=attempt + 1)
            assert_counted(outbox, batch)
        assert (
            outbox.causes.failed(whole(other)),
            outbox.causes.retrying(whole(other)),
            outbox.causes.lost(whole(other)),
        ) == ({}, {}, {})


def test_a_cause_has_its_course_over_the_time_of_all_failures(outbox: Outbox, batch: str) -> None:
    """The spans are of one length for all causes, at least a second, and each row is in one; some have no time."""
    send_all(outbox, batch)
    times: dict[int, list[int | None]] = {4: [0, 1, 2_000_000, 999_999_999], 5: [500_000_000, None]}
    wanted = {4: [3, *[0] * 22, 1], 5: [*[0] * 11, 1, *[0] * 12]}
    rows = iter(refs(outbox, batch))
    failed: Any = {"attempt": 1, "state": State.FAILED}
    outcomes = [
        Outcome(ref=next(rows), last_status=status, last_attempt_time=None if at is None else NOON + at, **failed)
        for status, ats in times.items()
        for at in ats
    ]
    record_outcomes(outbox, batch, outcomes)
    found = outbox.causes.spans(whole(batch))
    assert {status: [*found[CODES[status]].counts] for status in times} == wanted
    assert (found[CODES[4]].first, found[CODES[4]].last) == (NOON, NOON + 999_999_999)
    outbox.outcomes.new_try(whole(batch), None, FINAL)
    assert outbox.causes.spans(whole(batch)) == {}


def test_showing_the_causes_reads_no_rows(outbox: Outbox, batch: str) -> None:
    """The work does not grow with the rows: their table is not read."""
    send_all(outbox, batch)
    tell(outbox, batch, refs(outbox, batch), state=State.FAILED, last_status=4)
    read: set[str | None] = set()

    def note(_: int, table: str | None, *__: object) -> int:
        read.add(table)
        return sqlite3.SQLITE_OK

    with watched(outbox, lambda connection: connection.set_authorizer(note)):
        assert outbox.causes.failed(whole(batch)) == {"DEADLINE_EXCEEDED": 250}
        assert outbox.causes.retrying(whole(batch)) == outbox.causes.lost(whole(batch)) == {}
        assert outbox.batches.counts(whole(batch))[State.FAILED] == 250
    assert read & {"rows", "tallies"} == {"tallies"}


FAULT = Fault("E", "report, etl.py line 1")


def test_messages_that_differ_in_every_row_are_counted_by_their_type(outbox: Outbox) -> None:
    """However many causes a batch has, showing them stays quick."""
    words = ["".join(chr(97 + int(digit)) for digit in f"{n:04d}") for n in range(1_500)]
    batch = spool(outbox, chunks(range(len(words)))).batch
    record_outcomes(
        outbox,
        batch,
        [
            Outcome(ref=ref, state=State.FAILED, last_status=13, last_message=f"ValueError: {word}")
            for ref, word in zip(refs(outbox, batch), words, strict=True)
        ],
    )
    found = outbox.causes.failed(whole(batch))
    assert next(iter(found)) == "ValueError: …"
    assert (sum(found.values()), len(found) <= MOST_CAUSES + 1) == (1_500, True)


def test_the_message_of_the_newest_attempt_counts(outbox: Outbox, batch: str) -> None:
    """What a handler said stays until it says something else, or an attempt ends with another status."""
    ref = refs(outbox, batch)[0]
    send_all(outbox, batch)
    told = [
        (1, 5, "KeyError: 'a'", "KeyError: …"),
        (1, 5, "NOT_FOUND(5): HTTP status code 404", "KeyError: …"),
        (2, 5, None, "KeyError: …"),
        (3, 4, None, "DEADLINE_EXCEEDED"),
        (3, 4, "TimeoutError: slow", "TimeoutError: slow"),
    ]
    for attempts, status, message, cause in told:
        tell(outbox, batch, ref, attempts=attempts, last_status=status, last_message=message)
        assert outbox.causes.retrying(whole(batch)) == {cause: 1}
    assert all_rows(outbox, batch, "last_message")[0] == "TimeoutError: slow"

"""The same evidence gives the same row, in any order, however often and however late it comes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.causes import Fault
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Row, Source, fold
from cloudtasks_nb.fanout.states import IN_DOUBT, State
from tests.cases import cases

SECOND = 1_000_000
MESSAGES = ("KeyError: 'a'", "ValueError: no", "INTERNAL(13): HTTP status code 500", None)
STATUSES: tuple[Any, ...] = (0, 4, 13, 13)
FAULTS = (None, Fault("KeyError", "report, etl.py line 1"), Fault("KeyError", "report, etl.py line 2"))

Told = tuple[int, Evidence]  # a try, and what is told of its task


def folded(row: Row, told: Sequence[Told]) -> Row:
    """Add evidence to a row, one after the other."""
    for tries, news in told:
        row = fold(row, news, tries, news.cause)
    return row


def attempt(
    source: Source, number: int, status: int, message: str | None, fault: Fault | None = None, *, last: bool
) -> Evidence:
    """Return what a source tells of an attempt: a function of these, because a source does not change its mind."""
    told: dict[str, Any] = {"attempts": number, "status": status}
    if source is not Source.QUEUE:
        told |= {"began": 100 * number + source, "duration": 10 * number + source}
        told["fact"] = Fact.LAST_FAILED if last and status else None
    if source is Source.LOG:
        told |= {"due": None if last else 1000 * number, **({} if status else {"fact": Fact.ANSWERED})}
    else:
        told |= {"http": 500 + source, "message": message if status else None}
        told |= {"fault": fault if message and status else None}
    if source is Source.RESULTS and not status:
        told["fact"] = Fact.STORED
    if source is Source.QUEUE:
        told |= {"seen": number * SECOND, "due": 7}
    return Evidence(task="t", source=source, **told)


@st.composite
def evidence(draw: st.DrawFn) -> list[Told]:
    """Draw what is told of the tasks of a row."""
    said = {
        (tries, number, source): [draw(st.sampled_from(some)) for some in (STATUSES, MESSAGES, FAULTS)]
        for tries in (1, 2)
        for number in (1, 2, 3)
        for source in Source
    }
    limit = draw(st.integers(2, 4))
    told = [
        (tries, attempt(source, number, *said[tries, number, source], last=number >= limit))
        for tries, number, source in draw(st.lists(st.sampled_from(sorted(said)), max_size=6))
    ]
    others = st.one_of(
        st.builds(Evidence, task=st.just("t"), source=st.just(Source.LOG), fact=st.just(Fact.DELETED)),
        st.builds(Evidence, task=st.just("t"), source=st.just(Source.LOG), attempts=st.integers(1, 3)),
        st.builds(Evidence, task=st.just("t"), source=st.just(Source.RESULTS), fact=st.just(Fact.GAVE_UP)),
        st.builds(
            Evidence,
            task=st.just("t"),
            source=st.just(Source.QUEUE),
            seen=st.integers(1, 4).map(lambda at: at * SECOND),
            fact=st.sampled_from([None, Fact.LEFT, Fact.LEFT_LOGGED]),
            reason=st.just("purged"),
        ),
    )
    return told + draw(st.lists(st.tuples(st.integers(1, 2), others), max_size=5))


BEGUN = [State.UNSENT, State.SENT, IN_DOUBT, State.CANCELLED]
ROWS = st.builds(
    Row, ref=st.just(7), tries=st.integers(1, 2), state=st.sampled_from(BEGUN), deleting=st.sampled_from([None, 1, 2])
)


@given(row=ROWS, told=evidence(), data=st.data())
def test_order_repetition_and_delay_change_nothing(row: Row, told: list[Told], data: st.DataObject) -> None:
    """Whatever comes first, and whatever comes again."""
    expected = folded(row, told)
    again = data.draw(st.lists(st.sampled_from(told), max_size=4)) if told else []
    assert folded(row, data.draw(st.permutations(told + again))) == expected
    assert folded(expected, again) == expected


@given(told=evidence())
def test_a_failure_that_another_attempt_follows_is_no_end(told: list[Told]) -> None:
    """However its task left: a row failed by elimination only if its last attempt was logged as one without another."""
    left = Evidence(task="t", source=Source.QUEUE, seen=9 * SECOND, fact=Fact.LEFT_LOGGED)
    row = folded(
        Row(ref=7, tries=1, state=State.SENT), [(tries, one) for tries, one in [*told, (2, left)] if tries == 2]
    )
    newest = max([one.attempts or 0 for tries, one in told if tries == 2], default=0)
    about = [one for tries, one in told if tries == 2 and (one.attempts or 0) == newest and one.status is not None]
    certain = any(one.fact in {Fact.LAST_FAILED, Fact.GAVE_UP} for tries, one in told if tries == 2)
    if row.state is State.FAILED and not certain:
        assert Source.LOG in {one.source for one in about}
        assert not any(one.due for one in about)


def log(fact: Fact | None = None, attempts: int | None = None, status: int | None = None) -> Evidence:
    """Return an entry of the log."""
    return Evidence(task="t", source=Source.LOG, fact=fact, attempts=attempts, status=status)


def queue(fact: Fact | None, seen: int, attempts: int | None = None) -> Evidence:
    """Return what the queue showed at a time."""
    status = None if attempts is None else 13
    due = None if attempts is None else 9
    return Evidence(task="t", source=Source.QUEUE, fact=fact, seen=seen, attempts=attempts, status=status, due=due)


def stored(fact: Fact | None, attempts: int = 1, status: int = 13) -> Evidence:
    """Return a stored result."""
    return Evidence(task="t", source=Source.RESULTS, fact=fact, attempts=attempts, status=status)


FAILED, OK, LAST = log(None, 1, 13), log(Fact.ANSWERED, 1, 0), log(Fact.LAST_FAILED, 1, 13)
RETRIED = replace(FAILED, due=9)
LEFT, LOGGED, DELETED = queue(Fact.LEFT, 9), queue(Fact.LEFT_LOGGED, 9), log(Fact.DELETED)
RANKS: list[tuple[str, list[Evidence], State]] = [
    ("nothing but its creation", [Evidence(task="t", source=Source.RESULTS)], State.SENT),
    ("a stored success before all else", [stored(Fact.STORED, 1, 0), stored(Fact.GAVE_UP, 2), LAST], State.SUCCEEDED),
    ("giving up before a logged success, which is its answer", [stored(Fact.GAVE_UP), OK], State.FAILED),
    ("a success in the log before a final failure", [OK, log(Fact.LAST_FAILED, 2, 13)], State.SUCCEEDED),
    ("a final failure before a deletion", [LAST, DELETED], State.FAILED),
    ("a deletion before elimination", [FAILED, LOGGED, DELETED], State.GONE),
    ("elimination: it left after a failure, and the log has everything", [FAILED, LOGGED], State.FAILED),
    ("it left after a failure, and the log may lack entries", [FAILED, LEFT], State.GONE),
    ("it left, and its last known attempt was to be followed by another", [RETRIED, LOGGED], State.GONE),
    ("it left, and the queue had a time for another attempt", [FAILED, queue(None, 8, 1), LOGGED], State.GONE),
    ("it left, and the log has no entry of the failure", [stored(None), LOGGED], State.GONE),
    ("it left, and no attempt is known", [LOGGED], State.GONE),
    ("it left, and how its last attempt ended is not known", [FAILED, log(None, 2), LOGGED], State.GONE),
    ("it was there later", [FAILED, LOGGED, queue(None, 10)], State.SENT),
    ("it was there before", [FAILED, LOGGED, queue(None, 8)], State.FAILED),
    ("the last attempt by the limit, and yet there is another one", [LAST, log(None, 2, 13)], State.SENT),
    ("the last attempt by the limit, and the queue will try again", [LAST, queue(None, 8, 1)], State.SENT),
]
#: What counts more where the batch deletes the task itself.
DELETING: list[tuple[str, list[Evidence], State]] = [
    ("it was there later, so it is not deleted yet", [LOGGED, queue(None, 10)], State.SENT),
    ("a final failure before the deletion", [DELETED, LAST], State.FAILED),
]


@pytest.mark.parametrize(
    ("told", "state", "deleting"),
    [pytest.param(*row, own, id=what) for own, ranks in {None: RANKS, 1: DELETING}.items() for what, *row in ranks],
)
def test_ranks(told: list[Evidence], state: State, deleting: int | None) -> None:
    """What counts more, in every order."""
    for ordered in permutations(told):
        row = Row(ref=7, tries=1, state=State.SENT, deleting=deleting)
        assert folded(row, [(1, one) for one in ordered]).state is state


@pytest.mark.parametrize("ended", [LEFT, LOGGED, DELETED])
def test_a_task_that_the_batch_deletes_is_cancelled(ended: Evidence) -> None:
    """Whoever sees first that it is not there; only a known end of its attempts is told instead."""
    row = Row(ref=7, tries=1, state=State.SENT, deleting=1)
    assert folded(row, [(1, FAILED), (1, ended)]).state is State.CANCELLED
    assert folded(row, [(1, ended), (1, OK)]).state is State.SUCCEEDED


def test_the_same_message_of_other_statuses() -> None:
    """The witnesses say the same of one attempt, which ended otherwise for each: the order is nothing."""
    told = [attempt(source, 3, 4 * source, MESSAGES[0], last=False) for source in Source]
    row = Row(ref=7, tries=1, state=State.SENT)
    assert len({folded(row, [(1, one) for one in some]) for some in permutations(told)}) == 1


def test_a_later_try_counts() -> None:
    """Nothing is left of the earlier one, and what comes late of that is ignored."""
    row = folded(Row(ref=7, tries=1, state=State.SENT), [(1, LAST), (2, FAILED), (1, OK)])
    assert (row.tries, row.state, row.attempts) == (2, State.SENT, 1)


@cases(
    (State.REJECTED, OK, State.REJECTED),
    (State.CANCELLED, FAILED, State.CANCELLED),
    (State.CANCELLED, OK, State.SUCCEEDED),
)
def test_rows_that_were_never_sent_from_here(state: State, told: Evidence, after: State) -> None:
    """A row that was cancelled before it was sent stays so, unless it has succeeded elsewhere."""
    assert folded(Row(ref=7, tries=1, state=state), [(1, told)]).state is after


def test_a_further_witness_ends_no_row_by_its_failures() -> None:
    """Its bit is the next one, and is not that of a last attempt."""
    further: Any = 2 * max(Source)
    told = Evidence(task="t", source=further, attempts=1, status=13)
    assert folded(Row(ref=7, tries=1, state=State.SENT), [(1, told)]).state is State.SENT

"""What becomes of rows: outcomes that were heard of, and new tries that were asked for."""

from typing import Any

import pytest

from cloudtasks_nb.fanout.outbox import rows
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Retrying, whole
from cloudtasks_nb.fanout.states import FINAL, State
from tests.threads import at_once
from tests.unit.fanout.conftest import all_rows, chunks, put, refs, spool, take, tell, watched


def test_news_of_an_attempt_are_written_down(outbox: Outbox, batch: str) -> None:
    """Attempts, status, message and times of a row are kept as they were heard of."""
    ref = refs(outbox, batch)[0]
    news: dict[str, Any] = {"attempts": 2, "last_status": 13, "last_message": "HTTP status code 500"}
    news |= {"schedule_time": 50, "last_attempt_time": 40, "duration": 3}
    tell(outbox, batch, ref, state=State.SENT, **news)
    page = next(outbox.rows.pages(whole(batch)))
    assert {name: getattr(page, name)[0] for name in news} == news
    assert {name: getattr(page, name)[1] for name in news} == dict.fromkeys(news)


def test_retrying_rows_of_another_batch_are_not_read(outbox: Outbox, batch: str) -> None:
    """Each snapshot of each open batch counts its own, and another batch may have a million."""
    other = spool(outbox, chunks(range(1_000, 1_250))).batch
    steps, found = list[int](), []
    with watched(outbox, lambda connection: connection.set_progress_handler(lambda: steps.append(1), 1)):
        for _ in range(2):
            steps.clear()
            found.append((outbox.rows.retrying(batch, 0).rows, len(steps)))
            tell(outbox, other, refs(outbox, other), attempts=1, last_status=13)
    (before, few), (after, more) = found
    assert (before, after) == (0, 0)
    assert more < few + 100
    assert outbox.rows.retrying(other, 0).rows == 250


def test_the_next_attempt_of_many_is_the_earliest(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those with the most attempts, and of those that are not due yet; however many are read together."""
    monkeypatch.setattr(rows, "_PAGE", 1)
    for ref, number, due in zip(refs(outbox, batch), (2, 3, 3, 3), (50, 90, 70, 10), strict=False):
        tell(outbox, batch, ref, attempts=number, last_status=13, schedule_time=due)
    assert outbox.rows.retrying(batch, 20) == Retrying(4, 3, 70)
    assert outbox.rows.retrying(batch, 90) == Retrying(4, 3, None)


@pytest.mark.parametrize("begun", [True, False])
def test_rows_were_sent_from_elsewhere_unless_this_home_has_begun(outbox: Outbox, batch: str, *, begun: bool) -> None:
    """Its own rows are told of too before it has stored that they are sent."""
    if begun:
        take(outbox, batch)
    tell(outbox, batch, refs(outbox, batch)[0], state=State.SUCCEEDED)
    assert outbox.batches.facts(batch).sent_by_others is not begun


def test_failed_rows_are_tried_again(outbox: Outbox, batch: str) -> None:
    """Exactly the failed rows get a new task, and their outcomes are forgotten."""
    known, first = refs(outbox, batch), all_rows(outbox, batch, "tasks")
    for at in (5, 150):
        put(outbox, batch, known[at], State.FAILED)
        tell(outbox, batch, known[at], state=State.FAILED, attempts=5, last_status=13)
    assert outbox.outcomes.new_try(whole(batch)) == 2
    assert outbox.outcomes.new_try(whole(batch)) == 0
    tries, tasks, attempts = (all_rows(outbox, batch, field) for field in ("tries", "tasks", "attempts"))
    assert (tries[5], tasks[5].rpartition("-")[2], attempts[5]) == (2, "2", None)
    assert (tries[6], tasks[6]) == (1, first[6])
    assert outbox.batches.get(batch).round == 2


@pytest.mark.parametrize("state", State)
def test_only_final_rows_are_resent(outbox: Outbox, batch: str, state: State) -> None:
    """What is still to come is never sent a second time, whatever is allowed."""
    known = refs(outbox, batch)
    put(outbox, batch, known, State.SENT)
    put(outbox, batch, known[0], state)
    assert outbox.outcomes.new_try(whole(batch), allowed=set(State)) == (state in FINAL)
    put(outbox, batch, known[1], state)
    assert outbox.outcomes.new_try(whole(batch), [(known[1], None)], allowed={State.FAILED}) == (state is State.FAILED)


def test_the_same_frame_resent_twice_sends_once(outbox: Outbox, batch: str) -> None:
    """A row is only resent while its newest task is the one that the frame shows, and is final."""
    known, tasks = refs(outbox, batch), all_rows(outbox, batch, "tasks")
    frame = [(known[at], tasks[at]) for at in (1, 2, 3)]
    put(outbox, batch, known[1], State.SUCCEEDED)
    put(outbox, batch, known[2], State.GONE)
    assert outbox.outcomes.new_try(whole(batch), frame, allowed=FINAL) == 2
    put(outbox, batch, known, State.FAILED)
    assert outbox.outcomes.new_try(whole(batch), frame, allowed=FINAL) == 1, "row 3 alone still has its first task"
    assert outbox.outcomes.new_try(whole(batch), [(known[4], tasks[5]), (known[5], "strange")], allowed=FINAL) == 0


def test_two_threads_that_retry_send_once(outbox: Outbox, batch: str) -> None:
    """retry_failed() in two kernels at once opens one new try for each row."""
    put(outbox, batch, refs(outbox, batch), State.FAILED)
    assert sorted(at_once(lambda: outbox.outcomes.new_try(whole(batch)))) == [0, 250]
    assert set(all_rows(outbox, batch, "tries")) == {2}

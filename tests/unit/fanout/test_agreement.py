"""What is added in one place is not forgotten in another: a state, a column, a witness, an option."""

import datetime as dt
import inspect
import re
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb._frames import BATCH_TASKS, ENDS, STATES, TASK_STATES
from cloudtasks_nb.fanout.batch import table
from cloudtasks_nb.fanout.batch.request import BatchOptions, FanOutKeywords
from cloudtasks_nb.fanout.batch.search import left_queue
from cloudtasks_nb.fanout.batch.witnesses import Limit, Log, pending_evidence, result_evidence
from cloudtasks_nb.fanout.evidence import LAST, Evidence, Fact, Row, Source, fold
from cloudtasks_nb.fanout.outbox.rows import Page
from cloudtasks_nb.fanout.states import FINAL, IN_DOUBT, WORDS, State
from cloudtasks_nb.panels.forms.request_form import SendLimits
from cloudtasks_nb.service.watch import Pending
from cloudtasks_nb.store.results import StoredResult
from tests.log_entry import log_entry


def told() -> list[Evidence]:
    """Return what the witnesses can tell of a task, in each way in which they tell it."""
    limit = Limit({"max_attempts": 2})
    nothing: Any = None
    log = Log(nothing, nothing, None, limit)
    failed = [{"attempt": number, "status": "INTERNAL"} for number in (1, 2)]
    entries: list[dict[str, Any]] = [{"deleted": True}, {"status": "OK"}, *failed]
    pending = Pending(state="ready", attempts=0, schedule_time=0, last_status=None, last_message=None)
    snapshot: Any = SimpleNamespace(gone=False, values={})
    left = [left_queue(snapshot, 0, 1, logged=logged) for logged in (True, False)]
    result: dict[str, Any] = {"task": "t", "started": dt.datetime.now(dt.UTC), "duration": 1.0, "result": None}
    stored = [
        StoredResult(**result, attempt=1, status=200, error=None),
        StoredResult(**result, attempt=1, status=200, error=None, gave_up="no"),
        StoredResult(**result, attempt=2, status=500, error="no"),
    ]
    return [
        *log.evidence(log_entry("t", 1, **changes) for changes in entries),
        *(Evidence(task="t", source=Source.QUEUE, fact=fact, seen=1) for fact, _ in left),
        pending_evidence("t", pending, 1),
        *(result_evidence(one, limit) for one in stored),
    ]


def test_each_fact_and_each_source_is_told_by_a_witness() -> None:
    """A fact or a witness that is declared, and of which nobody tells, decides nothing."""
    assert {one.fact for one in told()} == {*Fact, None}
    assert {one.source for one in told()} == {*Source}
    bits = [LAST, *Source]
    assert all(bit.bit_count() == 1 for bit in bits)
    assert len({*bits}) == len(bits)


def test_each_end_is_reached_by_what_is_told() -> None:
    """By one fact, or by one of a task that the batch deletes; what is rejected is never a task."""
    sent = [Row(ref=1, tries=1, state=State.SENT, deleting=deleting) for deleting in (None, 1)]
    reached = {fold(row, one, 1, None).state for row in sent for one in told()}
    assert reached == {State.SENT, *FINAL} - {State.REJECTED}


def test_each_state_has_its_traits_its_count_and_its_number() -> None:
    """Each state of a row has traits and a field of `Progress`, and each end is the state of a row."""
    assert {state.word for state in FINAL} == {*ENDS}
    assert {*WORDS.values()} <= {*STATES}
    assert {one.name for one in fields(ct.Progress)} >= {*TASK_STATES}
    assert len({*State, IN_DOUBT, *WORDS}) == len(WORDS) + 1
    assert [STATES[state].place for state in TASK_STATES] == [*range(len(TASK_STATES))]
    # What is well needs nobody, what goes on needs one; above that each state has a rank of its own.
    assert sorted(traits.need for traits in STATES.values()) == [0, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6]
    assert all(STATES[state].sign and STATES[state].means for state in ENDS)


def test_the_numbers_that_outboxes_have() -> None:
    """Another number would tell something else of the rows that are stored already."""
    assert [*map(int, State)] == [*range(2, 9)]
    assert [*map(int, Fact)] == [*range(1, 8)]
    assert [*map(int, Source)] == [2, 4, 8]


def test_each_column_of_a_batchs_tasks_is_declared_made_and_described() -> None:
    """In the same order, as the frame has them and as `help(batch.tasks)` lists them."""
    page = Page.without_rows(b"")
    assert {*table._columns(page, {}, 0, brief=False)} == {*BATCH_TASKS}
    text = " ".join((inspect.getdoc(ct.Batch.tasks) or "").split())
    listed = re.search(r"``(url, [^`]+)``", text)
    assert listed is not None
    assert listed[1].split(", ") == [*BATCH_TASKS]
    used = inspect.getsource(table)
    assert [one.name for one in fields(Page) if f"page.{one.name}" not in used] == []


@pytest.mark.parametrize("option", [*BatchOptions.__annotations__])
def test_each_option_is_a_keyword_described_and_in_a_form(option: str) -> None:
    """Of a batch as a whole: those that the panels leave out are named here."""
    assert option in FanOutKeywords.__annotations__
    assert re.search(rf"^\s*(\w+, )*{option}(, \w+)* : ", inspect.getdoc(ct.Queue.fan_out) or "", re.MULTILINE)
    form = SendLimits(lambda: None)
    assert hasattr(form, option) or option in {"name", "errors", "send_rate", "progress"}

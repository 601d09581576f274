"""What was sent from elsewhere is read before this home sends, and in as few reads as possible."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any, cast

import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError
from cloudtasks_nb.fanout.batch import adoption as adoption_module
from cloudtasks_nb.fanout.batch.adoption import Adoption
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.plan.identity import task_id
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.oplog import Wanted
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.log_entry import log_entry
from tests.unit.fanout.batch.conftest import Traces
from tests.unit.fanout.conftest import all_rows, chunks, digest, put, refs, send_all, spool


class Elsewhere(Traces):
    """A log and a queue in which another home has left its traces."""

    errors: Sequence[CloudTasksError] = ()  #: of the next looks for an entry
    slow: asyncio.Event | None = None  #: the log is scanned to its end when this is set

    def task(self, row: int, try_: int = 1) -> str:
        """Return a task of a row."""
        return task_id(self.batch, digest(str(row)), try_)

    def attempt(self, *rows: int, try_: int = 1, status: str = "OK") -> None:
        """Have the log an attempt of each of these rows."""
        for row in rows:
            self.add(self.task(row, try_), status)

    def add(self, task: str, status: str = "OK") -> None:
        """Have the log an attempt of a task."""
        one = log_entry(task, self.now(), insert_id=str(len(self.log)), status=status, max_attempts=0)
        self.log.append((0, one))

    async def is_logged(self, _: QueueName, wanted: Wanted) -> bool:
        """Return whether there is an entry."""
        self.asked.append("any" if wanted.tasks is None else "named")
        if self.slow and wanted.tasks is None:
            await self.slow.wait()
        if self.errors:
            error, *self.errors = self.errors
            raise error
        return any(one.time < (wanted.until or math.inf) for one in self.entries(wanted))


@pytest.fixture
def elsewhere(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Return the traces of nobody; a log that does not answer at once is slow."""
    monkeypatch.setattr(adoption_module, "_PATIENCE", 0.01)
    return Elsewhere(outbox, batch, immediate=True)


def adoption_of(elsewhere: Elsewhere) -> Adoption:
    """Make the adoption of the batch."""
    record, watcher = elsewhere.outbox.batches.get(elsewhere.batch), cast("Any", elsewhere)
    outcomes = OutcomeTracker(elsewhere.outbox, record, watcher, elsewhere.store, elsewhere.clock)
    return Adoption(outcomes, changed=lambda: None)


def adopt(elsewhere: Elsewhere) -> list[CloudTasksError | None]:
    """Adopt what was sent from elsewhere; return the errors that were retried, and None for the end of that."""
    retried: list[CloudTasksError | None] = []
    asyncio.run(adoption_of(elsewhere).run(retried.append))
    return retried


@cases(
    (1.0, True, 0, False, False),
    (1.0, False, 60, None, True),
    (1.0, False, 180, False, False),
    (0.5, True, 180, None, False),
)
def test_tasks_that_are_not_in_the_queue(
    elsewhere: Elsewhere, ratio: float, *, immediate: bool, age: int, others: Any, later: bool
) -> None:
    """Those with an entry were created; the others were not if the log has all entries, as it has after two minutes."""
    elsewhere.values, elsewhere.immediate = {"log_sampling_ratio": ratio}, immediate
    elsewhere.attempt(3)
    adoption, tasks = adoption_of(elsewhere), [elsewhere.task(row) for row in range(5)]
    found = asyncio.run(adoption.seen(tasks, elsewhere.clock.now() - age))
    assert list(found.values()) == [others] * 3 + [True, others]
    assert adoption.known_later is later


def test_a_new_batch_costs_one_read(outbox: Outbox, elsewhere: Elsewhere) -> None:
    """Nobody has sent it; within a minute the log is not asked again."""
    adopt(elsewhere)
    elsewhere.clock.advance(59)
    adopt(elsewhere)
    assert elsewhere.asked == ["any"]
    assert elsewhere.counts() == {"unsent": 250}
    assert not outbox.batches.facts(elsewhere.batch).sent_by_others


def test_later_requests_read_what_came_since(outbox: Outbox, elsewhere: Elsewhere) -> None:
    """After more than a minute, and before a new try at once; a batch without unsent rows reads nothing."""
    adopt(elsewhere)
    elsewhere.clock.advance(61)
    adopt(elsewhere)
    send_all(outbox, elsewhere.batch)
    elsewhere.clock.advance(61)
    adopt(elsewhere)
    assert elsewhere.asked == ["any", "log"]


def test_many_rows_are_adopted_in_as_many_reads_as_there_are_pages(outbox: Outbox) -> None:
    """One read finds that there is something, then each has a thousand entries; the queue has no more to tell."""
    elsewhere = Elsewhere(outbox, spool(outbox, chunks(range(12_000)), name="many").batch)
    for row in range(12_000):
        elsewhere.attempt(row, status="OK" if row % 10 else "INTERNAL")
    adopt(elsewhere)
    assert elsewhere.asked == ["any", *["log"] * 12]
    assert elsewhere.counts() == {"succeeded": 10_800, "failed": 1_200}


def test_a_log_that_cannot_be_read_is_noted_until_it_can(outbox: Outbox, elsewhere: Elsewhere) -> None:
    """The rows are sent all the same."""
    elsewhere.errors = [PermissionDeniedError("no permission")]
    adopt(elsewhere)
    assert outbox.batches.facts(elsewhere.batch).log_error == "no permission"
    adopt(elsewhere)
    assert outbox.batches.facts(elsewhere.batch).log_error is None


def test_results_show_what_was_sent_if_the_log_cannot_be_read(outbox: Outbox, elsewhere: Elsewhere) -> None:
    """Such rows were sent, in the try of their task; another read does not bring the note back."""
    elsewhere.put(elsewhere.task(0))
    elsewhere.put(elsewhere.task(1, 3), error="KeyError: 7")
    elsewhere.store.put(f"results/{elsewhere.batch}/{elsewhere.task(2, 1 << 70)}.json", b"forged")
    for _ in range(2):
        elsewhere.errors = [PermissionDeniedError("no permission")]
        adopt(elsewhere)
        assert elsewhere.counts() == {"sent": 2, "unsent": 248}
        assert all_rows(outbox, elsewhere.batch, "tries")[:3] == [1, 3, 1]
        assert outbox.batches.facts(elsewhere.batch).log_error == ""  # read, and nothing is to be told


def test_results_of_few_unsent_rows_are_looked_up_by_name(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results of a large batch are not listed again for each retry."""
    elsewhere.attempt(*range(2, 250))
    adopt(elsewhere)
    elsewhere.clock.advance(61)
    elsewhere.put(elsewhere.task(0))
    monkeypatch.setattr(Store, "pages", lambda _, prefix: iter({f"results/{elsewhere.batch}-e/": []}[prefix]))
    adopt(elsewhere)
    assert elsewhere.counts() == {"succeeded": 248, "sent": 1, "unsent": 1}


@pytest.mark.parametrize("sent", ["never", "before", "by this home meanwhile"])
async def test_the_first_rows_do_not_wait_for_a_slow_log(outbox: Outbox, elsewhere: Elsewhere, sent: str) -> None:
    """If nothing tells that they were sent they are sent, and what the log has in its middle is adopted later.

    The entries of those that are sent while it goes on do not have it read the log of the whole batch.
    """
    if sent == "before":
        elsewhere.attempt(100)
    elsewhere.slow, adoption = asyncio.Event(), adoption_of(elsewhere)
    assert await adoption.run(lambda _: None)
    assert elsewhere.counts() == {"unsent": 250}
    assert elsewhere.asked == ["any", "named"]
    elsewhere.clock.advance(1)
    if sent == "by this home meanwhile":
        elsewhere.attempt(100)
    elsewhere.slow.set()
    await adoption.finish()
    assert elsewhere.counts() == ({"succeeded": 1, "unsent": 249} if sent == "before" else {"unsent": 250})
    assert ("log" in elsewhere.asked) == (sent == "before")
    assert outbox.batches.facts(elsewhere.batch).log_read is not None


@pytest.mark.parametrize("told", ["the first rows", "another owner"])
async def test_rows_that_may_have_been_sent_wait_for_a_slow_log(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """An entry of one of the first rows tells it, or that another home has owned the batch."""
    elsewhere.attempt(100)
    elsewhere.attempt(0 if told == "the first rows" else 101)
    adoption = adoption_of(elsewhere)
    adoption.others = told == "another owner"
    elsewhere.slow = slow = asyncio.Event()
    monkeypatch.setattr(adoption_module, "_PATIENCE", 0.01)
    asyncio.get_running_loop().call_later(0.1, slow.set)
    assert not await adoption.run(lambda _: None)
    assert elsewhere.counts() == {"succeeded": 2, "unsent": 248}
    assert ("named" in elsewhere.asked) == (told == "the first rows")


def test_a_few_rows_that_are_tried_again_cost_one_read(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large their batch is; what another home has made of them is found by name."""
    batch = spool(outbox, chunks(range(3_000))).batch
    elsewhere = Elsewhere(outbox, batch, immediate=True)
    elsewhere.attempt(*range(3_000), status="INTERNAL")
    adopt(elsewhere)
    put(outbox, batch, refs(outbox, batch), State.FAILED)
    outbox.outcomes.new_try(whole(batch), [(ref, None) for ref in refs(outbox, batch)[:2]])
    elsewhere.attempt(0, try_=2)
    elsewhere.asked.clear()
    adopt(elsewhere)
    assert elsewhere.asked == ["log"]
    assert elsewhere.counts() == {"unsent": 1, "succeeded": 1, "failed": 2_998}

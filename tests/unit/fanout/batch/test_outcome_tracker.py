"""Log, statistics and queue decide what became of each row."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pytest

from cloudtasks_nb._names import CODES
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch import search as search_module
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.witnesses import Limit, Log
from cloudtasks_nb.fanout.evidence import RAISED, Evidence, Fact, Row, Source, fold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Recorded
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.watch import Pending, Snapshot
from cloudtasks_nb.store.results import FAILURES
from cloudtasks_nb.store.store import Found, Range, Store
from tests.cases import cases
from tests.log_entry import log_entry
from tests.unit.fanout.batch.conftest import QUEUE, SECOND, Traces
from tests.unit.fanout.conftest import NOW, all_rows, chunks, send_all, spool

_numbers = itertools.count()


def entry(task: str = "t", attempt: int = 1, status: str = "INTERNAL", **words: Any) -> Entry:
    """Return a log entry about one attempt."""
    facts = {"insert_id": str(next(_numbers)), "max_attempts": 0, "url": "https://x", "duration": 0.5, **words}
    return log_entry(task, attempt * SECOND, attempt=attempt, status=status, **facts)


DELETED: dict[str, Any] = {"attempt": 0, "status": "OK", "deleted": True}
ONE, TWO, FIVE = ({"max_attempts": most} for most in (1, 2, 5))
RULE: list[tuple[str, list[Entry], dict[str, Any], State | None]] = [
    ("one success", [entry(status="OK")], FIVE, State.SUCCEEDED),
    ("a success after failures", [entry(attempt=1), entry(attempt=2, status="OK")], FIVE, State.SUCCEEDED),
    ("a success, and a failure that came later", [entry(status="OK"), entry(attempt=2)], TWO, State.SUCCEEDED),
    ("a failure that is not the last", [entry(attempt=4)], FIVE, None),
    ("the last failure", [entry(attempt=5)], FIVE, State.FAILED),
    ("failures out of order", [entry(attempt=5), entry(attempt=4)], FIVE, State.FAILED),
    ("more attempts than allowed", [entry(attempt=7)], FIVE, State.FAILED),
    ("beyond a limit that was lowered: another one follows", [entry(attempt=5, retry_time=9)], TWO, None),
    ("the last attempt, and how it ended is not known", [entry(attempt=4), entry(attempt=5, status="")], FIVE, None),
    ("no attempt of which it is known how it ended", [entry(attempt=1, status="")], ONE, None),
    ("no fixed number of attempts", [entry(attempt=100)], {}, None),
    ("a time for which it is tried at least", [entry(attempt=99)], {**FIVE, "max_retry_duration": 3600.0}, None),
    ("deleted before it was tried", [entry(**DELETED)], FIVE, State.GONE),
    ("deleted while it was retrying", [entry(attempt=2), entry(**DELETED)], FIVE, State.GONE),
    ("deleted after its last failure", [entry(attempt=5), entry(**DELETED)], FIVE, State.FAILED),
    ("deleted, and yet it succeeded", [entry(**DELETED), entry(status="OK")], FIVE, State.SUCCEEDED),
]


@pytest.mark.parametrize(("what", "entries", "settings", "state"), RULE, ids=[what for what, *_ in RULE])
def test_rule(what: str, entries: list[Entry], settings: dict[str, Any], state: State | None) -> None:
    """Any OK is a success; a last possible attempt without one a failure; a deletion is gone; the rest is not known."""
    nobody: Any = None
    log = Log(nobody, QUEUE, "abcdef01", Limit({}, settings))
    for ordered in itertools.permutations(entries):
        row = Row(ref=1, tries=1, state=State.SENT)
        for news in log.evidence(replace(one, task=f"{'0' * 20}-abcdef01-1") for one in ordered):
            row = fold(row, news, 1, None)
        assert row.state is (state or State.SENT)


VALUES = {"max_attempts": 3, "max_retry_duration": 0.0, "log_sampling_ratio": 1.0, "tasks": 5, "running": 0}


def snapshot(at: int = SECOND, **words: Any) -> Snapshot:
    """Return a snapshot of the queue; `values` are on top of the usual ones."""
    values = {**VALUES, **words.pop("values", {})}
    return Snapshot(queue=QUEUE, at=at, values=values, **{"log_until": at, **words})


class Seen(Store):
    """The store of a world as its tracker sees it."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.store.url)
        self.world = world

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        """Read objects."""
        self.world.read += [one.path for one in ranges]
        return super().get_ranges(ranges)

    def found(self, prefix: str) -> Iterator[list[Found]]:
        """List objects."""
        if self.world.store_down:
            raise StoreError("the store does not answer")
        self.world.asked.append("failures" if prefix.endswith(FAILURES) else "results")
        return super().found(prefix)


@dataclass(eq=False)
class World(Traces):
    """A batch of five sent rows, what is seen of them, and what tracks them."""

    store_down: bool = False
    read: list[str] = field(default_factory=list)  #: the objects of the store that were read

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tasks: list[str] = all_rows(self.outbox, self.batch, "tasks")
        self.restart()

    def restart(self, **description: Any) -> Self:
        """Track the batch anew, as after a restart of the kernel."""
        fake: Any = self
        record, created = self.outbox.batches.get(self.batch), dt.datetime.fromtimestamp(NOW, dt.UTC)
        record = replace(record, description={**record.description, **description}, created=created)
        self.tracker = OutcomeTracker(self.outbox, record, fake, Seen(self), self.clock)
        self.tracker.load()
        return self

    def late(self, tasks: str | Sequence[str], seconds: float, **words: Any) -> None:
        """Have the log receive an entry of each task now that can be read later."""
        words = {"status": "OK", "time": self.now(), "received": self.now(), **words}
        for task in [tasks] if isinstance(tasks, str) else tasks:
            self.log.append((self.clock.now() + seconds, entry(task, **words)))

    def apply(self, *snapshots: Snapshot) -> list[bool]:
        """Apply snapshots one after the other; return for each whether it asks for a search of the queue."""

        async def all_of_them() -> list[bool]:
            sent = self.outbox.batches.counts(whole(self.batch))[State.SENT]
            return [await self.tracker.apply(one, sent=sent) for one in snapshots]

        return asyncio.run(all_of_them())

    def search(self) -> None:
        """Search the queue for the rows."""
        asyncio.run(self.tracker.search.run(self.tracker.snapshot))

    def watch(self, seconds: int, **words: Any) -> list[dict[str, int]]:
        """Take snapshots, and search when that is asked for; return the counts that there were.

        A second lies between two of them, and 15 from the third minute on: no limit lies there.
        """
        seen, left = [], seconds
        while left > 0:
            if self.apply(snapshot(self.now(), values={"tasks": len(self.there), **words}))[0]:
                self.search()
            if self.counts() not in seen:
                seen.append(self.counts())
            step = min(left, 1 if seconds - left < 130 else 15)
            self.clock.advance(step)
            left -= step
        return seen

    def split(self, now: int = SECOND) -> dict[str, int | None]:
        """Return how far the rows in the queue are."""
        return self.tracker.split(self.outbox.batches.counts(whole(self.batch)), now)


@pytest.fixture
def world(outbox: Outbox) -> World:
    """Make a batch of five rows that are sent."""
    batch = spool(outbox, chunks(range(5))).batch
    send_all(outbox, batch)
    return World(outbox, batch, values=VALUES)


def pending(state: str = "ready", **words: Any) -> Pending:
    """Return a task that is in the queue."""
    fields: dict[str, Any] = {"attempts": 0, "schedule_time": 0, "last_status": None, "last_message": None}
    return Pending(state=state, **{**fields, **words})


def test_rows_that_left_without_an_entry_are_settling_for_two_minutes(world: World) -> None:
    """First they are missing; then their entries are awaited; then the log is read by their names once more."""
    world.there = {task: pending() for task in world.tasks[:3]}
    assert world.watch(123) == [{"sent": 5}]
    assert world.tracker.search.settling == 2
    assert world.split()["ready"] == 3
    world.watch(70)
    assert world.counts() == {"sent": 3, "gone": 2}
    assert world.tracker.search.settling == 0
    assert world.asked[-1] == "log"


@pytest.mark.parametrize("values", [{"max_attempts": 5}, {"max_attempts": -1}, {"max_retry_duration": 3.0}])
def test_a_task_that_left_after_a_failure_has_failed(world: World, values: dict[str, Any]) -> None:
    """It did not succeed and was not deleted, so it was given up; the others are not known, or were deleted."""
    first, second, third, fourth, _ = world.tasks
    world.late(first, 0, status="UNAVAILABLE")
    world.late(second, 0, status="UNAVAILABLE")
    world.late(second, 0, **DELETED)
    world.late(third, 0, status="UNAVAILABLE")
    world.late(third, 0, status="", attempt=2)
    world.late(fourth, 60, status="UNAVAILABLE", attempt=2)
    world.watch(120, **values)
    assert world.counts() == {"sent": 4, "gone": 1}
    assert world.tracker.retry_note(0) is not None
    world.watch(900, **values)
    assert world.counts() == {"failed": 2, "gone": 3}
    assert world.tracker.retry_note(0) is None
    assert world.outbox.causes.failed(whole(world.batch)) == {"UNAVAILABLE": 2}
    world.outbox.outcomes.new_try(whole(world.batch))
    assert world.counts() == {"unsent": 2, "gone": 3}


def test_a_success_that_came_very_late_is_found_before_failed_rows_are_sent_again(world: World) -> None:
    """Only rows that failed because their tasks had left are asked about: of others the log had the last attempt."""
    world.late(world.tasks[0], 0, status="UNAVAILABLE")
    world.late(world.tasks[0], 1_200, attempt=2)
    world.late(world.tasks[1], 0, status="UNAVAILABLE", attempt=3)
    world.watch(1_000)
    assert world.counts() == {"failed": 2, "gone": 3}
    world.clock.advance(300)
    asked = len(world.asked)
    asyncio.run(world.tracker.search.read_failed_log())
    assert world.counts() == {"failed": 1, "gone": 3, "succeeded": 1}
    assert world.asked[asked:] == ["log", "failures"]


@cases({"purge_time": 9e15}, {"log_sampling_ratio": 0.5}, {"log_sampling_ratio": 0.0}, {}, ids=str)
def test_only_a_log_that_has_everything_shows_what_failed(world: World, first: dict[str, Any]) -> None:
    """A purge, or an operation that was not logged, may have ended the task; also if it is logged by now.

    So may the deletion of the queue, which was made again; the next kernel knows it.
    """
    world.immediate = True
    world.late(world.tasks[0], 0, status="UNAVAILABLE")
    world.apply(snapshot(values=first, gone=not first))
    world.restart().watch(10, purge_time=first.get("purge_time"))
    assert world.counts() == {"gone": 5}


def test_a_row_that_is_sent_again_meanwhile_has_not_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kernel records its failure, and opens a new try, while this one reads the log for its first task."""
    world.immediate = True
    other = world.tracker
    world.restart()
    world.apply(snapshot(values={"tasks": 0}))

    async def read(*_: Any) -> None:
        if world.counts() == {"sent": 5}:
            apart: dict[str, Any] = {"task": world.tasks[0], "source": Source.LOG, "attempts": 3, "status": 13}
            await other.tell([Evidence(fact=Fact.LAST_FAILED, **apart)])
            assert world.outbox.outcomes.new_try(whole(world.batch)) == 1

    monkeypatch.setattr(world.tracker.search, "_read_log", read)
    world.search()
    assert world.counts() == {"sent": 4, "unsent": 1}
    world.search()
    assert world.counts() == {"gone": 4, "unsent": 1}


def test_many_missing_rows_are_read_with_the_whole_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name a read has 100 rows; if that takes more reads than the log of the batch has pages, that is read."""
    monkeypatch.setattr(search_module, "NAMES", 2)
    world.tracker.witnesses.queue.looked_up = 2
    world.immediate = True
    world.late(world.tasks, 0)
    world.watch(6)
    assert world.counts() == {"succeeded": 5}
    assert world.asked == ["pages", "results", "log", "failures"]


SENDING: list[tuple[str, list[tuple[int, int]], list[bool]]] = [
    ("a snapshot that is older than the last answers", [(0, 0), (2, 1), (4, 3), (5, 4)], [False] * 4),
    ("a snapshot that is ahead of the answers", [(0, 0), (1, 3), (2, 4), (4, 5)], [False] * 4),
    ("rows that left while others were sent", [(0, 0), (3, 3), (4, 1), (5, 2)], [False, False, False, True]),
    ("others in the queue when all is sent", [(4, 5), (5, 7), (5, 7)], [False, False, True]),
]


@pytest.mark.parametrize(("what", "seen", "searches"), SENDING, ids=[what for what, *_ in SENDING])
def test_while_rows_are_sent_statistics_need_not_agree(
    world: World, what: str, seen: list[tuple[int, int]], searches: list[bool]
) -> None:
    """Only rows that were acknowledged before the last snapshot can be missing; `seen` are these, and what is there."""
    for (sent, tasks), expected in zip(seen, searches, strict=True):
        assert asyncio.run(world.tracker.apply(snapshot(values={"tasks": tasks}), sent=sent)) is expected
        world.clock.advance(20)


def test_a_clock_that_is_set_back_keeps_no_row_waiting(world: World) -> None:
    """The two minutes begin anew, and not after two days."""
    world.clock.advance(172_800)
    world.watch(60)
    world.clock.time -= 172_800
    world.watch(200)
    assert world.counts() == {"gone": 5}


@pytest.mark.parametrize("immediate", [False, True])
def test_a_log_that_cannot_be_read_makes_no_row_gone_at_once(world: World, *, immediate: bool) -> None:
    """Nothing can be awaited for ever. When it can be read, it corrects all but what somebody deleted."""
    world.denied, world.immediate = True, immediate
    first, second, third, *_ = world.tasks
    world.late(first, 0)
    world.late(second, 0, status="UNAVAILABLE")
    world.late(third, 0, status="UNAVAILABLE")
    world.late(third, 0, **DELETED)
    world.watch(100)
    assert world.counts() == {"sent": 5}
    world.watch(100)
    assert world.counts() == {"gone": 5}
    world.denied = False
    asyncio.run(world.tracker.recheck())
    assert world.counts() == {"gone": 3, "succeeded": 1, "failed": 1}


TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\n{}\n'


def test_without_a_log_stored_results_are_the_outcomes(world: World) -> None:
    """A success, the last possible failure, one that is not the last, and none: only the last two are not known."""
    first, second, third, *_ = world.tasks
    world.put(first, 2)
    world.put(second, 3, TRACEBACK.format("KeyError: 'a'"))
    world.put(third, 1, "refused")
    assert world.watch(30, log_sampling_ratio=0.0)[-1] == {"succeeded": 1, "failed": 1, "gone": 3}
    assert world.tracker.has_results
    assert world.restart().tracker.has_results
    page = next(world.outbox.rows.pages(whole(world.batch)))
    assert list(page.attempts) == [2, 3, 1, None, None]
    assert list(page.last_status) == [0, 13, 13, None, None]
    assert list(page.last_message) == [None, "KeyError: 'a'", "refused", None, None]
    assert page.duration[0] == SECOND // 2


def test_failed_rows_are_told_once_what_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame of results was read before: only what has come since is recorded, and any success."""
    told, record = list[str](), world.outbox.outcomes.record

    def noted(batch: str, evidence: Sequence[Evidence]) -> Recorded:
        told.extend(one.task for one in evidence)
        return record(batch, evidence)

    def read() -> list[str]:
        told.clear()
        world.tracker.stored.sync()
        asyncio.run(world.tracker.record_results())
        return [*told]

    world.put(world.tasks, 3, "no")
    world.apply(snapshot(entries=tuple(entry(task, attempt=3) for task in world.tasks)))
    monkeypatch.setattr(world.outbox.outcomes, "record", noted)
    assert (sorted(read()), read()) == (sorted(world.tasks), [])
    world.put(world.tasks[1], 4, "still no")
    world.put(world.tasks[2], 4)
    assert sorted(read()) == sorted(world.tasks[1:3])
    assert world.counts() == {"succeeded": 1, "failed": 4}
    world.restart()
    assert sorted(read()) == sorted([*world.tasks[:2], *world.tasks[3:]])


def test_a_store_that_does_not_answer_makes_no_row_gone_at_once(world: World) -> None:
    """That is said; the rows wait for two minutes, and results that come later correct them."""
    world.store_down = True
    world.put(world.tasks)
    world.apply(snapshot(values={"log_sampling_ratio": 0.0, "tasks": 0}))
    with pytest.raises(StoreError):
        world.search()
    world.clock.advance(30)
    with pytest.raises(StoreError):
        world.search()
    assert world.counts() == {"sent": 5}
    world.store_down = False
    world.search()
    assert world.counts() == {"succeeded": 5}


def test_error_texts_that_could_not_be_read_are_read_later(world: World) -> None:
    """A store that does not answer delays no outcome."""
    world.store_down = True
    world.put(world.tasks[0], 3, "refused")
    world.apply(snapshot(entries=(entry(world.tasks[0], attempt=3),)))
    assert world.counts() == {"failed": 1, "sent": 4}
    world.store_down = False
    world.clock.advance(60)
    world.apply(snapshot(entries=(entry(world.tasks[1]),)))
    assert next(world.outbox.rows.pages(whole(world.batch))).last_message[0] == "refused"


SPLITS: list[tuple[str, dict[str, Any], tuple[int | None, ...]]] = [
    ("all wait", {}, (0, 5, 0, 0)),
    ("two run", {"running": 2}, (0, 3, 2, 0)),
    ("others share the queue, so whose attempts run is not known", {"tasks": 50, "running": 2}, (None, None, None, 0)),
    ("no statistics", {"tasks": None}, (None, None, None, 0)),
]


@pytest.mark.parametrize(("what", "values", "split"), SPLITS, ids=[what for what, *_ in SPLITS])
def test_split_of_pending_rows(world: World, what: str, values: dict[str, Any], split: tuple[int | None, ...]) -> None:
    """What is not known is None, and what is known adds up."""
    world.apply(snapshot(values=values))
    assert world.split() == dict(zip(("scheduled", "ready", "running", "retrying"), split, strict=True))


def test_rows_that_are_due_later_are_scheduled_whoever_shares_the_queue(world: World) -> None:
    """Before their time none of them runs; afterwards it is not known which rows do."""
    world.restart(_due=3600 * SECOND)
    world.apply(snapshot(values={"tasks": 50, "running": 2}))
    assert world.split() == {"scheduled": 5, "ready": 0, "running": None, "retrying": 0}
    assert world.split(3600 * SECOND)["scheduled"] is None


def test_retrying_rows_are_known_from_the_log_also_after_a_restart(world: World) -> None:
    """Their number, and when the next attempt is due."""
    news = tuple(entry(task, attempt=2, retry_time=90 * SECOND) for task in world.tasks[:2])
    world.apply(snapshot(entries=news))
    world.restart()
    world.apply(snapshot())
    assert world.split()["retrying"] == 2
    assert world.tracker.retry_note(30 * SECOND) == "attempt 3 of 3, next in 1 min"


def test_a_clock_that_was_set_back_gives_no_time(world: World) -> None:
    """An attempt that would be due later than the queue's longest pause is not said to be "next in 120 min"."""
    news = (entry(world.tasks[0], attempt=1, retry_time=7_210 * SECOND),)
    world.apply(snapshot(values={"max_backoff": 60.0}, entries=news))
    assert world.tracker.retry_note(7_200 * SECOND) == "attempt 2 of 3, next in 10 s"
    assert world.tracker.retry_note(10 * SECOND) == "attempt 2 of 3"


def give_up(world: World, task: str) -> None:
    """Have a function give a task up, which the log shows as a success."""
    world.put(task, error="Traceback (most recent call last):\nGiveUp: no such place", gave_up="no such place")
    world.late(task, 0)


def test_a_task_that_was_given_up_never_counts_as_a_success(world: World) -> None:
    """The log has a success of each: one listing tells them apart, and no result of a success is read."""
    give_up(world, world.tasks[0])
    world.put(world.tasks[1:])
    world.late(world.tasks[1:], 0)
    world.apply(snapshot(world.now(), entries=tuple(one for _, one in world.log)))
    assert world.counts() == {"succeeded": 4, "failed": 1}
    assert (len(world.read), world.asked) == (1, ["failures"])
    assert world.outbox.causes.failed(whole(world.batch)) == {"no such place": 1}
    world.outbox.outcomes.new_try(whole(world.batch))
    assert world.counts() == {"succeeded": 4, "unsent": 1}


def test_successes_that_are_older_than_a_listing_need_no_other_one(world: World) -> None:
    """The log is read again and again; a task that was given up is read once."""
    give_up(world, world.tasks[0])
    late = [entry(task, status="OK", time=world.now() + 10 * SECOND) for task in world.tasks]
    for seconds, entries in ((0, ()), (6, late[:1]), (0, late[1:2]), (10, late[2:3]), (0, late[3:])):
        world.clock.advance(seconds)
        world.apply(snapshot(world.now(), entries=(*(one for _, one in world.log), *entries)))
    assert (len(world.read), world.asked) == (1, ["failures"] * 4)
    assert world.counts() == {"succeeded": 4, "failed": 1}


def test_a_row_that_fails_after_its_result_was_read_knows_it(world: World) -> None:
    """Whoever asks for results of a batch that runs has read it while the row was open."""
    world.apply(snapshot(values={"max_attempts": 3}))
    world.put(world.tasks[0], error="KeyError: 'a'", attempt=3)
    world.tracker.stored.sync()
    asyncio.run(world.tracker.record_results())
    late = world.tracker.witnesses.log.evidence([entry(world.tasks[0], attempt=3)])
    asyncio.run(world.tracker.tell(late))  # as the search does
    assert world.counts()["failed"] == 1
    asyncio.run(world.tracker.record_results())
    assert world.outbox.causes.failed(whole(world.batch)) == {"KeyError: …": 1}


@cases((404, 404), (None, RAISED))
def test_the_status_of_a_service_that_was_called_counts(world: World, upstream: int | None, http: int) -> None:
    """Log and queue have the status of the answer; the handler has stored whether a service said it."""
    task = world.tasks[0]
    world.there = {task: pending(attempts=1, last_status="INTERNAL", last_message="INTERNAL(13): HTTP status code 500")}
    world.put(task, error="HTTPError: 404", upstream=upstream)
    asyncio.run(world.tracker.search._missing(snapshot()))
    world.apply(snapshot(entries=(entry(task, retry_time=9 * SECOND),)))
    page = next(world.outbox.rows.pages(whole(world.batch)))
    assert (page.http_status[0], page.last_status[0]) == (http, 13)


def test_a_status_that_is_no_code(world: World) -> None:
    """The log may say a word that is newer than the package: the failure is of unknown kind."""
    world.apply(snapshot(entries=(entry(world.tasks[0], status="NEWER"),)))
    page = next(world.outbox.rows.pages(whole(world.batch)))
    assert CODES[page.last_status[0] or 0] == "UNKNOWN"


def test_what_is_asked_for_by_name_leaves_the_rest_to_be_read() -> None:
    """Entries of other tasks may be earlier than the newest one that was asked for."""
    nobody: Any = None
    log = Log(nobody, QUEUE, "a91f03c2", Limit({}))
    entry = log_entry("0" * 20 + "-a91f03c2-1", 5)
    log.evidence([entry], every=False)
    assert (log.active, log.read_until) == (5, 0)
    log.evidence([entry])
    assert (log.active, log.read_until) == (5, 5)

"""The store against a plain model, through restarts; and what its rules say in single steps."""

import re
import sqlite3
import sys
import tempfile
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.attempts import AttemptResult, Attempts, RetryPolicy
from cloudtasks_nb.emulator.model.clock import DAY, HOUR, SECOND, Clock
from cloudtasks_nb.emulator.model.queues import PAUSED, RUNNING, configured
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.database import Statement, TaskDatabase
from cloudtasks_nb.emulator.store.oplog import LogSubject
from cloudtasks_nb.emulator.store.state import Claim, QueueState
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.store.sweep import sweep
from cloudtasks_nb.emulator.strict.parts import StrictParts
from cloudtasks_nb.errors import EmulatorError
from tests.cases import cases
from tests.unit.emulator.conftest import LOG_ALL, NOW, QUEUE, MakeStore, commit, new_queue, new_task, put, refused

POLICY = RetryPolicy(max_attempts=2, min_backoff=10 * SECOND)
IDS = st.sampled_from(["a", "b", "c", "d"])


def begin(store: Store, *ids: str) -> tuple[QueueState, list[Claim]]:
    """Create a queue with tasks, and begin an attempt of each."""
    queue = new_queue(store)
    put(store, queue, *ids)
    claims = [store.claim_now(queue, task_id) for task_id in ids]
    for claim in claims:
        store.begin_attempt(claim)
    return queue, claims


def attempt(store: Store, claim: Claim, status: int) -> None:
    """Make an attempt of a task, which is answered at once."""
    store.begin_attempt(claim)
    subject = LogSubject(claim.queue.q, 0.0, claim.task.id)
    store.end_attempt(claim, AttemptResult(http_status=status), POLICY, subject)


def take(queue: QueueState, now: int) -> int | None:
    """Take the next task that is due from its queue's due times."""
    number, due = queue.due.first(now) or (None, now)
    if number is None or due > now:
        return None
    queue.due.drop_first()
    return number


def sweep_all(store: Store, now: int) -> None:
    """Sweep until nothing is left to sweep."""
    more = True
    while more:
        more = sweep(store, now)
        commit(store)


class StoreModel(RuleBasedStateMachine):
    """Tasks with their due times and failures, and taken names, in two dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.now = NOW
        self.live: dict[str, tuple[int, int]] = {}  # id -> due, failures
        self.taken: dict[str, int] = {}  # id -> until
        self.database: TaskDatabase | None = None
        self.open()
        self.store.create_queue(configured(beta.Queue(name=QUEUE)))
        commit(self.store)

    def open(self) -> None:
        """Open the store's file."""
        self.clock = Clock(source=lambda: self.now * 1000)
        self.database = TaskDatabase(self.folder / "tasks.sqlite3", durable=False)
        self.store = Store(self.database, self.clock, Settings())

    def teardown(self) -> None:
        """Close what is open."""
        assert self.database is not None
        self.database.close()
        self.stack.close()

    @property
    def queue(self) -> QueueState:
        """The one queue."""
        return self.store.queue(QUEUE)

    def end(self, task_id: str) -> None:
        """Take a task out of the model."""
        del self.live[task_id]
        self.taken[task_id] = self.now + HOUR

    @rule(task_id=IDS, delay=st.integers(-5, 3 * HOUR))
    def create(self, task_id: str, delay: int) -> None:
        """Create a task: refused while its name is taken."""
        task = new_task(task_id, self.now, due=self.now + delay)
        if task_id in self.live or self.taken.get(task_id, 0) > self.now:
            with refused("ALREADY_EXISTS"):
                self.store.add(self.queue, task, self.now)
            return
        put(self.store, self.queue, task, now=self.now)
        self.live[task_id] = max(self.now + delay, self.now), 0

    @rule(task_id=IDS)
    def delete(self, task_id: str) -> None:
        """Delete a task: refused when it is not there."""
        if task_id not in self.live:
            with refused("NOT_FOUND"):
                self.store.delete(self.queue, task_id)
            return
        self.store.delete(self.queue, task_id)
        commit(self.store)
        self.end(task_id)

    @rule(status=st.sampled_from([200, 404, 500]))
    def dispatch(self, status: int) -> None:
        """Dispatch everything that is due: done, put off, or dropped after the second failure."""
        sent = set()
        while (number := take(self.queue, self.now)) is not None:
            claim = self.store.claim(self.queue, number)
            if claim is None:
                continue
            sent.add(claim.task.id)
            attempt(self.store, claim, status)
        commit(self.store)
        assert sent == {task_id for task_id, (due, _) in self.live.items() if due <= self.now}
        for task_id in sent:
            failures = self.live[task_id][1] + 1
            if status == 200 or failures == 2:
                self.end(task_id)
            else:
                self.live[task_id] = self.now + 10 * SECOND, failures

    @rule()
    def purge(self) -> None:
        """Purge the queue: every task goes, every name stays taken."""
        self.store.purge(self.queue)
        commit(self.store)
        for task_id in list(self.live):
            self.end(task_id)

    @rule(by=st.sampled_from([SECOND, 11 * SECOND, HOUR // 2, HOUR]))
    def wait(self, by: int) -> None:
        """Let time pass."""
        self.now += by

    @rule()
    def clear_away(self) -> None:
        """Sweep until nothing is left to sweep."""
        sweep_all(self.store, self.now)

    @rule()
    def clear_away_some(self) -> None:
        """Sweep once; a later step commits it, or loses it."""
        sweep(self.store, self.now)

    @rule()
    def reopen(self) -> None:
        """Close the file and open it again."""
        assert self.database is not None
        self.database.close()
        self.open()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Lose a transaction: the store is where it was."""
        self.store.delete(self.queue, data.draw(st.sampled_from(sorted(self.live))))
        self.store.add(self.queue, new_task("lost", self.now), self.now)
        self.store.failed()

    @invariant()
    def same_tasks(self) -> None:
        """Store and model have the same tasks with the same due times, in memory and in the file."""
        shown = {}
        for task in chain.from_iterable(self.store.tasks(self.queue, 0)):
            tried = self.queue.attempts.get(task.number)
            shown[task.id] = (tried.due, tried.failures) if tried else (task.due, 0)
        assert shown == self.live
        assert self.queue.live.keys() == self.live.keys()
        taken = {task_id: until for task_id, until in self.queue.tombstones.items() if until > self.now}
        assert taken == {task_id: until for task_id, until in self.taken.items() if until > self.now}
        upcoming = [due for due, _ in self.live.values()]
        expected = min(upcoming, default=None)
        found = self.store.next_due(self.queue)
        assert found == expected or (found is not None and expected is not None and max(found, expected) <= self.now)


StoreModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
test_store_behaves_like_its_model = StoreModel.TestCase


@pytest.mark.parametrize("under_way", [False, True])
def test_a_sweep_before_the_commit_of_purged_tasks(make_store: MakeStore, clock: Clock, *, under_way: bool) -> None:
    """Tasks that are purged before they are committed stay purged, even with a sweep in between."""
    store = make_store(hard_reset_on_purge_queue=True)
    queue = new_queue(store)
    store.add(queue, new_task("a"), NOW)
    if under_way:
        store.apply()
    store.purge(queue)
    sweep(store, clock.now())
    if under_way:
        store.database.commit()
        store.committed()
    commit(store)
    assert make_store().queue(QUEUE).live == {}
    store = make_store()
    sweep_all(store, clock.now())
    assert store.database.read("SELECT seq FROM tasks UNION SELECT q FROM purged_ranges") == []


@cases(
    (NOW + 2 * DAY, {}, False, True),
    (NOW + 2 * DAY, {}, True, False),
    (NOW + 12 * DAY, {"task_ttl": {"seconds": 11 * 86_400}}, False, False),
    ids=["to be sent", "paused", "due too late"],
)
def test_tasks_that_fall_due_during_an_advance(
    store: Store, clock: Clock, due: int, settings: dict[str, Any], *, paused: bool, spared: bool
) -> None:
    """A clock that jumps from before a task's time to after its retention leaves it to be sent, if it could be."""
    queue = new_queue(store, **settings)
    queue.message.state = PAUSED if paused else RUNNING
    put(store, queue, new_task("a", due=due))
    clock.advance(40 * DAY)
    sweep(store, clock.now(), keep_due=True)
    assert ("a" in queue.live) is spared
    sweep(store, clock.now())
    assert queue.live == {}


def test_an_attempt_may_outlive_its_task(store: Store) -> None:
    """The end of an attempt whose task or queue was deleted changes nothing more."""
    queue, claims = begin(store, "a", "b", "c")
    before = Attempts(due=NOW)
    subject = LogSubject(queue.q, 1.0, "a", "POST x", "HTTP")
    store.delete(queue, "a")
    assert store.end_attempt(claims[0], AttemptResult(http_status=500), POLICY, subject)
    store.delete(queue, "b")
    store.undo_attempt(claims[1], before)
    assert queue.live.keys() == {"c"}
    store.delete_queue(QUEUE)
    assert store.end_attempt(claims[2], AttemptResult(http_status=500), POLICY, subject)
    store.undo_attempt(claims[2], before)
    commit(store)
    assert store.database.read("SELECT count(*) FROM attempts") == [(0,)]


def test_attempts_in_flight_survive_a_lost_transaction(store: Store) -> None:
    """After a failed commit an attempt in flight still ends its task."""
    queue, (claim,) = begin(store, "a")
    store.failed()
    rebuilt = store.queue(QUEUE)
    assert rebuilt is not queue
    assert store.claim(rebuilt, claim.task.number) is None
    assert not store.end_attempt(claim, AttemptResult(http_status=500), POLICY, LogSubject(queue.q, 0.0, "a"))
    assert (rebuilt.in_flight, rebuilt.attempts[claim.task.number].failures) == (0, 1)


@pytest.mark.parametrize("size", [4096, 8192])
def test_a_database_is_copied_and_erased(tmp_path: Path, size: int) -> None:
    """The content of a copy replaces that of a file, which keeps its own page size; a closed file has everything."""
    file, copy = tmp_path / "tasks.sqlite3", tmp_path / "copy.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(f"PRAGMA page_size = {size}; CREATE TABLE unused(n)")
    with closing(TaskDatabase(tmp_path / "other.sqlite3", durable=True)) as other:
        _write(other, "one")
        other.save_to(copy)
        other.erase()
        assert other.read("SELECT * FROM settings") == []
        with pytest.raises(sqlite3.OperationalError):
            other.read("DELETE FROM settings")
    with closing(TaskDatabase(file, durable=True)) as database:
        for _ in range(2):
            _write(database, "lost")
            database.load_from(copy)
        assert database.read("SELECT key FROM settings") == [("one",)]
        _write(database, "two")
    with closing(TaskDatabase(file, durable=False)) as database:
        assert database.read("SELECT key FROM settings ORDER BY key") == [("one",), ("two",)]
        assert database.read("PRAGMA page_size") == [(size,)]
    assert [file.name for file in tmp_path.glob("copy*")] == ["copy.sqlite3"]


@cases(
    (None, False), (None, True), (b"no database at all" * 100, False), (b"no database at all" * 100, True),
    (b"", True),
    ids=["another version", "snapshot of another version", "no database", "no snapshot", "empty snapshot"],
)  # fmt: skip
def test_unusable_files(tmp_path: Path, content: bytes | None, *, snapshot: bool) -> None:
    """A file that is no database, or one of another version, is named with what to do, and changes nothing."""
    error, hint = ("another version of the emulator (2 instead of 4)", "cannot be converted")
    if content is not None:
        error, hint = "cannot be used: ", "if it is damaged, "
    file = tmp_path / "bad.sqlite3"
    file.write_bytes(content or b"")
    if content is None:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 2")
    with closing(TaskDatabase(tmp_path / "tasks.sqlite3", durable=True)) as database:
        _write(database, "two")
        with pytest.raises(EmulatorError, match=re.escape(error)) as wrong:
            database.load_from(file) if snapshot else TaskDatabase(file, durable=True)
        assert (wrong.value.resource, hint in (wrong.value.hint or "")) == (str(file), True)
        _write(database, "three")
        assert database.read("SELECT key FROM settings ORDER BY key") == [("three",), ("two",)]


@cases(("us-central-1", "did you mean us-central1?"), ("here", "--strict refuses them too"))
async def test_a_location_that_does_not_exist(
    make_store: MakeStore, clock: Clock, tmp_path: Path, location: str, hint: str
) -> None:
    """A queue there is made with a remark, one for each location; a strict emulator refuses it as Cloud Tasks does."""
    store, lines = make_store(), list[str]()
    store.report = lines.append
    for name in (QUEUE, *(f"projects/p/locations/{location}/queues/{queue}" for queue in "qr")):
        new_queue(store, name)
    assert lines == [f"Cloud Tasks has no location {location}, and refuses queues there: {hint}"]
    strict = StrictParts(Settings(), tmp_path, make_store(file="strict"), clock)
    with refused(text=f"^Location '{location}' is not a valid location[.] Use ListLocations"):
        new_queue(strict.store, f"projects/p/locations/{location}/queues/q")
    await strict.close()


def _write(database: TaskDatabase, key: str) -> None:
    Store(database, Clock(), Settings()).set_setting(key, b"")
    database.apply()
    database.commit()


def fill(store: Store, queue: QueueState, count: int, *, body: bytes = b"") -> None:
    """Add tasks with numbers as ids."""
    for start in range(0, count, 100):
        store.add_all(queue, {n: new_task(f"t{n:06}", body=body) for n in range(start, min(start + 100, count))}, NOW)
    commit(store)


def test_a_sweep_says_that_there_is_more(store: Store, clock: Clock) -> None:
    """A sweep goes on until all names, operations and log entries that have expired are deleted."""
    queue = new_queue(store, stackdriver_logging_config=LOG_ALL)
    fill(store, queue, 12_000)
    for task_id in list(queue.live):
        store.delete(queue, task_id)
    for number in range(1200):
        store.save_operation(f"operation-{number}", b"", NOW)
    commit(store)
    clock.advance(31 * DAY)
    sweep_all(store, clock.now())
    left = "SELECT seq FROM tombstones UNION ALL SELECT seq FROM operations UNION ALL SELECT seq FROM log"
    assert store.database.read(left) == []
    assert (queue.tombstones, store.contents.operations) == ({}, {})


def test_purged_tasks_leave_the_file_at_once(make_store: MakeStore, clock: Clock) -> None:
    """After a purge only the names are kept, also over a restart, until they can be used again."""
    store = make_store()
    queue = new_queue(store)
    fill(store, queue, 7000, body=b"x" * 50)
    names = set(queue.live)
    store.purge(queue)
    sweep_all(store, NOW)
    assert store.database.read("SELECT seq FROM tasks UNION ALL SELECT q FROM purged_ranges") == []
    store = make_store()
    assert set(store.queue(QUEUE).tombstones) == names
    clock.advance(HOUR)
    sweep_all(store, clock.now())
    assert store.database.read("SELECT * FROM tombstones") == []
    assert store.queue(QUEUE).tombstones == {}


def test_names_with_different_lives(store: Store, clock: Clock) -> None:
    """Names that are free again leave the file, also beside one that stays taken for long."""
    long = new_queue(store, f"{QUEUE}-long", tombstone_ttl={"seconds": 24 * 3600})
    short = new_queue(store)
    for queue in (long, short):
        put(store, queue, "a")
        store.delete(queue, "a")
    commit(store)
    clock.advance(HOUR)
    sweep_all(store, clock.now())
    assert (short.tombstones, store.database.read("SELECT q FROM tombstones")) == ({}, [(long.q,)])


def test_expired_tasks_behind_kept_ones(store: Store, clock: Clock) -> None:
    """Tasks past their retention that can still be sent hide none behind them, not even the first after a slice."""
    queue = new_queue(store, task_ttl={"seconds": 10 * 24 * 3600})
    fill(store, queue, 5000)
    put(store, queue, new_task("far", due=NOW + 20 * DAY))
    clock.advance(queue.config.task_ttl + SECOND)
    while sweep(store, clock.now(), keep_due=True):
        commit(store)
    assert "far" not in queue.live
    assert len(queue.live) == 5000


def test_deleted_tasks_use_no_memory(store: Store, clock: Clock) -> None:
    """When many tasks were deleted, the tables in memory shrink: those of tasks, of names and of due times."""
    queue = new_queue(store, state=PAUSED)
    fill(store, queue, 30_000)
    for task_id in list(queue.live)[10:]:
        store.delete(queue, task_id)
    commit(store)
    clock.advance(HOUR)
    sweep_all(store, clock.now())
    assert (len(queue.live), len(queue.due), len(queue.tombstones)) == (10, 10, 0)
    assert max(sys.getsizeof(table) for table in (queue.live, queue.tombstones)) < 10_000
    assert [take(queue, NOW) for _ in range(10)] == list(queue.live.values())


def test_the_log_has_a_limit(make_store: MakeStore, clock: Clock) -> None:
    """The oldest entries above the limit are deleted, also those that an earlier start has written."""
    store = make_store()
    queue = new_queue(store, stackdriver_logging_config=LOG_ALL)
    for number in range(20):
        store.add(queue, new_task(f"t{number}"), NOW + number)
    commit(store)
    store = make_store(log_limit=8)
    put(store, store.queue(QUEUE), "newest", now=NOW + 20)
    sweep_all(store, clock.now())
    left = [task for (task,) in store.database.read("SELECT task FROM log")]
    assert left == [*(f"t{number}" for number in range(13, 20)), "newest"]
    sweep_all(store, clock.now())
    assert store.database.read("SELECT count(*) FROM log") == [(8,)]


def test_a_file_shrinks(make_store: MakeStore) -> None:
    """The file gives its free pages back while it is in use, step by step."""
    store = make_store()
    queue = new_queue(store)
    fill(store, queue, 5000, body=b"x" * 1000)
    store.purge(queue)
    sweep_all(store, NOW)
    before = store.database.read("PRAGMA page_count")[0][0]
    while store.database.shrink(50):
        assert store.database.read("PRAGMA page_count")[0][0] < before
    assert store.database.read("PRAGMA page_count")[0][0] < before // 3


def test_a_file_shrinks_when_it_is_closed(tmp_path: Path) -> None:
    """A durable file, even one that was made without `auto_vacuum`, is small again after a clean end."""
    file = tmp_path / "tasks.sqlite3"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE settings(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        connection.execute("INSERT INTO settings VALUES ('large', zeroblob(4000000))")
    with closing(TaskDatabase(file, durable=True)) as database:
        assert file.stat().st_size > 4_000_000
        database.put(Statement.SETTING, ("large", b""))
        _write(database, "kept")
    assert file.stat().st_size < 300_000
    with closing(TaskDatabase(file, durable=True)) as database:
        assert database.read("SELECT key FROM settings") == [("kept",), ("large",)]

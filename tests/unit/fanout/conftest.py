"""Rows without a DataFrame, and a fake Cloud Tasks that can be made to fail."""

import asyncio
import sqlite3
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import pytest
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2

from cloudtasks_nb._names import CODES, QueueName, code_name
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, ServiceError, UnavailableError
from cloudtasks_nb.fanout.causes import Fault
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.evidence import LAST, Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Recorded
from cloudtasks_nb.fanout.outbox.records import Ack, Request, Scope, Spooled, whole
from cloudtasks_nb.fanout.outbox.rows import Page
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.outbox.sql import counted
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, Place, key_head, task_id
from cloudtasks_nb.fanout.plan.render import Chunk
from cloudtasks_nb.fanout.sender.sender import Report, Sender
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.clock import now_micros
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.watch import Pending, Snapshot

#: Seconds since 1970.
NOW = 1_800_000_000.0

PLACE = Place(endpoint="e-1", project="p", location="l", queue="q")

_Batch = types.BatchCreateTasksRequest.pb()
_Metadata = types.BatchCreateTasksMetadata.pb()
_Create = types.CreateTaskRequest.pb()
_Task = types.Task.pb()


def tables_of(file: str) -> dict[str, list[Any]]:
    """Return the tables in the TOML file beside a test: facts of the world, or what people write and are answered."""
    found = tomllib.loads(Path(file).with_suffix(".toml").read_text(encoding="utf-8"))
    return {name: [tuple(row) if isinstance(row, list) else row for row in rows] for name, rows in found.items()}


def digest(text: str) -> bytes:
    """Return 16 bytes for a text."""
    return blake2b(text.encode(), digest_size=16).digest()


def task(text: str) -> bytes:
    """Return a task on the wire, without its name."""
    request = {"url": f"https://svc/{text}", "http_method": "POST", "body": text.encode() * 3}
    wire: bytes = _Task(http_request=request).SerializeToString()
    return wire


def request_digest(text: str) -> bytes:
    """Return the digest of such a task, as the plan computes it."""
    request = _Task.FromString(task(text)).http_request
    return blake2b(request.SerializeToString(), digest_size=16).digest()


def chunk(
    rows: Iterable[int],
    *,
    key: Callable[[int], str] = str,
    request: Callable[[int], str] = str,
    rejected: Mapping[int, str] | None = None,
) -> Chunk:
    """Make a chunk; `key` and `request` say by what a row is known and what it sends."""
    positions = list(rows)
    bad = {positions.index(row): reason for row, reason in (rejected or {}).items() if row in positions}
    return Chunk(
        rows=positions,
        keys=[digest(key(row)) for row in positions],
        digests=[bytes(16) if index in bad else request_digest(request(row)) for index, row in enumerate(positions)],
        tasks=[b"" if index in bad else task(request(row)) for index, row in enumerate(positions)],
        shown=orjson.dumps([len(positions), ["n"], ["int64"], [positions]]),
        rejected=bad,
    )


def chunks(rows: Iterable[int], size: int = 100, **options: Any) -> Iterator[Chunk]:
    """Yield the chunks of many rows."""
    positions = list(rows)
    for start in range(0, len(positions), size):
        yield chunk(positions[start : start + size], **options)


def spool(
    outbox: Outbox, planned: Iterable[Chunk], *, place: Place = PLACE, recipe: bytes = b"recipe", **spec: Any
) -> Spooled:
    """Bring rows into the outbox, as `fan_out` does."""
    with outbox.spool(BatchSpec(place=place, recipe=recipe, **spec)) as spooling:
        for part in planned:
            spooling.add(part)
        return spooling.commit()


def put_facts(outbox: Outbox, batch: str, **facts: Any) -> None:
    """Store facts of a batch, whatever they were before."""
    outbox.batches.change(batch, lambda before: replace(before, **facts))


def tables(path: Path) -> dict[str, int]:
    """Count what the tables that grow hold."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}  # noqa: S608 - our names


#: The tables that grow.
TABLES = (
    *("batches", "facts", "hidden", "blocks", "rows", "keys", "tallies"),
    *("spans", "inputs", "labels", "results", "objects"),
)
#: What `tables` gives for an outbox without anything in it.
NOTHING = dict.fromkeys(TABLES, 0)


def all_rows(outbox: Outbox, batch: str | Scope, field: str, **options: Any) -> list[Any]:
    """Return one field of all pages of rows, or of all of a batch, put together."""
    scope = whole(batch) if isinstance(batch, str) else batch
    pages: Iterator[Page] = outbox.rows.pages(scope, **options)
    return [value for page in pages for value in getattr(page, field)]


def take(outbox: Outbox, batch: str, want: int = 99) -> list[Request]:
    """Get requests as a new sender does."""
    return outbox.requests.queue(batch).turn([], want, now=NOW)


def send_all(outbox: Outbox, batch: str) -> None:
    """Have every unsent row acknowledged."""
    queue = outbox.requests.queue(batch)
    requests = queue.turn([], 999, now=NOW)
    queue.turn([Ack(seq=request.seq, sent=request.refs) for request in requests], 0, now=NOW)


def refs(outbox: Outbox, batch: str | Scope) -> list[int]:
    """Return the refs of rows, or of all of a batch."""
    return all_rows(outbox, batch, "refs")


@contextmanager
def watched(outbox: Outbox, watch: Callable[[sqlite3.Connection], None]) -> Iterator[None]:
    """Have each reading use a connection that was opened meanwhile, and handed to a function at first."""
    connect = outbox._database.connect

    def connecting() -> sqlite3.Connection:
        connection = connect()
        watch(connection)
        return connection

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outbox._database, "connect", connecting)
        patched.setattr(outbox._database, "_readers", [])
        yield


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row, as a witness tells it."""

    ref: int
    attempt: int = 1  #: the number of the try
    state: State | None = None
    attempts: int | None = None
    last_status: int | None = None
    http_status: int | None = None
    last_message: str | None = None
    fault: Fault | None = None
    schedule_time: int | None = None
    last_attempt_time: int | None = None
    duration: int | None = None
    reason: str | None = None


_FACTS = {State.SUCCEEDED: Fact.ANSWERED, State.FAILED: Fact.LAST_FAILED, State.GONE: Fact.LEFT}
_looks = count(1)


def record_outcomes(outbox: Outbox, batch: str, outcomes: Iterable[Outcome]) -> Recorded:
    """Record outcomes: the queue tells that a task is gone, the handler what it said, and the log the rest."""
    evidence = []
    for one in outcomes:
        if one.state is State.CANCELLED:
            put(outbox, batch, one.ref, State.CANCELLED)
            continue
        found = outbox.rows.tasks(batch, [one.ref])
        if not found:
            continue  # it never was a task
        newest = found[0]
        fact = None if one.state is None else _FACTS.get(one.state)
        usual: dict[State | None, int] = {State.SUCCEEDED: 0, State.FAILED: 13}
        gone, said = one.state is State.GONE, bool(one.last_message or one.http_status)
        evidence.append(
            Evidence(
                task=task_id(batch, key_head(newest).ljust(KEY_SIZE), one.attempt),
                source=Source.QUEUE if gone else Source.RESULTS if said else Source.LOG,
                fact=fact,
                seen=next(_looks) if gone else None,
                reason=one.reason,
                attempts=one.attempts,
                status=usual.get(one.state) if one.last_status is None else one.last_status,
                http=one.http_status,
                message=one.last_message,
                fault=one.fault,
                due=one.schedule_time,
                began=one.last_attempt_time,
                duration=one.duration,
            )
        )
    return outbox.outcomes.record(batch, evidence)


def tell(outbox: Outbox, batch: str, rows: int | Iterable[int], **outcome: Any) -> Recorded:
    """Record one outcome of all of these rows."""
    refs = [rows] if isinstance(rows, int) else rows
    return record_outcomes(outbox, batch, [Outcome(ref=ref, **outcome) for ref in refs])


def put(outbox: Outbox, batch: str, rows: int | Iterable[int], state: State) -> None:
    """Bring rows into a state, without asking whether that can be."""
    for ref in [rows] if isinstance(rows, int) else rows:
        with closing(sqlite3.connect(outbox.path)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")  # from the first reading on: others record what they see meanwhile
            fact, last = _FACTS.get(state), LAST if state is State.FAILED else None
            with counted(connection, "ref = ?", (ref,)):
                values = state, fact, last, ref
                connection.execute("UPDATE rows SET state = ?, fact = ?, heard = ? WHERE ref = ?", values)


class FakeClock(Clock):
    """Time that passes only while somebody sleeps, or when it is set."""

    def __init__(self) -> None:
        self.time = NOW
        self.elapsed = 0.0

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self.time

    def ticks(self) -> float:
        """Return the seconds that have passed."""
        return self.elapsed

    def advance(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.time += seconds
        self.elapsed += seconds

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.advance(seconds)
        await asyncio.sleep(0)


class FakeObserver:
    """Keeps what a sender reports.

    Parameters
    ----------
    created : mapping
        Whether tasks that are not in the queue were created, by their ids.
    """

    until: int | None = None  #: the last ref whose row may be sent

    def __init__(self, created: Mapping[str, bool | None] | None = None) -> None:
        self.created = created or {}
        self.reports: list[Report] = []
        self.asked: list[str] = []

    @property
    def sent(self) -> int:
        """The rows that were reported as sent."""
        return sum(report.sent for report in self.reports)

    @property
    def errors(self) -> list[CloudTasksError]:
        """The errors after which it was tried again."""
        return [report.error for report in self.reports if report.error]

    async def were_created(self, tasks: Sequence[str], since: float) -> Mapping[str, bool | None]:  # noqa: ARG002 - as a sender calls it
        """Answer as it was made to."""
        self.asked += tasks
        return self.created


def error(code: str, text: str = "scripted") -> CloudTasksError:
    """Return what a channel raises for a code."""
    kind = UnavailableError if code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"} else ServiceError
    return kind(f"{code}: {text}", code=code)


def _nothing(rpc: str, number: int) -> None:
    """Let a call happen."""


def _accept(name: str) -> tuple[str, str] | None:
    """Refuse nothing."""


@dataclass(eq=False, kw_only=True)
class Service:
    """Cloud Tasks as far as a sender sees it: a task's name can be used once.

    Parameters
    ----------
    before, after : callable
        Called with the RPC and its number, before a call has its effect and after that; raise what goes wrong.
    refuse : callable
        Called with a task's name; returns code and text if the task is refused, else None.
    batching : bool
        Whether it knows `BatchCreateTasks`.
    unfinished : int
        How often an operation is looked at before it is done; -1: it never is, and nothing is created.
    new : bool
        Whether the queue was just created.
    """

    before: Callable[[str, int], None] = _nothing
    after: Callable[[str, int], None] = _nothing
    refuse: Callable[[str], tuple[str, str] | None] = _accept
    batching: bool = True
    unfinished: int = 0
    new: bool = False
    google = False
    endpoint = SimpleNamespace(target="127.0.0.1:8123")

    def __post_init__(self) -> None:
        self.created: Counter[str] = Counter()  # short id -> times created
        self.live: set[str] = set()
        self.named: set[str] = set()  # the queues that calls were about
        self.calls: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.flying = self.most = 0
        self.requests: dict[str, bytes] = {}
        self.operations: dict[str, list[Any]] = {}

    async def raw(self, rpc: str, request: bytes, *, resource_name: str) -> bytes:
        """Answer one call."""
        self.calls[rpc] += 1
        self.named.add(resource_name)
        number = self.calls[rpc]
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await asyncio.sleep(0)
            self.before(rpc, number)
            answer = self._answer(rpc, request)
            self.after(rpc, number)
            return answer
        finally:
            self.flying -= 1

    def is_new(self, _queue: str) -> bool:
        """Return whether the queue was just created."""
        return self.new

    def refused(self, rpc: str, status: Any, *, resource_name: str) -> CloudTasksError:
        """Return the error for a part of a batch call."""
        self.named.add(resource_name)
        return PermissionDeniedError(f"{rpc}: {status.message}", code=code_name(status.code))

    def create(self, name: str) -> tuple[str, str] | None:
        """Create a task; returns code and text if it fails."""
        short = name.rpartition("/")[2]
        if refused := self.refuse(short):
            return refused
        if short in self.created:
            return "ALREADY_EXISTS", "Requested entity already exists"
        self.created[short] += 1
        self.live.add(short)
        return None

    def _answer(self, rpc: str, request: bytes) -> bytes:
        if rpc == "BatchCreateTasks":
            return self._batch(request)
        if rpc == "GetOperation":
            return self._operation(types.GetTaskRequest.pb().FromString(request).name)
        if rpc == "CreateTask":
            name = _Create.FromString(request).task.name
            if failed := self.create(name):
                raise error(*failed)
            return b""
        name = types.GetTaskRequest.pb().FromString(request).name
        if name.rpartition("/")[2] not in self.live:
            raise error("NOT_FOUND", "Requested entity was not found.")
        return bytes(_Task(name=name).SerializeToString())

    def _batch(self, request: bytes) -> bytes:
        if not self.batching:
            raise error("UNIMPLEMENTED")
        message = _Batch.FromString(request)
        self.sizes.append(len(message.requests))
        assert self.requests.setdefault(message.request_id, request) == request, "one id for two requests"
        name = f"projects/p/locations/l/operations/{message.request_id}"
        if name not in self.operations:
            names = [one.task.name for one in message.requests]
            failed = {} if self.unfinished < 0 else {i: bad for i, n in enumerate(names) if (bad := self.create(n))}
            self.operations[name] = [self.unfinished, failed]
        return self._operation(name)

    def _operation(self, name: str) -> bytes:
        left, failed = self.operations[name]
        operation = operations_pb2.Operation(name=name, done=left == 0)
        if left == 0:
            metadata = _Metadata(state=5 if failed else 2)
            for index, (code, text) in failed.items():
                metadata.failed_requests[index].code = CODES.index(code)
                metadata.failed_requests[index].message = text
            operation.metadata.Pack(metadata)
        elif left > 0:
            self.operations[name][0] -= 1
        return bytes(operation.SerializeToString())


class EmptyLog:
    """The part of a watcher that reads the log, where other homes have left no entry."""

    def now(self) -> int:
        """Return the time of the service, which is that of this machine."""
        return now_micros()

    async def is_logged(self, *_: Any, **__: Any) -> bool:
        """Have no entry of another home."""
        return False

    async def task_log(self, *_: Any, **__: Any) -> AsyncIterator[list[Entry]]:
        """Have no entry of another home."""
        for _page in range(0):
            yield []


@dataclass
class FakeWatcher(EmptyLog):
    """A fake watcher: the test publishes its snapshots."""

    subscribed: list[Any] = field(default_factory=list)
    refreshed: list[str] = field(default_factory=list)
    there: dict[str, Pending | None] = field(default_factory=dict)  # what a lookup finds
    asked: list[str] = field(default_factory=list)  # what was looked up

    def subscribe(
        self, queue: QueueName, listener: Callable[[Snapshot], None], *, since: int | None = None, every: float = 1.0
    ) -> Any:
        """Remember a subscription until it is closed."""

        def close() -> None:
            if one in self.subscribed:
                self.subscribed.remove(one)

        one = SimpleNamespace(queue=queue, listener=listener, since=since, every=every, close=close)
        self.subscribed.append(one)
        return one

    def refresh(self, queue: QueueName) -> None:
        """Record the call."""
        self.refreshed.append(queue.queue)

    async def lookup(self, _queue: QueueName, tasks: list[str]) -> dict[str, Pending | None]:
        """Return what the test put into `there`."""
        self.asked += tasks
        return {task: self.there.get(task) for task in tasks}

    async def pages(self, _queue: QueueName) -> AsyncIterator[dict[str, Pending]]:
        """Yield what the test put into `there`."""
        yield {task: pending for task, pending in self.there.items() if pending is not None}

    async def read_queue(self, _queue: QueueName) -> dict[str, Any]:
        """Return settings of a queue."""
        return {"state": "RUNNING", "max_attempts": 1, "log_sampling_ratio": 1.0}

    def publish(self, seen: Snapshot) -> None:
        """Call the listeners of a queue with a snapshot."""
        for one in [one for one in self.subscribed if one.queue == seen.queue]:
            one.listener(seen)


class Sent(NamedTuple):
    """Rows after a sending."""

    sent: int  #: by this sending
    already_there: int  #: of these, the tasks that existed before
    rejected: int


async def send(
    outbox: Outbox, batch: str, service: Any, clock: Any = None, observer: FakeObserver | None = None, **options: Any
) -> Sent:
    """Send a batch, on a clock that does not make anybody wait, and let an observer see it."""
    observer = observer or FakeObserver()
    before = observer.sent
    sender = Sender(
        outbox=outbox,
        record=outbox.batches.get(batch),
        key=b"key",
        transport=service,
        report=observer.reports.append,
        until=lambda: observer.until,
        were_created=observer.were_created,
        clock=clock or FakeClock(),
        **options,
    )
    already = await sender.run()
    return Sent(observer.sent - before, already, outbox.batches.counts(whole(batch))[State.REJECTED])


def run_send(*words: Any, **options: Any) -> Sent:
    """Send a batch as `send` does, and wait for the end."""
    return asyncio.run(send(*words, **options))


def raising(code: str, times: int | range = 3, rpc: str = "BatchCreateTasks") -> Callable[[str, int], None]:
    """Return what makes some calls fail: the first ones, or those of a range."""
    numbers = range(1, times + 1) if isinstance(times, int) else times

    def fail(called: str, number: int) -> None:
        if called == rpc and number in numbers:
            raise error(code)

    return fail


def assert_each_once(outbox: Outbox, batch: str, service: Service, rows: int = 1_250) -> None:
    """Every row is sent, and its task was created once."""
    assert outbox.batches.counts(whole(batch))[State.SENT] == rows
    assert dict(service.created) == dict.fromkeys(all_rows(outbox, batch, "tasks"), 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an outbox can be."""
    return tmp_path / "home" / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    """Return an empty outbox."""
    with Outbox(path) as made:
        yield made


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of 250 rows, none sent."""
    return spool(outbox, chunks(range(250))).batch

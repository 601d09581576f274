"""A batch under kernels, stores and a service with faults, compared with what became of its tasks.

The world of `tests/simulation` runs the toolkit's own code from the public verbs down to the serialized requests, and
the emulator's engine, on a simulated clock. A home is a folder; it has one kernel at a time, which can be killed,
stopped, put to sleep, copied, restored from a backup, or have a wrong clock. Verbs, faults and time are the rules.

What is compared after each step:

- each task was created at most once, and no row has more tries than somebody wished;
- nothing is created after a cancel that is final, nothing beyond a canary that has not succeeded, and by a kernel that
  has paused the sending nothing before somebody wishes it there;
- `retry_failed` opens a new try of each row that was shown as failed, and of none that has succeeded; `resend` of each
  that has ended;
- `status`, `progress` and `tasks` of each kernel say the same;
- a row has succeeded only if its target has said so, failed only after its last attempt, and is cancelled only if that
  was wished.

And at the end, after the faults: no row is open whose task has left the queue, none has ended whose task is there, and
none failed or is gone of which a result is stored. If the log has everything, what `tasks` says of each row is what
`fold` makes of log and queue.

What is not covered: interrupts and damage (`outbox/test_outbox_machine.py`), large batches, Google's own behaviour,
two kernels of a home at once, functions that change (`integration/fanout/test_two_homes.py`).
"""

import asyncio
import datetime as dt
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudtasks_nb import _loop
from cloudtasks_nb._names import ROW_TASK, TAG_HEADER, QueueName
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import BatchNotFoundError, BatchTimeoutError, CloudTasksError, QueueNotFoundError
from cloudtasks_nb.fanout.batch.witnesses import Limit, Log, pending_evidence
from cloudtasks_nb.fanout.evidence import Evidence, Row, Source, fold
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.results import ResultWriter, StoredResult
from cloudtasks_nb.store.store import Store
from tests.simulation.cloud import Cloud, Delivery
from tests.simulation.kernel import Kernel, copy_home, faulty_stores
from tests.simulation.world import START, Process, World

HOMES = st.sampled_from(["ada", "bob"])
ROWS_OF_ALL = range(8)
ROWS = st.sampled_from([ROWS_OF_ALL, range(4), range(2, 10)])
#: The share of its operations that the queue logs.
RATIOS = st.sampled_from([1.0, 1.0, 0.5, 0.0])
BROKEN = st.sampled_from([(), (), (1, 3), range(10)])
CANARY = 2
#: The failed rows at which the sending pauses.
PAUSES = st.sampled_from([None, 2])
NAME, QUEUE = "march", "q"
ENDED = ("unsent", "succeeded", "failed", "rejected", "cancelled", "gone")
HOUR = 3600.0
#: Where files cost no waiting for a disk.
MEMORY = Path("/dev/shm")  # noqa: S108 - each has a folder of its own in it
#: Seconds after which what was stored is counted.
SOON = 0.2
#: Seconds in which another kernel that runs learns of a cancel.
LEARNS = 4.0
#: Entries of the log that can be read late: their share, and microseconds.
LATE = ((0.3, 5_000_000),)
#: With what a call is refused; but for the first one so are those that follow.
REFUSED = {"refused": "UNAVAILABLE", "down": "UNAVAILABLE", "denied": "PERMISSION_DENIED"}


#: What runs without `--hypothesis-profile=long`: the same examples each time, more of them in CI.
FEW: dict[str, Any] = {
    "max_examples": 300 if "CI" in os.environ else 20,
    "stateful_step_count": 10,
    "derandomize": True,
}


def _try_of(task: str) -> int:
    match = ROW_TASK.fullmatch(task)
    return int(match["try"]) if match else 0


class Batches(RuleBasedStateMachine):
    """One batch, its homes, the service, and what was wished."""

    #: Whether kernels outlive hours, and a cancel is final while another kernel is stopped: see the tests at the end.
    gaps = False

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(tempfile.mkdtemp(prefix="batches-", dir=MEMORY if MEMORY.is_dir() else None))
        self.stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.world = World()
        self.faults: dict[Process, str] = {}
        self.stack.enter_context(faulty_stores(self.world, self.faults))
        self.files = self.stack.enter_context(ExitStack())
        self.stack.enter_context(self.world.patched())
        self.kernels: dict[str, Kernel] = {}
        self.stopped: dict[str, Any] = {}
        self.broken: Sequence[int] = ()
        self.rpcs: dict[str, str] = {}  # the fault of the next call
        self.succeeded = dict[int, float]()  # when a row succeeded first
        self.tries = Counter[int]()  # tries of each row that were wished
        self.risked = dict[str, set[int]]()  # rows that a home was wished to send though they may have been sent
        self.rates = dict[str, tuple[float, float]]()  # of a home: rows a second, and since when
        self.checked = 0  # creations
        self.final: float | None = None  # from when on nothing may be created
        self.lifted = False  # the canary
        self.wished = self.cancelled = False  # a cancel; it was final
        self.again_in = set[str]()
        self.paused = set[str]()  # homes that have said that the sending is paused, and were wished nothing since then
        self.emptied = False  # the queue was purged or deleted
        self.answers = dict[str, list[int]]()  # of a task
        self.lags = 0.0  # seconds until a result is stored

    @initialize(
        canary=st.booleans(),
        ratio=RATIOS,
        late=st.sampled_from([False, False, True]),
        stores=st.booleans(),
        pause_at=PAUSES,
    )
    def begin(
        self,
        *,
        canary: bool = False,
        ratio: float = 1.0,
        late: bool | int = False,
        stores: bool = False,
        pause_at: int | None = None,
    ) -> None:
        """Choose the options of the batch, and what tells of its tasks."""
        self.canary, self.ratio, self.pause_at = canary, ratio, pause_at
        self.writer = ResultWriter(Store(self.root / "store")) if stores else None
        self.service = Process(self.world, self.root / "cloud")
        delays = ((1.0, late),) if late > 1 else LATE if late else ()  # of all entries, in microseconds
        known = Settings(quiet=True, log_index_delays=delays)
        self.cloud = Cloud(self.service, self.answer, settings=known, before=self.before, after=self.after)
        self.files.callback(self.cloud.close)
        self.oracle = self.kernel("oracle")
        self.oracle.do(lambda tasks: tasks.queue(QUEUE, create=True, max_attempts=2, log_sampling_ratio=ratio))

    def answer(self, delivery: Delivery) -> int:
        """Be the target."""
        status = 500 if delivery.body["n"] in self.broken else 200
        self.answers.setdefault(delivery.task, []).append(status)
        if status == 200:
            self.succeeded.setdefault(delivery.body["n"], delivery.at)
        if self.writer is not None:
            error = "Traceback\nKeyError: 1" if status == 500 else None
            tag, at = delivery.headers[TAG_HEADER.lower()], dt.datetime.fromtimestamp(START + delivery.at, dt.UTC)
            facts: dict[str, Any] = {"attempt": delivery.attempt, "started": at, "duration": 0.2, "tag": tag}
            result = StoredResult(task=delivery.task, status=status, result=None, error=error, **facts)
            self.service.loop.call_later(self.lags, self.writer.put, result)
        return status

    def before(self, _caller: Process, rpc: str) -> float:
        """Refuse a call."""
        if (fault := self.rpcs.get(rpc)) in REFUSED:
            if fault == "refused":
                del self.rpcs[rpc]
            raise RefusedError(REFUSED[fault], "Try again.")
        return 0.01

    def after(self, _caller: Process, rpc: str) -> float:
        """Lose an answer, or have it come late."""
        fault = None if self.rpcs.get(rpc) in REFUSED else self.rpcs.pop(rpc, None)
        if fault == "lost":
            raise RefusedError("UNAVAILABLE", "The connection was reset.")
        return 0.01 if fault is None else 25.0

    def kernel(self, home: str, ahead: float = 0.0) -> Kernel:
        """Return the kernel of a home, which is started if there is none."""
        if home not in self.kernels:
            self.kernels[home] = Kernel(self.cloud, self.root / home, self.root / "store", ahead)
            self.files.callback(self.kernels[home].close)
        return self.kernels[home]

    def open(self, home: str) -> Any:
        """Open the batch; None if it is known nowhere."""
        try:
            return self.kernel(home).do(lambda tasks: tasks.batch(NAME))
        except BatchNotFoundError:
            return None

    def runs(self, home: str) -> bool:
        """Return whether the home can take a step."""
        return home not in self.stopped

    # Verbs

    @precondition(lambda self: not self.cancelled)
    @rule(
        home=HOMES, rows=ROWS, rate=st.sampled_from([None, 0.5, 4]), ahead=st.sampled_from([0.0, 0.0, -HOUR, 2 * HOUR])
    )
    def cell(self, home: str, rows: range = ROWS_OF_ALL, rate: float | None = None, ahead: float = 0.0) -> None:
        """Run the cell that makes the batch."""
        if not self.runs(home):
            return
        rows = ROWS_OF_ALL if self.canary else rows
        frame = pd.DataFrame({"n": rows})
        options: dict[str, Any] = {"canary": CANARY} if self.canary else {}
        options |= {"send_rate": rate} if rate else {}
        options |= {"pause_at": self.pause_at} if self.pause_at else {}

        def run(tasks: Client) -> None:
            url = "https://target.example/{n}"
            tasks.queue(QUEUE).fan_out(frame, url=url, body=["n"], name=NAME, progress=False, **options)

        self.kernel(home, ahead)
        self.paused.discard(home)
        if self.verb(home, run):
            self.rates[home] = rate or math.inf, self.world.elapsed
        for row in rows:
            self.tries[row] = max(self.tries[row], 1)

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES, name=st.sampled_from(["retry_failed", "resend", "resume"]))
    def again(self, home: str, name: str) -> None:
        """Send rows again, or what is held."""
        if not self.runs(home) or (batch := self.open(home)) is None:
            return
        shown = self.kernels[home].do(lambda _: batch.tasks())
        self.paused.discard(home)
        self.again_in.add(home)
        for row, state in shown[["n", "state"]].itertuples(index=False):
            self.tries[row] += name == "resend" or (name == "retry_failed" and state != "succeeded")
        if name == "resume":
            self.lifted, held = True, batch.status().state == "held"
            self.risked.setdefault(home, set()).update(shown["n"][shown["state"] == "unsent"] if held else ())
        self.final = None
        columns, ended = ["n", "state", "try"], {"failed"} if name == "retry_failed" else {*ENDED[1:]}
        if self.ratio < 1 and name != "resume":  # another home may have sent that try, and nothing tells of it
            self.risked.setdefault(home, set()).update(shown.loc[shown["state"].isin(ended), "n"])
        if self.verb(home, lambda _: getattr(batch, name)(*([shown] if name == "resend" else []))) and name != "resume":
            after = self.kernels[home].do(lambda _: batch.tasks())[columns]
            same = shown.loc[shown["state"].isin(ended), columns].merge(after)
            assert same.empty, f"rows {same['n'].tolist()} are not sent again"

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES)
    def cancel(self, home: str) -> None:
        """Cancel, and wait until that is final."""
        if not self.runs(home) or (batch := self.open(home)) is None or (self.stopped and not self.gaps):
            return
        self.wished = True
        if self.verb(home, lambda _: batch.cancel().wait("300s")):
            self.cancelled, others = True, {*self.kernels} - {home, "oracle"} - self.stopped.keys()
            self.final = self.world.elapsed + (LEARNS if others else 0)

    def verb(self, home: str, call: Any) -> bool:
        """Call a verb; return whether it was not refused."""
        try:
            self.kernels[home].do(call)
        except CloudTasksError:
            return False
        return True

    # Time and faults

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0, 70.0]))
    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.world.go_on(seconds)

    @rule(rows=BROKEN)
    def edit(self, rows: Sequence[int]) -> None:
        """Have the target fail for some rows from now on."""
        self.broken = rows

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES)
    def kill(self, home: str) -> None:
        """Kill a kernel."""
        self.go(home)
        if home in self.kernels:
            self.kernels.pop(home).process.kill()

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES, asleep=st.booleans())
    def stop(self, home: str, *, asleep: bool) -> None:
        """Stop a kernel, or suspend its machine."""
        if home in self.kernels and self.runs(home):
            self.stopped[home] = ExitStack()
            self.stopped[home].enter_context(self.world.stopped(self.kernels[home].process, asleep=asleep))

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES)
    def go(self, home: str) -> None:
        """Have a kernel go on."""
        if home in self.stopped:
            self.stopped.pop(home).close()

    @precondition(lambda self: bool(self.tries))
    @rule()
    def hours(self) -> None:
        """Let two hours go by, in which no kernel runs."""
        for home in () if self.gaps else ("ada", "bob"):
            self.kill(home)
        with self.world.stopped(*(kernel.process for home, kernel in self.kernels.items() if self.runs(home))):
            self.world.go_on(2 * HOUR)

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES, fault=st.sampled_from(["slow", "read-only", "failing", "stale", "down", ""]))
    def store(self, home: str, fault: str) -> None:
        """Give the store a fault, as a home sees it."""
        if home in self.kernels:
            self.faults[self.kernels[home].process] = fault

    @rule(
        rpc=st.sampled_from(["BatchCreateTasks", "ListLogEntries", "BatchDeleteTasks", "ListTasks"]),
        fault=st.sampled_from(["lost", "late", *REFUSED]),
    )
    def call(self, rpc: str, fault: str) -> None:
        """Give the next call of the service a fault, or all until it has another one."""
        self.rpcs[rpc] = fault

    @rule(takes=st.sampled_from([0.2, 20.0]), lags=st.sampled_from([0.0, 40.0]))
    def slow(self, takes: float, lags: float) -> None:
        """Have the target answer slowly from now on, or its results come late."""
        self.cloud.takes, self.lags = takes, lags

    @precondition(lambda self: bool(self.tries))
    @rule(verb=st.sampled_from(["pause", "pause", "resume", "resume", "purge", "delete"]))
    def queue(self, verb: str) -> None:
        """Have a colleague change the queue."""
        if self.verb("oracle", lambda tasks: getattr(tasks.queue(QUEUE), verb)()) and verb in {"purge", "delete"}:
            self.emptied = True

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES, to=HOMES)
    def copy(self, home: str, to: str) -> None:
        """Copy a home into another one, which begins with that."""
        if home != to and (self.root / home).exists():
            self.kill(to)
            copy_home(self.root / home, self.root / to)
            self.paused.discard(to)
            self.rates.pop(to, None)  # it may have a batch of another rate

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES)
    def backup(self, home: str) -> None:
        """Make a backup of a home."""
        if (self.root / home).exists():
            copy_home(self.root / home, self.root / f"{home}-backup")

    @precondition(lambda self: bool(self.tries))
    @rule(home=HOMES)
    def restore(self, home: str) -> None:
        """Restore a home from its backup."""
        if (self.root / f"{home}-backup").exists():
            self.kill(home)
            copy_home(self.root / f"{home}-backup", self.root / home)
            self.paused.discard(home)
            self.rates.pop(home, None)

    # What is compared

    @invariant()
    def created_as_wished(self) -> None:
        """Compare the creations since the last step with what was wished."""
        if not hasattr(self, "cloud"):
            return
        done, names = self.cloud.creations, Counter(one.task for one in self.cloud.creations)
        for one in done[self.checked :]:
            row, home = int(one.url.rpartition("/")[2]), one.caller.home.name
            known = names[one.task] == 1 or row in self.risked.get(home, ())
            assert known, f"row {row} was sent twice as {one.task}"
            assert _try_of(one.task) <= self.tries[row] or not self.tries[row], f"row {row} has too many tries"
            assert self.final is None or one.at <= self.final, f"row {row} was sent after the cancel was final"
            assert home not in self.paused, f"row {row} was sent while the sending was paused"
            if self.canary and not self.lifted and row >= CANARY:
                early = {canary for canary, at in self.succeeded.items() if at <= one.at}
                assert early >= {*range(CANARY)}, f"row {row} was sent before the canary had succeeded"
            rate, since = self.rates.get(home, (math.inf, 0))
            last = [
                other for other in done if other.caller is one.caller and max(since, one.at - 10) < other.at <= one.at
            ]
            assert len(last) <= 10 * rate + max(rate, 1) + 1, f"{home} has sent {len(last)} rows in 10 s"
        self.checked = len(done)

    @invariant()
    def views_agree(self) -> None:
        """Compare what the views of a kernel say at one time."""
        for home in ("ada", "bob"):
            if home in self.kernels and self.runs(home) and not self.faults.get(self.kernels[home].process):
                self.kernels[home].do(self.compare)

    def compare(self, tasks: Client) -> None:
        """Compare the views of one kernel."""
        listed = tasks.batches()
        for name in listed.index:
            batch = tasks.batch(name)
            for pause in (SOON, 0.0):
                shown, progress, status = batch.tasks(), batch.progress(), batch.status()
                counts = Counter(state if state in ENDED else "sent" for state in shown["state"])
                agree = all(getattr(progress, state) in {None, counts[state]} for state in ENDED)
                if agree:
                    break
                _loop.run(asyncio.sleep(pause))  # what has just been sent is counted in a moment
            assert agree, f"{progress} and {counts}"
            assert progress.status == status
            if (status.reason or "").startswith("paused") and self.world.current:
                self.paused.add(self.world.current.home.name)
            if self.pause_at and not self.again_in and not self.wished and counts["unsent"] and not self.canary:
                assert counts["failed"] < self.pause_at or status.state == "held", f"{status} with {counts}"
            assert progress.total == len(shown)
            assert progress.finished == (not counts["sent"] and not counts["unsent"]) or progress.succeeded is None
            for row, state, task in shown[["n", "state", "task"]].itertuples(index=False):
                answers = self.answers.get(task, [])
                assert state != "succeeded" or 200 in answers, f"row {row} has not succeeded"
                assert state != "failed" or answers == [500, 500], f"row {row} has not failed: {answers}"
                assert state != "cancelled" or self.wished, f"row {row} was not cancelled"

    def teardown(self) -> None:
        """Let the faults end and all kernels open the batch; then compare each row with all evidence."""
        try:
            if hasattr(self, "cloud"):
                self.settle()
            assert not self.world.unhandled
        finally:
            self.stack.close()

    def settle(self) -> None:
        """Compare at the end."""
        self.rpcs.clear()
        self.faults.clear()
        self.slow(takes=0.2, lags=0.0)
        for home in [*self.stopped]:
            self.go(home)
        for home in ("ada", "bob"):
            self.open(home)
        self.world.go_on(120)  # results come 40 s late, and are searched for each half minute
        self.created_as_wished()
        for home in ("ada", "bob"):
            if (batch := self.open(home)) is not None:
                self.world.go_on(5)
                self.kernels[home].do(self.compare)
                shown, told = self.settled(home, batch)
                for row, state, task in shown[["n", "state", "task"]].itertuples(index=False):
                    self.true(self.kernels[home].process, row, state, task, [one for one in told if one.task == task])

    def settled(self, home: str, batch: Any) -> tuple[pd.DataFrame, list[Evidence]]:
        """Return rows and evidence as soon as it is told what became of each task that has left the queue."""
        for _ in range(15):
            told, shown = self.evidence(), self.kernels[home].do(lambda _: batch.tasks())
            left = {one.task for one in self.cloud.creations} - {one.task for one in told if one.source is Source.QUEUE}
            known = shown["state"].isin(ENDED) | ~shown["task"].isin(left)
            if known.all() or batch.status().state in {
                "stopped",
                "held",
            }:  # a sender finds out what one before has sent
                return shown, told
            self.world.go_on(60)
        raise AssertionError(f"tasks have left the queue of the open rows {shown['n'][~known].tolist()}")

    def true(self, process: Process, row: int, state: str, task: str, told: list[Evidence]) -> None:
        """Compare the state of a row, as a process has it, with what all evidence tells of its task."""
        there = any(one.source is Source.QUEUE for one in told)
        assert not there or state not in ENDED[1:], f"the task of row {row} is in the queue, and the row is {state}"
        stored = not self.emptied and self.writer is not None and 200 in self.answers.get(task, [])
        assert not stored or state not in {"gone", "failed"}, f"row {row} has a result, and is {state}"
        if self.ratio < 1 or self.emptied:
            return  # what no witness tells, no home knows
        if not told or (state == "unsent" and {one.source for one in told} == {Source.QUEUE}):
            return  # who had opened the batch before does not see what waits in a paused queue
        assert state != "unsent", f"row {row} is no more unsent"
        number = _try_of(task)
        begun = [] if self.cancelled else [Row(ref=1, tries=number, state=State.SENT)]
        begun += [Row(ref=1, tries=number, state=State.SENT, deleting=number)] if self.wished else []
        if self.wished and task not in {one.task for one in self.cloud.creations if one.caller is process}:
            begun.append(Row(ref=1, tries=number, state=State.CANCELLED))  # before it knew of the task
        ends = {State(reduce(lambda row, one: fold(row, one, number, None), told, row).state) for row in begun}
        expected = {end.name.lower() for end in ends}
        assert (state if state in ENDED else "sent") in expected, f"row {row} is {expected}, not {state}"

    def evidence(self) -> list[Evidence]:
        """Return what log and queue tell."""
        if not self.cloud.creations:
            return []
        name = QueueName.parse(f"{self.oracle.connection.endpoint.parent()}/queues/{QUEUE}")
        watcher, limit = self.oracle.connection.watcher, Limit({}, {"max_attempts": 2})

        async def read() -> list[Evidence]:
            batch = next(one.task for one in self.cloud.creations).split("-")[1]
            log = Log(watcher, name, batch, limit)
            found = [one async for page in log.read(None, 0) for one in page]
            with suppress(QueueNotFoundError):
                async for pending in watcher.pages(name):
                    found += [pending_evidence(task, one, watcher.now()) for task, one in pending.items()]
            return found

        return self.oracle.do(lambda _: self.oracle.process.run(read()))


@pytest.fixture
def state() -> Iterator[Batches]:
    """Give a batch in which nothing has happened, and which lets gaps happen."""
    made = Batches()
    made.gaps = True
    yield made
    made.stack.close()


@pytest.mark.parametrize("words", [{}, {"ratio": 0.0, "stores": True}], ids=["log", "results"])
def test_a_home_that_was_stopped_for_hours_sends_nothing_again(state: Batches, words: dict[str, Any]) -> None:
    """What another one has sent meanwhile is in the log, or in the results."""
    state.begin(**words)
    state.cell("ada", rate=0.5)
    state.wait(1.0)
    state.stop("ada", asleep=False)
    state.cell("bob")
    state.again("bob", "resume")
    state.wait(70.0)
    state.go("ada")
    state.hours()
    state.wait(70.0)
    assert len(state.cloud.creations) >= len(ROWS_OF_ALL)
    state.created_as_wished()


def test_a_home_that_was_stopped_sends_nothing_past_a_cancel(state: Batches) -> None:
    """It was final in the other home."""
    state.begin()
    state.cell("ada", rate=4)
    state.wait(0.3)
    state.stop("ada", asleep=True)
    state.cancel("bob")
    state.go("ada")
    state.wait(5.0)
    assert state.final is not None
    state.created_as_wished()


def test_an_attempt_that_runs_when_its_task_is_deleted_is_not_recalled(state: Batches) -> None:
    """Its row is cancelled, and the log entry of its success corrects that."""
    state.begin()
    state.slow(takes=20.0, lags=0.0)
    state.cell("ada")
    state.wait(5.0)
    state.cancel("ada")
    batch = state.open("ada")
    assert batch.progress().cancelled == len(ROWS_OF_ALL)
    state.wait(20.0)
    assert batch.progress().succeeded == len(ROWS_OF_ALL)


@pytest.mark.parametrize("home", ["ada", "bob"])
def test_a_kernel_that_comes_after_a_cancel_reads_what_the_log_tells_late(state: Batches, home: str) -> None:
    """The kernel that has cancelled ended before, or its home was copied."""
    state.begin(late=20_000_000)
    state.cell("ada")
    state.wait(0.3)
    state.cancel("bob")
    state.wait(1.0)
    state.kill("bob")
    state.copy("bob", home)
    batch = state.open(home)
    assert batch.progress().cancelled == len(ROWS_OF_ALL)
    state.cancel(home)
    state.wait(70.0)
    assert batch.progress().succeeded == len(ROWS_OF_ALL)


def test_who_owns_a_batch_after_a_cancel_finishes_that(state: Batches) -> None:
    """The home that has cancelled it ended before it could delete the tasks."""
    state.begin()
    state.queue("pause")
    state.cell("ada", rows=range(4))
    state.wait(5.0)
    state.call("BatchDeleteTasks", "down")
    batch = state.open("bob")
    state.kernels["bob"].do(lambda _: batch.cancel())
    state.wait(5.0)
    state.kill("bob")
    state.rpcs.clear()
    state.wait(150.0)
    state.cell("ada")
    state.wait(30.0)
    state.queue("resume")
    state.wait(30.0)
    assert state.succeeded.keys() == {*range(4, 8)}


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_cancel_deletes_at_once_what_another_home_has_sent(state: Batches, ratio: float) -> None:
    """It does not wait until that home can send no more, and finds tasks that no log has."""
    state.begin(ratio=ratio)
    state.queue("pause")
    state.cell("ada", rate=0.5)
    state.wait(1.0)
    batch = state.open("bob")
    state.kernels["bob"].do(lambda _: batch.progress())
    state.wait(4.0)
    state.stop("ada", asleep=False)
    state.kernels["bob"].do(lambda _: batch.cancel())
    state.wait(30.0)
    assert len(state.cloud.creations) > 1
    assert not [one for one in state.evidence() if one.source is Source.QUEUE]


def test_a_cancel_is_not_final_while_its_home_cannot_list_what_others_have_sent(state: Batches) -> None:
    """It says what it lacks."""
    state.begin(ratio=0.0)
    state.queue("pause")
    state.cell("ada")
    state.wait(5.0)
    state.call("ListTasks", "denied")
    batch = state.open("bob")
    with pytest.raises(BatchTimeoutError):
        state.kernels["bob"].do(lambda _: batch.cancel().wait("300s"))
    assert "tasks of other homes may be left" in str(batch.status().reason)
    state.rpcs.clear()
    state.kernels["bob"].do(lambda _: batch.cancel().wait("300s"))
    assert batch.progress().cancelled == len(ROWS_OF_ALL)
    assert not [one for one in state.evidence() if one.source is Source.QUEUE]


def test_a_pause_holds_rows_until_they_are_wished(state: Batches) -> None:
    """Of all kernels of the home, which say so; failures count anew after that."""
    state.begin(pause_at=2)
    state.edit(ROWS_OF_ALL)
    state.cell("ada", rate=0.5)
    for _ in range(2):
        state.wait(70.0)
        state.views_agree()
        assert "paused: 2 of 2 rows failed" in str(state.open("ada").status().reason)
        sent = len(state.cloud.creations)
        state.kill("ada")
        state.open("ada")
        state.wait(70.0)
        assert len(state.cloud.creations) == sent < len(ROWS_OF_ALL)
        state.again("ada", "resume")
    state.edit([])
    state.wait(70.0)
    assert len(state.cloud.creations) == len(ROWS_OF_ALL)


def test_a_running_sending_takes_the_rate_of_a_later_cell(state: Batches) -> None:
    """Here a lower one; the model compares rates with creations."""
    state.begin()
    state.cell("ada", rate=4)
    state.cell("ada", rate=0.5)
    state.wait(5.0)
    state.created_as_wished()
    assert 1 < len(state.cloud.creations) < len(ROWS_OF_ALL)


def test_a_home_asks_where_nothing_tells_what_another_one_has_sent(state: Batches) -> None:
    """It sends rows that may have been sent only when that is wished."""
    state.begin(ratio=0.0)
    state.cell("ada")
    state.wait(5.0)
    state.kill("ada")
    state.hours()
    state.cell("bob")
    state.wait(70.0)
    status = state.open("bob").status()
    assert (status.state, status.action, len(state.cloud.creations)) == ("held", "batch.resume()", len(ROWS_OF_ALL))
    assert "8 rows may have been sent by" in status.reason
    state.again("bob", "resume")
    state.wait(70.0)
    assert len(state.cloud.creations) == 2 * len(ROWS_OF_ALL)


def test_a_row_whose_entry_comes_very_late_is_corrected(state: Batches) -> None:
    """Its task has left the queue, and for minutes nothing tells why."""
    state.begin(late=400_000_000)
    state.cell("ada")
    state.wait(180.0)
    state.call("ListLogEntries", "denied")
    state.wait(180.0)
    batch = state.open("ada")
    assert batch.progress().gone == len(ROWS_OF_ALL)
    state.rpcs.clear()
    state.wait(1_000.0)
    assert batch.progress().succeeded == len(ROWS_OF_ALL)
    assert "8 rows had another outcome first, corrected by log entries that came late" in repr(batch)


def test_a_verb_ends_while_the_store_is_down(state: Batches) -> None:
    """It reads what can be read, although the sending waits for the store."""
    state.begin(ratio=0.0)
    state.cell("ada")
    state.wait(5.0)
    state.store("ada", "down")
    state.again("ada", "resend")
    state.wait(5.0)
    began = state.world.elapsed
    state.again("ada", "retry_failed")
    assert state.world.elapsed - began < 60


TestBatches = Batches.TestCase
TestBatches.settings = settings(
    **({} if settings.default is settings.get_profile("long") else FEW),
    suppress_health_check=[*HealthCheck],
    phases=[Phase.generate],
    print_blob=True,
)

"""One round of chaos: a batch is sent, tried again or cancelled while processes are killed, and an oracle looks on.

The oracle is the target of the tasks. It knows which task of which row it was asked to run, and what it answered. At
the end, what the toolkit says of each row is compared with that.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests import web
from tests.benchmarks.callers import google_client
from tests.benchmarks.servers import Emulator
from tests.integration.conftest import Answer, Target
from tests.processes import free_port
from tests.proxy import Proxy

ROOT = Path(__file__).parents[2]
LOCATION = "projects/demo/locations/us-central1"
QUEUE = f"{LOCATION}/queues/chaos"
EVENTS = ("kill kernel", "kill emulator", "stop emulator", "stop kernel", "cut connections", "clock", "full disk")
#: Seconds after which a kernel that was left alone hangs.
PATIENCE = 240.0


@dataclass(slots=True)
class Verdict:
    """What one round showed."""

    seed: int
    steps: list[str]
    rows: int
    kind: str = "events"
    deliveries: int = 0
    events: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    lost: int = 0  #: rows that were not cancelled and never delivered
    twice: int = 0  #: rows that were delivered again without being asked
    past: int = 0  #: rows that were sent while a brake was on
    overtaken: int = 0  #: rows that were cancelled while an attempt ran, which succeeded
    redelivered: int = 0  #: answers of one task that were lost with a killed emulator or after a deadline
    false: Counter[str] = field(default_factory=Counter)  #: what is not so, and of how many rows
    hung: list[str] = field(default_factory=list)  #: steps that did not end
    errors: Counter[str] = field(default_factory=Counter)  #: what kernels raised and tried again
    history: list[str] = field(default_factory=list, repr=False)  #: what homes of a team did, a line each
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing was lost, repeated, sent past a brake, false or hung."""
        return not (self.lost or self.twice or self.past or self.false or self.hung)


class Oracle(Target):
    """The target of the tasks, which records each request and its answer."""

    bad = 7  #: of so many rows one fails, until the target is mended

    def __init__(self) -> None:
        self.order: list[tuple[int, str, int]] = []  #: all requests as they came: row, task, status
        self.answers: dict[int, list[tuple[str, int]]] = defaultdict(list)  #: by row: task, status
        self.answered: dict[int, float] = {}  #: by row: when it was answered last
        self.attempts: Counter[tuple[str, int]] = Counter()  #: requests by task and attempt
        self.mended = False
        self._lock = threading.Lock()
        super().__init__()

    def take(self, request: web.Request) -> Answer:
        """Record one request; some rows fail until the target is mended."""
        row, task = json.loads(request.body)["number"], request.headers["x-cloudtasks-taskname"]
        attempt = int(request.headers["x-cloudtasks-taskretrycount"]) + 1
        status = 200 if self.mended or (row + 1) % self.bad else 500
        with self._lock:
            self.order.append((row, task, status))
            self.answers[row].append((task, status))
            self.answered[row] = time.monotonic()
            self.attempts[task, attempt] += 1
        return Answer(status=status)


def make_queue(emulator: Emulator, name: str, rate: float = 500.0) -> None:
    """Create a queue that logs all; its tasks are tried twice, at short intervals."""
    retry = {"max_attempts": 2, "min_backoff": {"nanos": 100_000_000}, "max_backoff": {"nanos": 200_000_000}}
    log, limits = {"sampling_ratio": 1.0}, {"max_dispatches_per_second": rate}
    queue = {"name": name, "retry_config": retry, "stackdriver_logging_config": log, "rate_limits": limits}
    with google_client(emulator.grpc) as client:
        client.create_queue({"parent": LOCATION, "queue": queue})


class Kernels:
    """A process that forks kernels; many rounds share one.

    Where that is possible, it has mounts of its own: `disks` says so.
    """

    def __init__(self, folder: Path) -> None:
        own = ["unshare", "-rm"]
        self.disks = bool(shutil.which(own[0])) and not subprocess.run([*own, "true"], check=False).returncode
        self.errors = folder / "kernels.txt"
        # Standard error is no file: a full disk limits the files that a kernel writes.
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [*(own if self.disks else []), sys.executable, "-m", "tests.chaos.kernels"]
        variables = {**os.environ, "TQDM_DISABLE": "1"}
        self._process = subprocess.Popen(command, text=True, cwd=ROOT, env=variables, **pipes)
        threading.Thread(target=self._copy_errors, daemon=True).start()
        self._changed = threading.Condition()
        self._started: list[int] = []
        self.asked = 0
        self.closed: list[float] = []  #: when kernels have seen that a brake is on, or have cancelled
        self.raised: Counter[str] = Counter()
        self.false: Counter[str] = Counter()  #: what kernels have seen that is not so
        self.told: list[tuple[float, dict[str, Any]]] = []  #: what homes of a team have done, and when
        self._ready = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready)

    def _copy_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines, self.errors.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                file.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                self._ready |= "ready" in said
                self.asked += "asked" in said
                if "closed" in said:
                    self.closed.append(time.monotonic())
                if "error" in said:
                    self.raised[said["error"].split(":")[0]] += 1
                if "false" in said:
                    self.false[said["false"]] += 1
                if "verb" in said:
                    self.told.append((time.monotonic(), said))
                if "kernel" in said:
                    self._started.append(said["kernel"])
                self._changed.notify_all()

    def start(self, order: dict[str, Any]) -> Kernel:
        """Start a kernel that follows an order."""
        with self._changed:
            before = len(self._started)
            self._write(order)
            assert self._changed.wait_for(lambda: len(self._started) > before, PATIENCE)
            return Kernel(self._started[-1])

    def set_disk(self, folder: Path, size: str) -> None:
        """Make a folder a disk of this size, or change its size; ``full``: it has no room; ``none``: it is no disk."""
        self._write({"disk": str(folder), "size": size})

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Return whether what kernels say has fulfilled a condition, after so many seconds at most."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def _write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()


class Kernel:
    """A running kernel."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._handle = None

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended, after so many seconds at most."""
        if self._handle is None:
            return True
        ended = bool(select.select([self._handle], [], [], max(seconds, 0))[0])
        if ended:
            os.close(self._handle)
            self._handle = None
        return ended

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self._handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.signal(signal.SIGKILL)
        assert self.wait(PATIENCE)

    def limit_files(self, size: int) -> None:
        """Let no file of it grow beyond so many bytes; -1: no limit."""
        with suppress(ProcessLookupError):
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class Round:
    """A batch is sent and tried again or cancelled, among all events."""

    kind = "events"
    events: tuple[str, ...] = EVENTS
    _dispatches = 500.0  # of the queue in a second

    def __init__(self, seed: int, kernels: Kernels, folder: Path, oracle: Oracle, *, long: bool) -> None:
        self._random = random.Random(seed)
        self._kernels = kernels
        self._folder = folder
        self._long = long
        self._oracle = oracle
        self._more: dict[str, Any] = {}  # fields of all orders
        self._homes = [folder / "home", folder / "other"]
        self._plan()
        self._kept = ExitStack()
        self._ports = [str(self._kept.enter_context(free_port())) for _ in range(2)]
        self._emulator = self._start_emulator()
        make_queue(self._emulator, QUEUE, self._dispatches)
        self._proxy = Proxy(self._emulator.grpc)
        self._results = 0
        self._clock_moved = False
        self._cancelled = float("inf")  # when the cancelling began
        self.verdict = Verdict(seed=seed, steps=self._steps, rows=self._rows, kind=self.kind)

    def _plan(self) -> None:
        """Decide what is done with how many rows."""
        again: list[list[str]] = [[], ["retry"], ["cancel"], ["resend"], ["retry", "resend"], ["retry", "cancel"]]
        self._steps = ["send", *self._random.choice(again)]
        if self._random.random() < 0.3:
            self._steps[0] = "cancel"  # while it is sent
        self._rows = self._random.choice([60, 150, 400, 1200])
        self._again = sorted(self._random.sample(range(self._rows), 20))
        # Another home does not know of a cancel: it sends the rows that were not sent, and finds the others gone. And a
        # home that has seen the end of a batch reads the log again only when it is to send something.
        elsewhere = "nowhere" if "cancel" in self._steps else self._random.choice(["moves", "twins", "nowhere"])
        self._moves, self._twins = elsewhere == "moves", elsewhere == "twins"
        self._rate = self._random.choice([None, None, 200.0, 1000.0])

    def _start_emulator(self) -> Emulator:
        """Start the emulator, on the same folder and ports each time."""
        port, http = self._ports
        ports = "--port", port, "--http-port", http
        return Emulator("--quiet", *ports, folder=self._folder / "data")

    def close(self) -> None:
        """End what it has started."""
        self._emulator.kill()
        self._proxy.close()
        self._kept.close()

    def play(self) -> None:
        """Do every step, look at the end, and judge."""
        asked, raised, false = self._kernels.asked, self._kernels.raised.copy(), self._kernels.false.copy()
        started = time.monotonic()
        for step in self._steps:
            self._oracle.mended = step in ("retry", "resend", "resume")
            self._step(step)
            if self.verdict.hung:
                break
        found = None if self.verdict.hung else self._step("look", events=0)
        self.verdict.seconds = time.monotonic() - started
        self.verdict.errors = self._kernels.raised - raised
        self.verdict.false += self._kernels.false - false
        if found is not None:
            self._judge(found, self._kernels.asked - asked)

    def _step(self, verb: str, events: int | None = None) -> dict[str, Any] | None:
        """Let kernels follow one order among events until one of them has come to the end; returns what it saw."""
        number = self._random.choice([1, 2, 3, 4]) if events is None else events
        if self._moves and self._random.random() < 0.4:
            self.verdict.events["new home"] += 1
            self._homes.reverse()  # the user goes on with another machine
            self._moves = False
        if verb == "cancel":
            self._cancelled = min(self._cancelled, time.monotonic())
        order = self._order(verb)
        kernels = [self._kernels.start(order), *self._start_others(order)]
        for _ in range(number):
            if self._leave_alone(kernels[0]):
                break
            event = self._random.choice(self.events)
            self.verdict.events[event] += 1
            if event == "kill kernel":
                self._kill(kernels[0])
                kernels[0] = self._kernels.start(order)
            else:
                self._disturb(event, kernels[0])
        if hung := [kernel for kernel in kernels if not self._ends(kernel)]:
            self.verdict.hung.append(verb)
            for kernel in hung:
                kernel.signal(signal.SIGUSR1)  # writes its stacks
                kernel.wait(2)
                kernel.kill()
            return None
        result = Path(order["result"])
        if not result.exists():
            self.verdict.false["a kernel ended with an exception"] += 1
            return None
        return dict(json.loads(result.read_text(encoding="utf-8")))

    def _start_others(self, order: dict[str, Any]) -> list[Kernel]:
        """Start the kernels that work at the same time as the one that follows an order."""
        if not (self._twins and order["verb"] in ("send", "retry") and self._random.random() < 0.5):
            return []
        self.verdict.events["two homes"] += 1
        return [self._kernels.start({**order, "home": str(self._homes[1]), "result": f"{order['result']}.other"})]

    def _leave_alone(self, kernel: Kernel) -> bool:
        """Let a kernel work until the next event; return whether it has ended."""
        return kernel.wait(self._random.expovariate(1 / 0.5))

    def _ends(self, kernel: Kernel) -> bool:
        """Return whether a kernel that is left alone ends."""
        return kernel.wait(PATIENCE)

    def _kill(self, kernel: Kernel) -> None:
        kernel.kill()

    def _move_clock(self, seconds: int) -> None:
        """Move the emulator's clock forward, if it answers: it may be stopped, or on its way up."""
        self._clock_moved = True
        with suppress(OSError):
            self._ask("/admin/clock", {"advance_s": seconds})

    def _ask(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Post something to the emulator over HTTP, and return the answer."""
        body, url = json.dumps(fields).encode(), f"http://127.0.0.1:{self._ports[1]}{path}"
        with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=30) as answer:
            return dict(json.load(answer))

    def _entries(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the payloads of the emulator's log that have a field."""
        fields: dict[str, Any] = {
            "resourceNames": ["projects/demo"],
            "pageSize": 1000,
            "filter": f"jsonPayload.{kind}:*",
        }
        token: str | None = ""
        while token is not None:
            page = self._ask("/v2/entries:list", {**fields, "pageToken": token})
            yield from (entry["jsonPayload"] for entry in page.get("entries", ()))
            token = page.get("nextPageToken") or None

    def _order(self, verb: str) -> dict[str, Any]:
        self._results += 1
        places = {"endpoint": self._proxy.address, "queue": "chaos", "url": self._oracle.url}
        files = {"home": str(self._homes[0]), "result": str(self._folder / f"result-{self._results}.json")}
        what = {"verb": verb, "rows": self._rows, "send_rate": self._rate, "again": self._again}
        return {**what, **places, **files, **self._more}

    def _disturb(self, event: str, kernel: Kernel) -> None:
        pause = 40.0 if self._long and self._random.random() < 0.05 else self._random.choice([0.2, 0.5, 1.0, 3.0])
        if event == "kill emulator":
            self._emulator.kill()
            kernel.wait(pause / 3)
            self._emulator = self._start_emulator()
        elif event == "stop emulator":
            self._emulator.process.send_signal(signal.SIGSTOP)
            kernel.wait(pause)
            self._emulator.process.send_signal(signal.SIGCONT)
        elif event == "stop kernel":
            kernel.signal(signal.SIGSTOP)
            kernel.wait(pause)
            kernel.signal(signal.SIGCONT)
        elif event == "cut connections":
            self._proxy.reset()
        elif event == "clock":
            self._move_clock(self._random.choice([1, 30, 600, 4000]))
        elif event == "full disk":
            kernel.limit_files(self._random.choice([1_000, 60_000]))
            kernel.wait(pause / 3)
            kernel.limit_files(-1)

    def _judge(self, found: dict[str, Any], asked: int) -> None:
        verdict = self.verdict
        crashed = verdict.events["kill emulator"] > 0
        # An attempt also ends, and is made again, when the clock jumps over its deadline.
        repeatable = crashed or self._clock_moved
        states = {int(row): state for row, state in found["state"].items()}
        verdict.states = Counter(states.values())
        if sorted(states) != list(range(self._rows)):
            verdict.false["the frame has not all rows"] += 1
        for row, state in states.items():
            answers = self._oracle.answers.get(row, [])
            verdict.deliveries += len(answers)
            verdict.overtaken += state == "cancelled" and any(status == 200 for _, status in answers)
            if not self._excused(row, state) and (problem := problem_of(state, answers)):
                verdict.false[problem] += 1
            if not answers and state != "cancelled" and not self._excused(row, state):
                verdict.lost += 1
            good = Counter(task for task, status in answers if status == 200)
            repeats = sum(good.values()) - len(good)
            verdict.redelivered += repeats
            again = row in self._again and "resend" in self._steps
            tries = len({task for task, _ in answers})
            if tries > 1 + asked or (len(good) > 1 and not again) or (repeats and not repeatable):
                verdict.twice += 1

    def _excused(self, row: int, state: str) -> bool:
        """Return whether a row may be in a state whatever it was answered."""
        # An emulator that is killed before it stores an answer has the task still. An attempt that runs when its task
        # is deleted is not recalled, and the batch is not watched for ever.
        crashed = self.verdict.events["kill emulator"] > 0
        return state == "cancelled" and (crashed or self._oracle.answered.get(row, 0.0) > self._cancelled)


def newest(answers: Sequence[tuple[str, int]]) -> str:
    """Return the newest task of a row by its answers; nothing if it has none."""
    return max((task for task, _ in answers), default="", key=lambda task: int(task.rpartition("-")[2]))


def problem_of(state: str, answers: Sequence[tuple[str, int]]) -> str:
    """Return what is false about the state of a row, or nothing."""
    statuses = [status for task, status in answers if task == newest(answers)]
    if state == "succeeded":
        return "" if 200 in statuses else f"succeeded, but it was answered {statuses}"
    if state == "failed":
        return "" if statuses and 200 not in statuses else f"failed, but it was answered {statuses}"
    if state == "cancelled":
        return "" if 200 not in statuses else f"cancelled, but it was answered {statuses}"
    return f"{state}, answered {statuses}"


def play(seed: int, kernels: Kernels, kind: Callable[..., Round] = Round, *, long: bool = False) -> Verdict:
    """Play the round of a seed, and return what it showed.

    Parameters
    ----------
    seed : int
        Decides what is done and what happens; not when exactly, because machines differ.
    kernels : Kernels
    kind : callable
        Makes the round.
    long : bool
        Some processes are stopped for 40 s.
    """
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        Oracle() as oracle,
        closing(kind(seed, kernels, Path(folder), oracle, long=long)) as one,
    ):
        one.play()
        return one.verdict

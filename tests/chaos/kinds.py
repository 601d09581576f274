"""Further kinds of rounds: brakes, cancels by other kernels, homes on a small disk."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from tests.benchmarks.callers import google_client
from tests.chaos.rounds import PATIENCE, QUEUE, Kernel, Round

__all__ = ["KINDS", "DiskRound"]

_CARRIED_OUT = 15.0  # seconds after which a cancel has ended, whoever wished it
_AT_ONCE = 0.3  # seconds after which a call that a killed kernel had made has ended


class PauseRound(Round):
    """Kernels are killed while rows fail and `pause_at` is on; then `resume` sends the others."""

    kind = "pause_at"
    events = ("kill kernel",)
    _handed: set[str] | None = None  #: the tasks that the service had when the brake was first known to be on

    def _plan(self) -> None:
        self._steps = ["send", "send", "resume"]
        self._rows = self._random.choice([400, 1200])
        self._rate = self._random.choice([60.0, 200.0])
        self._again: list[int] = []
        self._moves = self._twins = False
        self._more = {"brake": {"pause_at": "5%"}}
        self._oracle.bad = 3
        self._closed = len(self._kernels.closed)

    def _is_closed(self) -> bool:
        return len(self._kernels.closed) > self._closed

    def _step(self, verb: str, events: int | None = None) -> dict[str, Any] | None:
        if verb == "resume":
            self.verdict.past = self._past()
        found = super()._step(verb, events)
        if verb == "send" and found is not None:
            self._note_handed()
            held = [int(row) for row, state in found["state"].items() if state == "unsent"]
            if wrong := sum(row in self._oracle.answers for row in held):
                self.verdict.false["unsent, but it was delivered"] += wrong
        return found

    def _leave_alone(self, kernel: Kernel) -> bool:
        if self._random.random() < 0.7:
            self._kernels.wait_for(self._is_closed, 10.0)
        return kernel.wait(self._random.choice([0.0, 0.02, 0.1, 0.5, 1.0]))

    def _kill(self, kernel: Kernel) -> None:
        super()._kill(kernel)
        self._note_handed()

    def _note_handed(self) -> None:
        """If the brake is on, note the tasks that the service has or had: no others may follow."""
        if self._handed is None and self._is_closed():
            time.sleep(_AT_ONCE)
            self._handed = self._in_queue() | {task for _, task, _ in tuple(self._oracle.order)}

    def _in_queue(self) -> set[str]:
        with google_client(self._emulator.grpc) as client:
            return {task.name.rpartition("/")[2] for task in client.list_tasks(parent=QUEUE)}

    def _past(self) -> int:
        """Return how many rows were sent while the brake was on; asked before it is released."""
        handed = self._handed or set()
        return len({row for row, task, _ in tuple(self._oracle.order) if task not in handed})


class CancelRound(PauseRound):
    """Another kernel of the home cancels the batch while it is sent; it may delete it then, and it is made anew."""

    kind = "cancel"
    _dispatches = 60.0
    _OTHER: tuple[dict[str, Any], ...] = ({"verb": "cancel"}, {"verb": "delete"})  # what the other kernel does

    def _plan(self) -> None:
        super()._plan()
        self._does = self._random.choice(self._OTHER)
        self._steps = ["again" if self._does["verb"] == "delete" else "send"]
        # More than 1,000 rows are cancelled in several calls.
        self._rows = 400 if self._does["verb"] == "send" else self._random.choice([400, 1500])
        self._rate = self._random.choice([None, 200.0])
        self._deleted = self._folder / "deleted"
        self._removed = set[int]()  # rows whose tasks were deleted for a batch that was deleted then
        slow = self._random.choice([0, 0, 5])  # seconds before each deletion of tasks
        self._more = {"wish": str(self._folder / "wish"), "deleted": str(self._deleted), "slow": slow}

    def _step(self, verb: str, events: int | None = None) -> dict[str, Any] | None:
        if verb == "look" and self._does["verb"] == "cancel":
            self._look_past()
        return super()._step(verb, 0 if verb == "again" else events)

    def _start_others(self, order: dict[str, Any]) -> list[Kernel]:
        if order["verb"] == "look":
            return []
        after, result = self._random.uniform(0.2, 2.5), f"{order['result']}.other"
        self._other = self._kernels.start({**order, **self._does, "after": after, "result": result})
        if self._does["verb"] != "send":
            self._noting = threading.Thread(target=self._note_cancel, daemon=True)
            self._noting.start()
        return [self._other]

    def _note_cancel(self) -> None:
        if self._kernels.wait_for(self._is_closed, PATIENCE):
            self._cancelled = self._kernels.closed[self._closed] - _AT_ONCE
            self._note_handed()

    def _ends(self, kernel: Kernel) -> bool:
        if self._does["verb"] == "delete" and not self._deleted.exists() and self._other.wait(PATIENCE):
            self._look_past()
            self._deleted.touch()
        return super()._ends(kernel)

    def _look_past(self) -> None:
        """Count the rows that were sent after the cancel was wished, or are delivered after its end."""
        self._noting.join()
        time.sleep(_AT_ONCE)
        ended = len(self._oracle.order)
        time.sleep(1.0)
        late = sum(answered > self._cancelled + _CARRIED_OUT for answered in self._oracle.answered.values())
        self.verdict.past = self._past() + len(self._oracle.order) - ended + late
        with google_client(self._emulator.grpc) as client:
            if (state := client.get_queue(name=QUEUE).state.name) != "RUNNING":
                self.verdict.false[f"the queue is {state} after the cancel"] += 1

    def _excused(self, row: int, state: str) -> bool:
        # Nothing tells who has deleted the tasks of a batch that was deleted then.
        unanswered = 200 not in {status for _, status in self._oracle.answers.get(row, ())}
        return super()._excused(row, state) or (state == "gone" and unanswered and row in self._removed)

    def _judge(self, found: dict[str, Any], asked: int) -> None:
        removed = {payload["task"].rpartition("/")[2] for payload in self._entries("taskDeletionLog")}
        if self._deleted.exists():
            self._removed = {int(row) for row, task in found["task"].items() if task in removed}
        super()._judge(found, asked)
        for file in [self._folder / "result-1.json", self._folder / "result-1.json.other"]:
            if not file.exists() or (file.suffix == ".other" and self._does["verb"] == "delete"):
                continue
            for row, state in json.loads(file.read_text(encoding="utf-8"))["state"].items():
                if state != (last := found["state"][row]) and not self._excused(int(row), state):
                    self.verdict.false[f"{state} in {file.name}, but {last} at the end"] += 1


class EndRound(CancelRound):
    """A kernel ends right after it has cancelled the batch: it is killed, or ends as Python does."""

    kind = "cancel at the end"
    _OTHER = ({"verb": "cancel", "ends": "killed"}, {"verb": "cancel", "ends": "as Python does"})

    def _kill(self, kernel: Kernel) -> None:
        super()._kill(kernel)
        if self._random.random() < 0.5:
            self._wait_for_other()  # the next kernel opens the batch after that

    def _ends(self, kernel: Kernel) -> bool:
        self._wait_for_other()
        return super()._ends(kernel)

    def _wait_for_other(self) -> None:
        self._other.wait(PATIENCE)
        if self._does["ends"] != "killed" and (left := self._in_queue()):
            self.verdict.false["a task in the queue after the end of the kernel that cancelled"] += len(left)


class PermissionRound(CancelRound):
    """Another kernel may not change the queue: its rows are sent, and its cancel is carried out, by this one."""

    kind = "no permission"
    _OTHER = ({"verb": "send", "refused": True}, {"verb": "cancel", "refused": True})


class DiskRound(Round):
    """The home is on a small disk: what does not fit is an error, and what fits later, or is smaller, works."""

    kind = "small disk"
    events = ("kill kernel", "disk fills")
    _SMALL, _LARGE, _BALLAST = "8m", "128m", 24_000_000

    def _plan(self) -> None:
        self._steps = self._random.choice([["send"], ["send", "retry"]])
        self._rows = self._random.choice([150, 400])
        self._rate = self._random.choice([60.0, 200.0])
        self._again: list[int] = []
        self._moves = self._twins = False
        self._size = self._SMALL
        # Room is made for the rows, or others do not fit. Both leave a log of the database that has room in it, so in
        # other rounds the disk only fills.
        what = self._random.choice(["ballast", "too_large", None, None])
        self._room = what == "ballast"
        self._more = {what: self._BALLAST // self._rows} if what else {}
        self._kernels.set_disk(self._homes[0], self._SMALL)

    def close(self) -> None:
        """End what it has started, and the disk."""
        super().close()
        self._kernels.set_disk(self._homes[0], "none")

    def _leave_alone(self, kernel: Kernel) -> bool:
        if self._room and self._size == self._SMALL:
            before = self._kernels.raised["OutboxError"]
            self._kernels.wait_for(lambda: self._kernels.raised["OutboxError"] > before, 20.0)
            self._size = self._LARGE
            self._kernels.set_disk(self._homes[0], self._size)
            self.verdict.events["room is made"] += 1
        return super()._leave_alone(kernel)

    def _disturb(self, event: str, kernel: Kernel) -> None:  # noqa: ARG002 - there is one
        self._kernels.set_disk(self._homes[0], "full")
        kernel.wait(self._random.choice([0.2, 1.0, 4.0]))
        self._kernels.set_disk(self._homes[0], self._size)

    def _judge(self, found: dict[str, Any], asked: int) -> None:
        super()._judge(found, asked)
        if wrong := sum(row < 0 for row in self._oracle.answers):
            self.verdict.false["a row of a fan-out that failed was sent"] += wrong


#: The kinds of rounds in the order in which they are played, each as often as the others.
KINDS: tuple[type[Round], ...] = (Round, PauseRound, DiskRound, CancelRound, EndRound, PermissionRound)

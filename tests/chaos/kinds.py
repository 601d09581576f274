"""Further kinds of rounds: kills while a brake is on, wrong clocks, and homes on a small disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.callers import google_client
from tests.chaos.rounds import EVENTS, QUEUE, Kernel, Round

__all__ = ["CLOCK_IS_SET", "KINDS", "DiskRound"]

CLOCK_IS_SET = "clock of a machine"

_CANARY = 20  # rows
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
        self._closed = self._kernels.closed

    def _step(self, verb: str, events: int | None = None) -> dict[str, Any] | None:
        if verb == "resume":
            self.verdict.past = self._past()
        found = super()._step(verb, events)
        if verb == "send" and found is not None:
            self._note_handed()
            held = [int(row) for row, state in found["states"].items() if state == "unsent"]
            if wrong := sum(row in self._oracle.answers for row in held):
                self.verdict.false["unsent, but it was delivered"] += wrong
        return found

    def _leave_alone(self, kernel: Kernel) -> bool:
        if self._random.random() < 0.7:
            self._kernels.wait_for(lambda: self._kernels.closed > self._closed, 10.0)
        return kernel.wait(self._random.choice([0.0, 0.02, 0.1, 0.5, 1.0]))

    def _kill(self, kernel: Kernel) -> None:
        super()._kill(kernel)
        self._note_handed()

    def _note_handed(self) -> None:
        """If the brake is on, note the tasks that the service has or had: no others may follow."""
        if self._handed is None and self._kernels.closed > self._closed:
            time.sleep(_AT_ONCE)
            with google_client(self._emulator.grpc) as client:
                waiting = {task.name.rpartition("/")[2] for task in client.list_tasks(parent=QUEUE)}
            self._handed = waiting | {task for _, task, _ in tuple(self._oracle.order)}

    def _past(self) -> int:
        """Return how many rows were sent while the brake was on; asked before it is released."""
        handed = self._handed or set()
        return len({row for row, task, _ in tuple(self._oracle.order) if task not in handed})


class CanaryRound(PauseRound):
    """Kernels are killed while the canary runs, which fails in two rounds of three; then `resume` sends the others."""

    kind = "canary"

    def _plan(self) -> None:
        super()._plan()
        self._more = {"brake": {"canary": _CANARY}}
        self._oracle.bad = self._random.choice([3, 7, 5_000])  # of 5,000: no row fails

    def _past(self) -> int:
        """Return how many other rows were delivered before all of the canary had succeeded."""
        waiting, past = set(range(_CANARY)), set()
        for row, _, status in tuple(self._oracle.order):
            if row >= _CANARY and waiting:
                past.add(row)
            elif status == 200:
                waiting.discard(row)
        return len(past)


class ClockRound(Round):
    """The clocks of the kernels' machines, one for each home, are wrong, or that of one is set now and then."""

    kind = "clock"
    _WRONG = (360, 40 * 86_400, -600)  # seconds
    _STEP = 3_600

    def _plan(self) -> None:
        super()._plan()
        self._ahead = {home: self._random.choice([*self._WRONG, 0]) for home in self._homes}
        if not self._ahead[self._homes[0]]:
            self.events = (*EVENTS, *[CLOCK_IS_SET] * len(EVENTS))
        self._more = {"words": {"delay": "1s"}}  # by another clock it would be far too long, or none
        for home in self._homes:
            Path(f"{home}.clock").touch()
            self._set_clock(home, self._ahead[home])

    def _set_clock(self, home: Path, ahead: int) -> None:
        self._ahead[home] = ahead
        with Path(f"{home}.clock").open("r+") as file:
            file.write(f"{ahead:20}")  # kernels read it at any time: it always has the same size

    def _disturb(self, event: str, kernel: Kernel) -> None:
        if event == CLOCK_IS_SET:
            home = self._homes[0]
            self._set_clock(home, 0 if self._ahead[home] else self._STEP)
        else:
            super()._disturb(event, kernel)

    def _judge(self, found: dict[str, Any], asked: int) -> None:
        super()._judge(found, asked)
        wrong = bool(self._ahead[self._homes[0]])
        if wrong != ("this machine's clock is" in found["repr"]):
            self.verdict.false[f"the clock is {'' if wrong else 'not '}wrong, but the batch says otherwise"] += 1


class DiskRound(Round):
    """The home is on a small disk: what does not fit is an error, and what fits later, or is smaller, works."""

    kind = "small disk"
    events = ("kill kernel", "disk fills")
    _SMALL, _LARGE, _BALLAST = "8m", "128m", 24_000_000

    def _plan(self) -> None:
        self._steps = self._random.choice([["send"], ["send", "retry"]])
        self._rows = self._random.choice([150, 400])
        self._rate = self._random.choice([None, 200.0])
        self._again: list[int] = []
        self._moves = self._twins = False
        self._size = self._SMALL
        self._room = self._random.random() < 0.5  # is made for the rows; else others do not fit
        self._more = {"ballast" if self._room else "too_large": self._BALLAST // self._rows}
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
        kernel.wait(self._random.choice([0.2, 1.0, 3.0]))
        self._kernels.set_disk(self._homes[0], self._size)

    def _judge(self, found: dict[str, Any], asked: int) -> None:
        super()._judge(found, asked)
        if wrong := sum(row < 0 for row in self._oracle.answers):
            self.verdict.false["a row of a fan-out that failed was sent"] += wrong


#: The kinds of rounds in the order in which they are played; one that stands here twice is played twice as often.
KINDS: tuple[type[Round], ...] = (Round, PauseRound, ClockRound, CanaryRound, Round, DiskRound)

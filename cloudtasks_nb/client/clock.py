"""The clock of an emulator, which can be moved: the attempts of the time that passes are made one after the other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudtasks_nb._settings import near_names, parse_duration
from cloudtasks_nb.client.emulator_process import call_admin
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import CloudTasksError, PreconditionError

__all__ = ["Clock", "Lapse"]

_SECOND = 1_000_000
_SLICE = 0.2  # seconds of a call, so that the bar moves and an interrupt soon ends the moves


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapse:
    """How far a clock was moved, and what that led to.

    Attributes
    ----------
    moved : pandas.Timedelta
        How far the clock was moved.
    attempts : int
        How many attempts have ended meanwhile.
    waiting : dict of str to str
        Why tasks still wait, by the short name of their queue.

    Examples
    --------
    >>> task = queue.enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="1h")
    >>> lapse = tasks.clock.run_until_idle()
    >>> lapse.attempts, lapse.moved.round("h"), lapse.waiting
    (1, Timedelta('0 days 01:00:00'), {})
    """

    moved: pd.Timedelta
    attempts: int
    waiting: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"moved {duration_text(self.moved.total_seconds())}: {counted(self.attempts, 'attempts')}"]
        return "\n  ".join([*lines, *(f"{queue}: {why}" for queue, why in self.waiting.items())])


@near_names
class Clock:
    """The clock of the service; that of an emulator can be moved. Made by `tasks.clock`.

    Examples
    --------
    >>> tasks.clock
    <Clock 20...+00:00>
    >>> tasks.clock.advance("1h")
    moved 1 h: 0 attempts
    """

    def __init__(
        self,
        address: Callable[[], Mapping[str, Any] | None],
        *,
        moved: Callable[[int], None],
        now: Callable[[], dt.datetime],
        settle: Callable[[Collection[str] | None, float], bool] = lambda *_: True,
    ) -> None:
        """Take over what is known of a service.

        Parameters
        ----------
        address : callable
            Returns `http`, and of a strict emulator perhaps `ca`, of an emulator of ours; None for another service.
        moved : callable
            Called with the microseconds by which the emulator's clock was moved forward.
        now : callable
            Returns the time of a service that is no emulator of ours.
        settle : callable
            Waits until the batches of a connection have sent their rows, for some seconds at most, and returns whether
            they have. Called with the full names of the queues that have tasks, it also waits until the batches of the
            others have learnt what became of their rows.
        """
        self._address = address
        self._moved = moved
        self._now = now
        self._settle = settle

    @property
    def now(self) -> pd.Timestamp:
        """The time of the service: the emulator's clock; of Google's service as its answers so far tell it.

        Examples
        --------
        >>> before = tasks.clock.now
        >>> lapse = tasks.clock.advance("2 days")
        >>> (tasks.clock.now - before).days
        2
        """
        if self._address() is None:
            return pd.Timestamp(self._now())
        return pd.Timestamp(self._read("GET", "clock")["now_us"], unit="us", tz="UTC")

    def advance(self, duration: Any, *, wait: bool = True, progress: bool = True) -> Lapse:
        """Move the clock forward. Tasks that fall due on the way are dispatched in the order of their times.

        The clock stops at each dispatch until the attempts have ended: a task that is tried again after 10 s, 20 s and
        40 s has three more attempts in the next two minutes. Batches of this connection send their rows first, in real
        time if they have a `send_rate`, and learn at the end what became of them.

        Parameters
        ----------
        duration : duration
            ``"1h"``, ``"90s"``, ``"2 days"``, a Timedelta or seconds.
        wait : bool
            False: move at once, do not wait for attempts in flight, and dispatch each task that is due then once.
            Attempts in flight whose deadline has passed end with ``DEADLINE_EXCEEDED``.
        progress : bool
            Show a bar.

        Raises
        ------
        InvalidInputError
            If it is not a duration.
        PreconditionError
            If the service is Google's, or an emulator whose clock cannot be moved.

        Examples
        --------
        >>> task = queue.enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="30min")
        >>> tasks.clock.advance("1h")
        moved 1 h: 1 attempt
        >>> len(queue.tasks())
        0
        """
        span = round(parse_duration(duration, "duration").total_seconds() * _SECOND)
        first = self._read("GET", "clock")
        start: int = first["now_us"]
        if not wait:
            return _lapse(first, self._read("POST", "clock", {"advance_s": span / _SECOND}))
        with Bar("moving the clock", span // _SECOND, unit="s", show=progress) as bar:
            answer = self._run(start + span, lambda answer: bar.to((answer["now_us"] - start) // _SECOND), idle=False)
        return _lapse(first, answer)

    def run_until_idle(self, limit: Any = "30 days", progress: bool = True) -> Lapse:  # noqa: FBT001, FBT002 - a switch
        """Move the clock from dispatch to dispatch until no task waits for its time.

        An hour of backoff takes about a second. Tasks in paused queues, and those for handlers on this machine that do
        not listen, stay; the result names them. Batches of this connection send their rows first, in real time if
        they have a `send_rate`; at the end they know what became of them, and their notifications are delivered. An
        interrupt ends the moves, and the clock stays where it is.

        Parameters
        ----------
        limit : duration
            How far the clock is moved at most.
        progress : bool
            Show a bar.

        Raises
        ------
        InvalidInputError
            If `limit` is not a duration.
        PreconditionError
            If the service is Google's, or an emulator whose clock cannot be moved.

        Examples
        --------
        >>> retry = {"max_attempts": 4, "min_backoff": "10s"}
        >>> bad = {"day": "2013-02-30", "origin": "EWR"}
        >>> task = queue.enqueue(handler, bad, delay="1h", retry=retry)
        >>> tasks.clock.run_until_idle()
        moved 1 h 01 min: 4 attempts
        """
        span = round(parse_duration(limit, "limit").total_seconds() * _SECOND)
        first = self._read("GET", "clock")
        until, made = first["now_us"] + span, first["attempts"]
        with Bar("moving the clock", unit="attempts", show=progress) as bar:
            return _lapse(first, self._run(until, lambda answer: bar.to(answer["attempts"] - made), idle=True))

    def _run(self, until: int, heard: Callable[[Mapping[str, Any]], None], *, idle: bool) -> Mapping[str, Any]:
        """Move the clock until no attempt is left to be made, and the batches have sent and learnt what they can."""
        while not self._settle(None, _SLICE):
            heard(self._read("GET", "clock"))  # raises if the emulator has ended
        content = {"until_us": until, "seconds": _SLICE, "idle": idle}
        before, settled = None, False
        while True:
            answer = self._read("POST", "clock/run", content)
            heard(answer)
            if not answer["done"]:
                continue
            after = answer["attempts"], answer["ahead_us"]
            if settled and after == before:
                return answer
            # What a batch learns may have it send rows or a notification, so there may be more to dispatch.
            before, settled = after, self._settle([queue["queue"] for queue in answer["waiting"]], _SLICE)

    def _read(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        address = self._address()
        if address is None:
            raise PreconditionError(
                "only the clock of this package's emulator can be moved",
                hint="rehearse with tasks = ct.local(); elsewhere queue.run(frame) dispatches tasks now",
            )
        answer: Mapping[str, Any] = call_admin(address, method, path, content)
        self._moved(answer["ahead_us"])
        return answer

    def __repr__(self) -> str:
        try:
            return f"<Clock {self.now.isoformat(sep=' ', timespec='seconds')}>"
        except CloudTasksError as error:  # a notebook shows this instead of a traceback
            return f"<Clock: {error.message}>"


def _lapse(first: Mapping[str, Any], last: Mapping[str, Any]) -> Lapse:
    return Lapse(
        moved=pd.Timedelta(last["now_us"] - first["now_us"], "us"),
        attempts=last["attempts"] - first["attempts"],
        waiting={queue["queue"].rpartition("/")[2]: _reason(queue) for queue in last.get("waiting", ())},
    )


def _reason(queue: Mapping[str, Any]) -> str:
    """Return how many tasks of a queue wait, and why."""
    if queue["state"] != "RUNNING":
        why = f"the queue is {queue['state'].lower()}: queue.resume()"
    elif queue["next_us"] is not None:
        why = f"the next one is due at {pd.Timestamp(queue['next_us'], unit='us'):%Y-%m-%d %H:%M:%S} UTC"
    elif queue["absent"]:
        why = f"no handler listens at {', '.join(queue['absent'])}"
    else:
        why = "attempts are running"
    return f"{counted(queue['tasks'], 'tasks')} waiting, {why}"

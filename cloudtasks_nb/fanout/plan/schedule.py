"""Compute when each row is due, from `at` and `delay`: the same for all rows, or from a column."""

from __future__ import annotations

import datetime as dt
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from cloudtasks_nb._settings import parse_duration, parse_time, parse_zone
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.errors import InvalidInputError, NaiveTimeError
from cloudtasks_nb.fanout.plan.columns import Block
from cloudtasks_nb.fanout.plan.templates import Problems, Text, parse

__all__ = ["LONGEST", "Schedule", "check_drain", "compile_schedule"]

#: How far ahead the service takes a task (https://cloud.google.com/tasks/docs/quotas).
LONGEST = dt.timedelta(days=30)

#: The service deletes a task that is 31 days old (https://cloud.google.com/tasks/docs/quotas); a day is for retries.
_DRAINED_WITHIN = dt.timedelta(days=30)

_ZONE_HINT = 'add the time zone: tz="UTC", tz="Europe/Zurich"'
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)
_FASTEST = 500  # dispatches a second that a queue may have


def check_drain(tasks: int, queue: str, rate: float | None, send_rate: float | None) -> None:
    """Refuse tasks that a queue would delete, as too old, before it has dispatched them.

    Parameters
    ----------
    queue : str
        Its id.
    rate : float or None
        Dispatches a second that it allows; None: not known.
    send_rate : float or None
        Tasks created a second. If they are not more than are dispatched, none grows old in the queue.

    Raises
    ------
    InvalidInputError
        With the settings that would do.
    """
    limit = _DRAINED_WITHIN.total_seconds()
    if not rate or tasks <= rate * limit or (send_rate is not None and send_rate <= rate):
        return
    enough = math.ceil(tasks / limit * 1000) / 1000
    paced = math.floor(rate * 1e6) / 1e6
    wider = f'tasks.queue("{queue}").update(rate={enough:g}), ' if enough <= _FASTEST else ""
    raise InvalidInputError(
        f"{tasks:,} tasks at {rate:g} a second take {duration_text(tasks / rate)}, and Cloud Tasks deletes tasks that "
        "are 31 days old, so many would never be dispatched",
        resource=queue,
        hint=f"{wider}or send_rate={paced:g}: rows wait here then, and are sent as fast as the queue dispatches them",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The times given by `at`, `delay` and `tz`."""

    moment: dt.datetime | dt.timedelta | None = None  #: a literal time, or a literal duration from now on
    tz: dt.tzinfo | None = None  #: the zone of times that have none
    template: Text | None = None  #: columns in braces
    what: str = "at"  #: which of the two arguments the template is

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names."""
        return () if self.template is None else self.template.columns

    @property
    def immediate(self) -> bool:
        """Whether every row is due at once."""
        return self.moment is None and self.template is None

    def fixed(self, now: dt.datetime) -> int | None:
        """Return when every row is due, in microseconds since 1970; None if at once or if the rows differ.

        Raises
        ------
        InvalidInputError
            If it is more than 30 days ahead.
        """
        moment = now + self.moment if isinstance(self.moment, dt.timedelta) else self.moment
        if moment is not None and moment > now + LONGEST:
            raise InvalidInputError(
                f"{moment.isoformat(sep=' ', timespec='seconds')} is more than 30 days ahead",
                hint="Cloud Tasks holds a task for at most 30 days; schedule it later, or use Cloud Scheduler",
            )
        return None if moment is None else _micros(moment)

    def render(self, block: Block, now: dt.datetime, problems: Problems) -> list[int] | None:
        """Return when each row is due, in microseconds since 1970; None if the rows do not differ.

        Raises
        ------
        NaiveTimeError
            If a column of times has no zone and `tz` was not given.
        """
        if self.template is None:
            return None
        lone = self.template.lone
        cells: list[Any] = block.columns[lone].raw if lone else self.template.render(block, problems)
        start, latest = _micros(now), _micros(now + LONGEST)
        moments = []
        for index, cell in enumerate(cells):
            moment = start
            if cell is None:
                problems.add_missing(index, self.what, lone or "")
            elif index not in problems.reasons:
                try:
                    moment = self._read(cell, start)
                except NaiveTimeError as error:
                    names = " and ".join(f'"{name}"' for name in self.columns)
                    raise NaiveTimeError(f"{error.message} (column {names})", resource="at", hint=_ZONE_HINT) from None
                except InvalidInputError as error:
                    problems.add(index, error.message)
            if moment > latest:
                ahead = (moment - start) / 86_400e6
                problems.add(index, f"{self.what}: {ahead:,.1f} days ahead; Cloud Tasks holds a task for at most 30")
                moment = start
            moments.append(moment)
        return moments

    def _read(self, cell: Any, now: int) -> int:
        if self.what == "delay":
            return now + parse_duration(cell, self.what) // _MICRO
        if isinstance(cell, (str, dt.date)):
            return _read_time(cell, self.tz, getattr(cell, "fold", 0))
        seconds = '; of seconds since 1970 pd.to_datetime(column, unit="s", utc=True) makes times'
        number = isinstance(cell, numbers.Real) and not isinstance(cell, bool)
        raise InvalidInputError(f"at: {type(cell).__name__} is not a time{seconds if number else ''}")


def compile_schedule(
    at: Any = None, delay: Any = None, tz: Any = None, read: Callable[[str, str], Text] = parse
) -> Schedule:
    """Return the `Schedule` that the arguments mean.

    Parameters
    ----------
    at : time or template, optional
        ISO text, a datetime or a Timestamp; ``"{column}"`` for a time a row.
    delay : duration or template, optional
        ``"10min"``, a Timedelta, or seconds; ``"{column}"`` for a duration a row.
    tz : str or tzinfo, optional
        The zone of times that have none.
    read : callable
        `parse`, or `constant` if a text in braces is no column.

    Raises
    ------
    InvalidInputError
        If both are given, or one is no time or no duration.
    """
    zone = None if tz is None else parse_zone(tz)
    if at is not None and delay is not None:
        raise InvalidInputError("at= and delay= exclude each other", resource="at", hint="give one of them")
    what, value = ("at", at) if delay is None else ("delay", delay)
    text = read(value, what) if isinstance(value, str) and "{" in value else None
    if text is not None and text.fields:
        return Schedule(template=text, what=what, tz=zone)
    if delay is not None:
        return Schedule(moment=parse_duration(delay, what))
    return Schedule(moment=None if at is None else parse_time(at, what, zone))


def _micros(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICRO


@lru_cache(maxsize=4_096, typed=True)
def _read_time(cell: Any, tz: dt.tzinfo | None, fold: int) -> int:
    """Read a cell as a point in time; cached, as many rows share few times.

    `fold` is the cell's own: the two times of an hour that comes twice are equal otherwise.
    """
    if isinstance(cell, dt.datetime) and cell.tzinfo is None and tz is not None:
        # the first of two times when the clock goes back, if fold is not 1; the first after a gap when it goes forward
        cell = pd.Timestamp(cell).tz_localize(tz, ambiguous=not fold, nonexistent="shift_forward")
    elif isinstance(cell, dt.date) and not isinstance(cell, dt.datetime):
        cell = dt.datetime(cell.year, cell.month, cell.day)  # noqa: DTZ001 - its zone is the one of tz=
    return _micros(parse_time(cell, "at", tz))

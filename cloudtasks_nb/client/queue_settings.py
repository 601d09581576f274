"""A queue made, or brought to the settings that were asked for."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, check_names, parse_duration
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import AlreadyExistsError, InvalidInputError, PreconditionError, QueueNotFoundError
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import queue_message, queue_values

__all__ = ["NEW_QUEUE", "check", "ensure", "update"]

#: What a queue that we make gets unless told otherwise: without a log no outcomes, with 100 attempts days of them.
NEW_QUEUE = {"log_sampling_ratio": 1.0, "max_attempts": 5}
_GOOGLES = {"log_sampling_ratio": 0.0, "max_attempts": 100}
#: What the numbers may be (https://cloud.google.com/tasks/docs/quotas). The service takes 0 for "not said", so that
#: it would mean its own default, and the opposite of what was meant.
_LIMITS: dict[str, tuple[float, float, str, str]] = {
    "rate": (0, 500, "more than 0 and at most 500 dispatches a second", "queue.pause() stops dispatching"),
    "max_concurrent": (1, 5000, "from 1 to 5,000", "queue.pause() stops dispatching"),
    "max_attempts": (-1, math.inf, "1 or more, or -1", "1 means no retry, -1 means without end"),
    "max_doublings": (0, math.inf, "0 or more", "16 is the service's default"),
    "log_sampling_ratio": (0, 1, "from 0 to 1", "1.0 logs everything, 0.0 nothing; outcomes are known from the log"),
}
_NOT_ZERO = ("rate", "max_concurrent", "max_attempts")
_DURATIONS = ("max_retry_duration", "min_backoff", "max_backoff")


def ensure(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> None:
    """Make a queue if it is not there, bring the named settings to their values if it is, and say what was done.

    Raises
    ------
    InvalidInputError
        For an unknown setting or a bad value; nothing is made then.
    PreconditionError
        If the name was freed too recently: a deleted queue's name is blocked for days.
    """
    check(name, settings)
    try:
        found = _loop.run(connection.transport.call("GetQueue", name=str(name)))
    except QueueNotFoundError:
        if _create(connection, name, settings):
            return
        found = connection.call("GetQueue", name=str(name))
    there = queue_values(found)
    differing = {word: value for word, value in settings.items() if not _same(there[word], value)}
    if differing:
        update(connection, name, differing)
        changes = (f"{word} {_text(word, there[word])} → {_text(word, value)}" for word, value in differing.items())
        notify(f"queue {name.queue}: " + ", ".join(changes))


def check(name: QueueName, settings: Mapping[str, Any]) -> None:
    """Refuse unknown settings and bad values before anything is called.

    Raises
    ------
    InvalidInputError
        Naming the setting.
    """
    check_names(settings, QUEUE_SETTINGS, "queue setting")
    queue_message(str(name), settings)
    _check_limits(settings)


def _check_limits(settings: Mapping[str, Any]) -> None:
    for word, (low, high, limits, hint) in _LIMITS.items():
        value = settings.get(word)
        if value is None:
            continue
        if not low <= value <= high or (value == 0 and word in _NOT_ZERO):
            raise InvalidInputError(f"{word}={value!r} is not {limits}", resource=word, hint=hint)
    if not {"min_backoff", "max_backoff"} <= settings.keys():
        return
    shortest, longest = settings["min_backoff"], settings["max_backoff"]
    if parse_duration(shortest, "min_backoff") > parse_duration(longest, "max_backoff"):
        raise InvalidInputError(
            f"min_backoff={shortest!r} is longer than max_backoff={longest!r}",
            resource="min_backoff",
            hint="the waits grow from the first to the second",
        )


def _create(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> bool:
    """Make a queue and say so; False if it is there already, made by another or not yet known everywhere."""
    message, _ = queue_message(str(name), {**NEW_QUEUE, **settings})
    try:
        made = connection.call("CreateQueue", parent=name.parent, queue=message, resource_name=str(name))
    except AlreadyExistsError:
        connection.transport.mark_new(str(name))
        return False
    except PreconditionError as error:
        raise PreconditionError(
            f'the queue "{name.queue}" cannot be made: {error.message}',
            resource=str(name),
            code=error.code,
            hint="the name of a deleted queue is blocked for up to 3 days; use another name",
        ) from error
    connection.transport.mark_new(str(name))
    there = queue_values(made)
    if ignored := {word: value for word, value in settings.items() if not _same(there[word], value)}:
        update(connection, name, ignored)  # CreateQueue takes max_doublings=0 for not said; a mask says it
    ours = [word for word in NEW_QUEUE if word not in settings]
    told = ", ".join(f"{word}={NEW_QUEUE[word]} (Cloud Tasks' own default: {_GOOGLES[word]})" for word in ours)
    notify(f"made queue {name.queue}" + (f" with {told}" if told else ""))
    return True


def update(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> None:
    """Bring the named settings of a queue to their values."""
    message, mask = queue_message(str(name), settings)
    connection.call("UpdateQueue", queue=message, update_mask={"paths": mask}, resource_name=str(name))


def _text(word: str, value: Any) -> str:
    """Say a value of a setting; durations in seconds, in whatever form they came."""
    return f"{parse_duration(value, word).total_seconds():g}s" if word in _DURATIONS else f"{value:g}"


def _same(there: Any, wanted: Any) -> bool:
    if isinstance(wanted, (str, dt.timedelta, np.timedelta64)):
        wanted = parse_duration(wanted, "duration").total_seconds()
    return bool(abs(float(there) - float(wanted)) < 1e-6)  # noqa: PLR2004 - durations come back in microseconds

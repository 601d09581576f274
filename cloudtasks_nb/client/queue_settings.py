"""Check the settings of a queue, create it with them, or change them and its target."""

from __future__ import annotations

import datetime as dt
import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, UNLIMITED, QueueKeywords, check_names, check_text, parse_duration
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import AlreadyExistsError, InvalidInputError, PreconditionError, QueueNotFoundError
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import http_target, queue_message, queue_values
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.service.refusal import blocked_name

__all__ = [
    "NEW_QUEUE",
    "change_route",
    "change_settings",
    "check_settings",
    "create_or_change",
    "new_settings",
    "shows_settings",
]

_Method = TypeVar("_Method", bound=Callable[..., Any])

#: Our defaults for a new queue: without a log no outcome is known, and 100 attempts may take days.
NEW_QUEUE: Mapping[str, Any] = {"log_sampling_ratio": 1.0, "max_attempts": 5}
#: On Google a task is tried for ten minutes: a new right to call a service takes some of them
#: (https://cloud.google.com/iam/docs/access-change-propagation), and so does a new revision.
_BACKOFF: Mapping[str, Any] = {"min_backoff": "10s", "max_backoff": "600s", "max_doublings": 6}
_SERVICE_DEFAULTS: Mapping[str, Any] = {
    "log_sampling_ratio": 0.0,
    "max_attempts": 100,
    "min_backoff": "0.1s",
    "max_backoff": "3600s",
    "max_doublings": 16,
}
#: Smallest and largest value of each number (https://cloud.google.com/tasks/docs/quotas), in words, and a hint. The
#: service reads 0 as "not given" and would use its default, which is the opposite of 0.
_LIMITS: dict[str, tuple[float, float, str, str]] = {
    "rate": (0, 500, "more than 0 and at most 500 dispatches a second", "queue.pause() stops dispatching"),
    "max_concurrent": (1, 5000, "from 1 to 5,000", "queue.pause() stops dispatching"),
    "max_attempts": (-1, math.inf, "1 or more, or -1", "1 means no retry, -1 means without end"),
    "max_doublings": (0, math.inf, "0 or more", "16 is the service's default"),
    "log_sampling_ratio": (0, 1, "from 0 to 1", "1.0 logs everything, 0.0 nothing; outcomes are known from the log"),
}
_NOT_ZERO = ("rate", "max_concurrent", "max_attempts")
_DURATIONS = ("max_retry_duration", "min_backoff", "max_backoff")


def create_or_change(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> None:
    """Create a queue, or change the given settings of an existing one; print what was done.

    Raises
    ------
    InvalidInputError
        For an unknown setting or a bad value; nothing is called then.
    PreconditionError
        If a queue of this name was deleted in the last days.
    """
    check_settings(name, settings)
    try:
        found = _loop.run(connection.transport.call("GetQueue", name=str(name)))
    except QueueNotFoundError:
        if _create(connection, name, settings):
            return
        found = connection.call("GetQueue", name=str(name))
    before = queue_values(found)
    changed = {key: value for key, value in settings.items() if not _same(before[key], value)}
    if changed:
        change_settings(connection, name, changed)
        changes = (f"{key} {_text(key, before[key])} → {_text(key, value)}" for key, value in changed.items())
        notify(f"queue {name.queue}: " + ", ".join(changes))


def shows_settings(method: _Method) -> _Method:
    """Have a method that takes settings by ``**`` show each of them: `inspect` and completion by Tab read that."""
    signature = inspect.signature(method)
    *first, last = signature.parameters.values()
    shown = [
        last.replace(name=name, kind=inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
        for name, kind in QueueKeywords.__annotations__.items()
    ]
    method.__signature__ = signature.replace(parameters=[*first, *shown, last])  # type: ignore[attr-defined]
    return method


def check_settings(name: QueueName, settings: Mapping[str, Any]) -> None:
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
    for key, (low, high, limits, hint) in _LIMITS.items():
        value = settings.get(key)
        if value is None:
            continue
        if not low <= value <= high or (value == 0 and key in _NOT_ZERO):
            raise InvalidInputError(f"{key}={value!r} is not {limits}", resource=key, hint=hint)


def _create(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> bool:
    """Create a queue and print that; return False if it exists, even if parts of the service do not find it yet."""
    defaults = new_settings(settings, local=connection.endpoint.local)
    message, _ = queue_message(str(name), {**defaults, **settings})
    try:
        made = connection.call("CreateQueue", parent=name.parent, queue=message, resource_name=str(name))
    except AlreadyExistsError:
        connection.transport.mark_new(str(name))
        return False
    except PreconditionError as error:
        raise PreconditionError(
            f'the queue "{name.queue}" cannot be created: {error.message}',
            resource=str(name),
            code=error.code,
            hint=blocked_name(name.queue, connection.endpoint),
        ) from None
    connection.transport.mark_new(str(name))
    created = queue_values(made)
    if ignored := {key: value for key, value in settings.items() if not _same(created[key], value)}:
        change_settings(connection, name, ignored)  # CreateQueue ignores max_doublings=0; UpdateQueue has a mask
    own = ", ".join(
        f"{key}={value} (Cloud Tasks' own default: {_SERVICE_DEFAULTS[key]})" for key, value in defaults.items()
    )
    price = "" if connection.endpoint.local or not created["log_sampling_ratio"] else f"; {LOG_PRICE}"
    notify(f"made queue {name.queue}{f' with {own}' if own else ''}{price}")
    return True


def new_settings(settings: Mapping[str, Any] = MappingProxyType({}), *, local: bool) -> dict[str, Any]:
    """Return our defaults for settings that were not given; who gives a backoff has the service's others with it."""
    chosen = {**NEW_QUEUE} if local else {**NEW_QUEUE, "max_attempts": 7}
    if not local and _BACKOFF.keys().isdisjoint(settings):
        chosen |= _BACKOFF
    return {key: value for key, value in chosen.items() if key not in settings}


def change_settings(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> None:
    """Change the given settings of an existing queue, and no others."""
    message, mask = queue_message(str(name), settings)
    connection.call("UpdateQueue", queue=message, update_mask={"paths": mask}, resource_name=str(name))


def change_route(
    connection: Connection, name: QueueName, url: Any, *, service_account: str | None, audience: str | None
) -> None:
    """Change or remove the target of a queue, as `Queue.route` describes.

    Raises
    ------
    InvalidInputError
        If it is not an http(s) URL.
    """
    address = getattr(url, "url", url)
    check_text(address, "url", 'url="https://service.example.com", or what ct.serve() returned')
    target = http_target(address, service_account, audience)
    connection.check_target(name, url, service_account)
    connection.call("GetQueue", name=str(name))
    connection.call(
        "UpdateQueue",
        queue={"name": str(name), "http_target": target} if url or service_account else {"name": str(name)},
        update_mask={"paths": ["http_target"]},
        resource_name=str(name),
    )


def _text(key: str, value: Any) -> str:
    """Return the value of a setting as text, durations in seconds."""
    number = parse_duration(value, key).total_seconds() if key in _DURATIONS else value
    if number == UNLIMITED.get(key):
        return "unlimited"
    return f"{number:g}s" if key in _DURATIONS else f"{number:g}"


def _same(current: Any, wanted: Any) -> bool:
    if isinstance(wanted, (str, dt.timedelta, np.timedelta64)):
        wanted = parse_duration(wanted, "duration").total_seconds()
    return bool(abs(float(current) - float(wanted)) < 1e-6)  # noqa: PLR2004 - durations come back in microseconds

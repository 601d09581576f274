"""Check and parse the caller's arguments, and read defaults from the environment."""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import errno
import functools
import getpass
import inspect
import json
import numbers
import os
import platform
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import orjson

from cloudtasks_nb.errors import (
    ArgumentError,
    CloudTasksError,
    ConfigurationError,
    InvalidInputError,
    NaiveTimeError,
    UnknownNameError,
)

__all__ = [
    "PRIVATE_VARIABLE",
    "QUEUE_SETTINGS",
    "RETRY_SETTINGS",
    "STORE_VARIABLE",
    "UNLIMITED",
    "QueueKeywords",
    "check_limit",
    "check_mapping",
    "check_names",
    "check_text",
    "did_you_mean",
    "emulators",
    "home",
    "if_files_open",
    "is_count",
    "is_in_home",
    "make_folder",
    "named",
    "near_names",
    "near_words",
    "parse_duration",
    "parse_json",
    "parse_time",
    "parse_zone",
    "store_place",
    "unknown_name",
    "user",
    "wrong_argument",
]

#: Environment variable with the folder or bucket of the results of tasks.
STORE_VARIABLE = "CLOUDTASKS_NB_STORE"

#: Environment variable, "1" in a service of Cloud Run that is not public.
PRIVATE_VARIABLE = "CLOUDTASKS_NB_PRIVATE"

#: Names of a task's own retry settings, the same as a queue's.
RETRY_SETTINGS = ("max_attempts", "max_retry_duration", "min_backoff", "max_backoff", "max_doublings")


class QueueKeywords(TypedDict, total=False):
    """The settings of a queue, the same in every method. A duration is seconds, a text like "10min" or a timedelta."""

    rate: float  #: dispatches a second
    max_concurrent: int
    max_attempts: int
    max_retry_duration: float | str | dt.timedelta
    min_backoff: float | str | dt.timedelta
    max_backoff: float | str | dt.timedelta
    max_doublings: int
    log_sampling_ratio: float


#: Their names.
QUEUE_SETTINGS = (*QueueKeywords.__annotations__,)

#: The values of settings that mean that there is no limit; the duration in seconds.
UNLIMITED = {"max_attempts": -1, "max_retry_duration": 0}

#: What those type who know other libraries, and what means the same here.
_MEANT = {"M": "MS ME", "by": "across", "concurrency": "workers", "countdown": "delay", "create_task": "enqueue"}
_MEANT |= {"deadline": "dispatch_deadline", "eta": "at", "json": "body", "list_queues": "queues", "list_tasks": "tasks"}
_MEANT |= {"max_workers": "workers", "n_jobs": "workers", "payload": "body", "retry": "retry_failed", "run_task": "run"}
_MEANT |= {"send": "submit", "state": "status", "timezone": "tz"}
_MEANT |= {f"{verb}_queue": verb for verb in ("delete", "pause", "purge", "resume", "update")}

_NEAR = 0.8  # share of common letters of a misspelling and its word

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Kind = TypeVar("_Kind", bound=type)

_UNITS: dict[str, float] = {
    "ms": 0.001,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
_PART = re.compile(r"\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)\s*")


#: A sign or a digit, then 19 digits: they may be an integer of more than 64 bits.
_LARGE = b"0" * 20
_ZEROS = bytes.maketrans(b"-123456789", b"0000000000")


def home() -> Path:
    """Return the folder that contains the outbox, the handlers' secret and results; create it if needed.

    ``CLOUDTASKS_NB_HOME`` if set, else the platform's folder for user data. Others lose their rights on it, unless it
    is a folder such as ``/tmp``, in which nobody can delete the files of others.

    Raises
    ------
    ConfigurationError
        If it cannot be created.
    """
    hint = "set CLOUDTASKS_NB_HOME to a folder that can be written to"
    folder = make_folder(_home_path(), ConfigurationError, hint=hint)
    mode = folder.stat().st_mode
    if mode & 0o077 and not mode & stat.S_ISVTX:
        with contextlib.suppress(OSError):  # it belongs to somebody else: `doctor` tells who can read it
            folder.chmod(mode & 0o700)
    return folder


def store_place(store: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Return the folder or bucket of results: the argument, else ``CLOUDTASKS_NB_STORE``, else a folder in the home.

    Creates nothing.
    """
    return store if store is not None else os.environ.get(STORE_VARIABLE) or _home_path() / "store"


def emulators() -> Path:
    """Return the folder of the home with the addresses and tokens of running emulators, each ``PORT.json``."""
    return _home_path() / "emulators"


def is_in_home(folder: str) -> bool:
    """Return whether a folder lies in the home, whose files are for this user alone."""
    try:
        return Path(folder).is_relative_to(_home_path())
    except ImportError:  # a deployed handler has no home
        return False


def _home_path() -> Path:
    if named := os.environ.get("CLOUDTASKS_NB_HOME"):
        return _named_home(named)
    import platformdirs  # noqa: PLC0415 - a deployed handler does without it

    return Path(platformdirs.user_data_dir("cloudtasks_nb", appauthor=False))


@functools.cache
def _named_home(folder: str) -> Path:
    """Return the path of a folder as it was first read: a change of the working directory makes no other home of it."""
    return Path(folder).expanduser().absolute()


def make_folder(folder: Path, kind: type[CloudTasksError], *, hint: str) -> Path:
    """Create a folder for this user alone if it does not exist, and return it; raise an error of a kind if it fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise kind(
            f"the folder {folder} cannot be created: {error.strerror}", resource=str(folder), hint=hint
        ) from error
    return folder


def if_files_open(hint: str) -> str:
    """Return a hint about a file, or what helps if this process can open no file at all."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            return "too many open files: close some, or raise the limit (ulimit -n) and restart the kernel"
    return hint


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the words that the given one may be, or an empty string."""
    found = near_words(word, words)
    return "; did you mean " + " or ".join(f'"{one}"' for one in found) + "?" if found else ""


def near_words(word: str, words: Iterable[str]) -> list[str]:
    """Return those of some words that mean the same as a given one, else the up to three of which it is a misspelling.

    These begin with the same letter, or with the same two in another order. The folder of a zone may be left out.

    Examples
    --------
    >>> near_words("resum", ["purge", "resume"]), near_words("results", ["purge", "resume"])
    (['resume'], [])
    """
    words = list(words)
    meant = [one for one in _MEANT.get(word, "").split() if one in words]
    near = {one: max(_likeness(word, one), _likeness(word, one.rpartition("/")[2])) for one in words}
    best = max([_NEAR, *near.values()])
    return meant or [one for one, share in near.items() if share == best][:3]


def _likeness(word: str, other: str) -> float:
    """Return which share of the letters two words have in common in the same order; 0 if they begin differently."""
    word, other = word.lower(), other.lower()
    if not word or not other.startswith((word[0], word[1::-1])):
        return 0
    return 1 if sorted(word) == sorted(other) else difflib.SequenceMatcher(None, word, other).ratio()


def near_names(kind: _Kind) -> _Kind:
    """Have the objects of a class tell near names for an attribute that they lack, or an argument of a method."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(kind, name, named(method))

    def missing(owner: Any, name: str) -> Any:
        names = () if name.startswith("_") else dir(owner)  # which asks for `__dict__`, and some have none
        raise unknown_name(f"'{kind.__name__}' object", name, names)

    kind.__getattr__ = missing  # type: ignore[attr-defined]  # hidden from type checkers, which know all names
    return kind


def unknown_name(owner: str, name: str, names: Iterable[str]) -> UnknownNameError:
    """Return the error for an attribute that is not there, with those of the names that are near."""
    public = [] if name.startswith("_") else [one for one in names if not one.startswith("_")]
    return UnknownNameError(f"{owner} has no attribute {name!r}{did_you_mean(name, public)}", resource=name)


def named(function: _Function) -> _Function:
    """Have a function tell near names for an argument that it does not take, and its arguments if one is missing."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        try:
            signature.bind(*args, **given)
        except TypeError as error:
            raise _wrong_call(function.__name__, signature, args, given, error) from None
        return function(*args, **given)

    return cast("_Function", checked)


def _wrong_call(
    name: str, signature: inspect.Signature, args: Sequence[Any], given: Mapping[str, Any], error: TypeError
) -> ArgumentError:
    parameters = {name: one for name, one in signature.parameters.items() if name != "self"}
    unknown = [word for word in given if word not in parameters]
    shown = [f"{one.name}=" if one.kind is one.KEYWORD_ONLY else str(one.name) for one in parameters.values()]
    every = f"{name}({', '.join(shown)})"
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        word = unknown[0]
        if fixed := _fixed(word, args, given):
            return ArgumentError(f'{name}() has no argument "{word}", the function has', resource=word, hint=fixed)
        setting = f"; it is a setting of the queue: queue.update({word}={given[word]!r})"
        near = setting if word in QUEUE_SETTINGS else did_you_mean(word, parameters)
        return ArgumentError(f'{name}() has no argument "{word}"{near}', resource=word, hint=None if near else every)
    return ArgumentError(f"{name}(): {error}", hint=every)


def _fixed(word: str, args: Sequence[Any], given: Mapping[str, Any]) -> str | None:
    """Return as code the function among the arguments in which a parameter has a fixed value; None if none has it."""
    for one in (*args, given.get("fn")):
        if inspect.isfunction(one) and word in inspect.signature(one).parameters:
            values = ", ".join(
                f"{name}={value!r}" for name, value in given.items() if name in inspect.signature(one).parameters
            )
            return f"functools.partial({one.__name__}, {values})"
    return None


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 1 on."""
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) >= 1


def check_limit(limit: Any) -> int | None:
    """Return a limit of rows, None for no limit; raise InvalidInputError if it is not a whole number from 1 on."""
    if limit is None:
        return None
    if not is_count(limit):
        raise wrong_argument("limit", limit, "is not a whole number from 1 on", "limit=None reads all")
    return int(limit)


def wrong_argument(name: str, value: Any, why: str, hint: str) -> InvalidInputError:
    """Return the error for an argument whose value it cannot have: ``limit=0 is not a whole number from 1 on``."""
    return InvalidInputError(f"{name}={value!r} {why}", resource=name, hint=hint)


def check_text(value: Any, name: str, example: str) -> None:
    """Raise InvalidInputError, with an example, if an argument was given and is not a string."""
    _check_type(value, str, name, f"a string: {example}")


def check_mapping(value: Any, name: str, example: str) -> None:
    """Raise InvalidInputError, with an example, if an argument was given and is not a dictionary."""
    _check_type(value, Mapping, name, f"a dictionary: {example}")


def _check_type(value: Any, kind: type, name: str, expected: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise wrong_argument(name, value, f"is not {expected.partition(':')[0]}", f"use {expected}")


def check_names(given: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Raise InvalidInputError for the first name that is not allowed, and suggest similar ones.

    `what` describes the names in the message: "queue setting".
    """
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            raise InvalidInputError(
                f'"{name}" is not a {what}{did_you_mean(name, allowed)}',
                resource=name,
                hint=f"the {what}s are " + ", ".join(allowed),
            )


def parse_duration(value: Any, name: str) -> dt.timedelta:
    """Parse a duration: ``"10min"``, ``"1h 30min"``, a Timedelta, a timedelta, or a number of seconds.

    Raises
    ------
    InvalidInputError
        If it is none of these, or negative. The message contains `name`, the argument's name.
    """
    span = _seconds(value)
    if span is None or not 0 <= span < 3.2e9:  # noqa: PLR2004 - about a hundred years; a longer duration is a mistake
        hint = 'use "10min", "1h 30min", a Timedelta or seconds'
        raise wrong_argument(name, value, "is not a duration", hint)
    return dt.timedelta(seconds=span)


def _seconds(value: Any) -> float | None:
    if type(value).__name__ == "timedelta64":  # of numpy, a numbers.Real that float() refuses
        value = value.astype("timedelta64[us]").item()
    if isinstance(value, dt.timedelta):  # pd.Timedelta is one
        return value.total_seconds()
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Real):  # a numpy scalar is one too
        return float(value)
    if not isinstance(value, str):
        return None
    parts = list(_PART.finditer(value))
    units = [_UNITS.get(part["unit"].lower()) for part in parts]
    if not parts or None in units or "".join(part.group() for part in parts) != value:
        return None
    return sum(float(part["value"]) * unit for part, unit in zip(parts, units, strict=True) if unit is not None)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; integers of any size stay integers.

    Raises
    ------
    ValueError
        If it is not JSON.
    """
    raw = text.encode() if isinstance(text, str) else text
    if _may_have_large(raw):
        # orjson reads integers of more than 64 bits as rounded floats, and refuses those that no float can hold
        with contextlib.suppress(ValueError, RecursionError):  # more than 4,300 digits, or nested too deeply
            return json.loads(raw)
    return orjson.loads(text)


def _may_have_large(raw: bytes) -> bool:
    """Return whether a text has digits of an integer of more than 64 bits; digits of a fraction are none."""
    digits, at = raw.translate(_ZEROS), -1
    while (at := digits.find(_LARGE, at + 1)) >= 0:
        if digits[at - 1 : at] != b".":
            return True
        at += len(_LARGE)
    return False


def parse_zone(tz: Any) -> dt.tzinfo:
    """Parse a time zone: a name, a fixed offset (``"UTC+09:00"``), or a tzinfo.

    Raises
    ------
    InvalidInputError
        If there is no such zone.
    """
    if isinstance(tz, dt.timezone):
        return dt.timezone(tz.utcoffset(None))  # without its custom name, so that str() of it can be parsed again
    if isinstance(tz, dt.tzinfo):
        return tz
    text = str(tz)
    try:
        if text.startswith(("UTC+", "UTC-")):
            return dt.datetime.strptime(text, "UTC%z").tzinfo or dt.UTC
        return dt.UTC if text == "UTC" else ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: "Europe" is a folder of zones
        # abbreviations are near each other, and hours apart
        places = sorted(zone for zone in available_timezones() if "/" in zone and not zone.startswith("Etc/"))
        near = did_you_mean(text, places)
        raise InvalidInputError(
            f"tz={tz!r} is not a time zone{near}", hint='use a name like "Europe/Zurich" or "UTC"'
        ) from None


def parse_time(value: Any, name: str, tz: Any = None) -> dt.datetime:
    """Parse a point in time: ISO 8601 text, a datetime or a Timestamp.

    Raises
    ------
    NaiveTimeError
        If it has no time zone and `tz` is None.
    InvalidInputError
        If it is not a time; or it has no zone, and in that of `tz` it does not exist, or comes twice and its `fold` is
        not 1.
    """
    moment = value
    if isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            moment = None
    if not isinstance(moment, dt.datetime) or str(moment) == "NaT":  # pd.NaT is an instance of datetime
        raise _no_time(value, name)
    if moment.tzinfo is None:
        if tz is None:
            raise NaiveTimeError(
                f"{name}={str(moment)!r} has no time zone",
                resource=name,
                hint=f'add an offset ("{moment.isoformat(sep=" ")}+00:00") or tz="UTC" or tz="Europe/Zurich"',
            )
        zone = parse_zone(tz)
    try:
        return (moment if moment.tzinfo else _in_zone(moment, name, zone)).astimezone(dt.UTC)
    except OverflowError:  # before the year 1, or after 9999
        raise _no_time(value, name) from None


def _in_zone(moment: dt.datetime, name: str, zone: dt.tzinfo) -> dt.datetime:
    """Return a local time in its zone."""
    plain = dt.datetime.combine(moment.date(), moment.time())
    first, second = (plain.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    later = second.astimezone(dt.UTC) - first.astimezone(dt.UTC)
    if not later or (later > dt.timedelta(0) and moment.fold):
        return second
    how = "comes twice" if later > dt.timedelta(0) else "does not exist"
    raise InvalidInputError(
        f'{name}={str(plain)!r} {how} in {zone}, where the clocks are changed then: "{first}" or "{second}"',
        resource=name,
        hint="give a time with its offset",
    )


def _no_time(value: Any, name: str) -> InvalidInputError:
    hint = 'use ISO 8601 text, "2026-01-02 06:00+09:00", or a Timestamp; '
    hint += 'pd.to_datetime(column, unit="s", utc=True) makes Timestamps of seconds since 1970'
    return wrong_argument(name, value, "is not a time", hint)


def user() -> str:
    """Return who runs this process: user@host; on JupyterHub the user's name there."""
    try:
        name = os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        name = "unknown"
    return f"{name}@{platform.node()}"

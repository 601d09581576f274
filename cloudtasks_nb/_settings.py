"""Arguments, environment and defaults: what the caller meant, checked once and said in one form."""

from __future__ import annotations

import configparser
import datetime as dt
import difflib
import numbers
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import platformdirs

from cloudtasks_nb.errors import ConfigurationError, InvalidInputError, NaiveTimeError

__all__ = [
    "EMULATOR_VARIABLE",
    "GOOGLE_ENDPOINT",
    "LOCAL_LOCATION",
    "LOCAL_PROJECT",
    "QUEUE_SETTINGS",
    "RETRY_SETTINGS",
    "Endpoint",
    "check_mapping",
    "check_text",
    "check_words",
    "home",
    "near",
    "parse_duration",
    "parse_time",
    "resolve",
    "when",
    "zone",
]

GOOGLE_ENDPOINT = "cloudtasks.googleapis.com"

#: The variable of the environment by which emulators of Google's services are found.
EMULATOR_VARIABLE = "CLOUD_TASKS_EMULATOR_HOST"

#: Where the queues of an emulator are unless told otherwise: any names will do there.
LOCAL_PROJECT, LOCAL_LOCATION = "local", "us-central1"

#: The words for a task's own retry settings, the same as a queue's.
RETRY_SETTINGS = ("max_attempts", "max_retry_duration", "min_backoff", "max_backoff", "max_doublings")

#: The words for a queue's settings, the same everywhere.
QUEUE_SETTINGS = ("rate", "max_concurrent", *RETRY_SETTINGS, "log_sampling_ratio")

_UNITS = {
    "ms": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "seconds": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "minutes": 60,
    "h": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
}
_PART = re.compile(r"\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What a connection talks to."""

    project: str | None  #: None: not known, the first verb says so
    location: str | None
    target: str  #: ``host:port`` for gRPC
    local: bool  #: an emulator: plain channel, no credentials
    named_by: str | None = None  #: the variable of the environment that names the target; None: an argument does

    def parent(self) -> str:
        """Return ``projects/P/locations/L``.

        Raises
        ------
        ConfigurationError
            If project or location are not known.
        """
        if self.project is None:
            raise ConfigurationError(
                "the project is not known",
                hint='ct.connect("my-project", "us-central1"), or set GOOGLE_CLOUD_PROJECT, '
                "or run: gcloud config set project MY-PROJECT",
            )
        if self.location is None:
            raise ConfigurationError(
                f"the location of the queues in project {self.project} is not known",
                resource=self.project,
                hint=f'ct.connect("{self.project}", "us-central1"), or set CLOUDTASKS_NB_LOCATION; '
                "gcloud tasks locations list shows them",
            )
        return f"projects/{self.project}/locations/{self.location}"


def home() -> Path:
    """Return the folder of the outbox and the handlers' secret; makes it if needed.

    ``CLOUDTASKS_NB_HOME`` if set, else the platform's folder for user data.

    Raises
    ------
    ConfigurationError
        If it cannot be made.
    """
    named = os.environ.get("CLOUDTASKS_NB_HOME")
    folder = Path(named).expanduser() if named else Path(platformdirs.user_data_dir("cloudtasks_nb", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the folder {folder} cannot be made: {error.strerror}",
            resource=str(folder),
            hint="set CLOUDTASKS_NB_HOME to a folder that can be written to",
        ) from error
    return folder


def resolve(project: str | None, location: str | None, endpoint: str | None) -> Endpoint:
    """Find out what to talk to, from the arguments, the environment and gcloud's configuration, in this order.

    Raises
    ------
    InvalidInputError
        Naming what is no endpoint, or an argument that is no text.
    """
    check_text(project, "project", 'project="my-project"')
    check_text(location, "location", 'location="us-central1"')
    check_text(endpoint, "endpoint", 'endpoint="host:port"')
    emulator = os.environ.get(EMULATOR_VARIABLE) if endpoint is None else None
    if endpoint is not None:
        target = _host_port(endpoint)
        # The dot matters: credentials go to Google's own hosts only.
        local = not f".{target.partition(':')[0]}".endswith(".googleapis.com")
    else:
        target, local = (_emulator(emulator), True) if emulator else (GOOGLE_ENDPOINT, False)
    gcloud = _gcloud()
    return Endpoint(
        project=project
        or os.environ.get("GOOGLE_CLOUD_PROJECT")
        or os.environ.get("GCLOUD_PROJECT")
        or gcloud.get("project")
        or (LOCAL_PROJECT if local else None),
        location=location
        or os.environ.get("CLOUDTASKS_NB_LOCATION")
        or os.environ.get("GOOGLE_CLOUD_LOCATION")
        or gcloud.get("location")
        or (LOCAL_LOCATION if local else None),
        target=target,
        local=local,
        named_by=EMULATOR_VARIABLE if emulator else None,
    )


def _emulator(named: str) -> str:
    """Return the address of the emulator that the environment names; without its port nobody listens there."""
    try:
        target = _host_port(named)
    except InvalidInputError:
        target = ""
    if not target.rpartition(":")[1]:
        raise InvalidInputError(
            f'{EMULATOR_VARIABLE}="{named}" is not the address of an emulator',
            resource=EMULATOR_VARIABLE,
            hint="set it to host:port, such as 127.0.0.1:8123, or unset it",
        )
    return target


def _host_port(endpoint: str) -> str:
    bare = re.sub(r"^https?://", "", endpoint).rstrip("/")
    host, colon, port = bare.rpartition(":")
    if "/" in bare or not bare or (colon and not (host and port.isdigit() and int(port) < 65536)):  # noqa: PLR2004 - ports have 16 bits
        raise InvalidInputError(f'"{endpoint}" is not an endpoint', resource=endpoint, hint='use "host:port"')
    return bare


def _gcloud() -> dict[str, str]:
    """Read project and location from the active gcloud configuration, if there is one (without running gcloud)."""
    folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path("~/.config/gcloud").expanduser())
    name = os.environ.get("CLOUDSDK_ACTIVE_CONFIG_NAME")
    active = folder / "active_config"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        name = name or (active.read_text().strip() if active.exists() else "default")
        parser.read_string((folder / "configurations" / f"config_{name}").read_text())
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    found = {
        "project": parser.get("core", "project", fallback=""),
        "location": parser.get("tasks", "location", fallback="") or parser.get("run", "region", fallback=""),
    }
    return {key: value for key, value in found.items() if value}


def near(word: str, words: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the words that look like the one given, else nothing."""
    found = difflib.get_close_matches(word, list(words), n=3, cutoff=0.6)
    return "; did you mean " + " or ".join(f'"{one}"' for one in found) + "?" if found else ""


def check_text(value: Any, name: str, example: str) -> None:
    """Refuse an argument that was given and is no text.

    Raises
    ------
    InvalidInputError
        Naming the argument, with an example.
    """
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(f"{name}={value!r} is not a text", resource=name, hint=f"say {example}")


def check_mapping(value: Any, name: str, example: str) -> None:
    """Refuse an argument that was given and is no dictionary.

    Raises
    ------
    InvalidInputError
        Naming the argument, with an example.
    """
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInputError(f"{name}={value!r} is not a dictionary", resource=name, hint=f"say {example}")


def check_words(given: Mapping[str, Any], allowed: Iterable[str], what: str) -> None:
    """Refuse words that are not among the allowed ones, with the near ones.

    Raises
    ------
    InvalidInputError
        Naming the first unknown word.
    """
    allowed = list(allowed)
    for word in given:
        if word not in allowed:
            raise InvalidInputError(
                f'"{word}" is not a {what}{near(word, allowed)}', resource=word, hint="there are " + ", ".join(allowed)
            )


def parse_duration(value: Any, name: str) -> dt.timedelta:
    """Read a duration: ``"10min"``, ``"1h 30min"``, a Timedelta, a timedelta, or a number of seconds.

    Raises
    ------
    InvalidInputError
        If it is none of these or negative; `name` says which argument it was.
    """
    span = _seconds(value)
    if span is None or not 0 <= span < 3.2e9:  # noqa: PLR2004 - about a hundred years; beyond it is a slip
        raise InvalidInputError(
            f"{name}={value!r} is not a duration", resource=name, hint='use "10min", "1h 30min", a Timedelta or seconds'
        )
    return dt.timedelta(seconds=span)


def _seconds(value: Any) -> float | None:
    if isinstance(value, np.timedelta64):  # a Real that float() does not take
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


def zone(tz: Any) -> dt.tzinfo:
    """Return the time zone that a name or a tzinfo means.

    Raises
    ------
    InvalidInputError
        If there is no such zone.
    """
    if isinstance(tz, dt.tzinfo):
        return tz
    try:
        return dt.UTC if tz == "UTC" else ZoneInfo(str(tz))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: "Europe" is a folder of zones
        raise InvalidInputError(
            f"tz={tz!r} is not a time zone", hint='use a name like "Europe/Zurich" or "UTC"'
        ) from error


def parse_time(value: Any, name: str, tz: Any = None) -> dt.datetime:
    """Read a point in time: ISO text, a datetime or a Timestamp; with an offset, or naive together with `tz`.

    Raises
    ------
    NaiveTimeError
        If it has no time zone and none was named.
    InvalidInputError
        If it is not a time.
    """
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError as error:
            raise InvalidInputError(
                f"{name}={value!r} is not a time", resource=name, hint='use ISO 8601: "2026-01-02 06:00+09:00"'
            ) from error
    if not isinstance(value, dt.datetime) or str(value) == "NaT":  # pandas calls its missing time a datetime
        raise InvalidInputError(f"{name}={value!r} is not a time", resource=name, hint="use ISO text or a Timestamp")
    if value.tzinfo is None:
        if tz is None:
            raise NaiveTimeError(
                f"{name}={str(value)!r} has no time zone",
                resource=name,
                hint=f'add an offset ("{value.isoformat(sep=" ")}+00:00") or say tz="UTC" or tz="Europe/Zurich"',
            )
        value = value.replace(tzinfo=zone(tz))
    return value.astimezone(dt.UTC)


def when(*, at: Any, delay: Any, tz: Any, now: dt.datetime) -> dt.datetime | None:
    """Return the time that `at` or `delay` mean, None when neither was given.

    Raises
    ------
    InvalidInputError
        If both were given, or the time is more than 30 days ahead
        (https://cloud.google.com/tasks/docs/quotas).
    """
    if at is not None and delay is not None:
        raise InvalidInputError("at= and delay= exclude each other", hint="give one of them")
    if at is None and delay is None:
        return None
    moment = now + parse_duration(delay, "delay") if at is None else parse_time(at, "at", tz)
    if moment > now + dt.timedelta(days=30):
        raise InvalidInputError(
            f"{moment.isoformat(sep=' ', timespec='seconds')} is more than 30 days ahead",
            hint="Cloud Tasks holds a task for at most 30 days; schedule it later, or use Cloud Scheduler",
        )
    return moment

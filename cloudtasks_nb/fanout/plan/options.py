"""The options of a task as the user gives them, and the checks of those that are the same for every row."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._settings import check_mapping, check_text, did_you_mean, parse_duration
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.service.convert import HTTP_METHODS, default_audience, retry_message

__all__ = ["LARGEST_TASK", "Delivery", "TaskOptions", "check_delivery", "check_headers", "token_options"]

#: Bytes of a stored task that the service accepts, less what it adds itself: the name, times and its User-Agent header.
LARGEST_TASK = 1_048_569 - 700

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#Task
_SHORTEST, _LONGEST = dt.timedelta(seconds=15), dt.timedelta(minutes=30)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_BYTES = 80 * 1024
_ACCOUNT = re.compile(r"[^@\s{}]+@[^@\s{}]+")
_ACCOUNT_HINT = '"name@project.iam.gserviceaccount.com"'


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of `Queue.enqueue` and `Queue.fan_out` that describe a task, unchecked."""

    url: Any
    body: Any = None
    key: Any = None  #: the columns that identify a row; only for rows
    at: Any = None
    delay: Any = None
    tz: Any = None  #: the zone of times without one
    headers: Mapping[str, str] | None = None
    method: str | None = None  #: None: POST
    service_account: str | None = None
    audience: str | None = None
    dispatch_deadline: Any = None
    retry: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The checked options of a task that are the same for every row: its method, token, deadline and retries."""

    method: str
    service_account: str | None
    audience: str | None  #: None: `default_audience` of the task's URL
    dispatch_deadline: dt.timedelta | None  #: None: the service's 10 minutes
    retry: Mapping[str, Any] | None  #: retry settings of the task itself, with the names of a queue's

    def audience_of(self, url: str) -> str | None:
        """Return the audience of a task's token by the URL of the task; None: it has no token."""
        return None if self.service_account is None else self.audience or default_audience(url)

    def sign(self, request: Any, audience: str | None) -> None:
        """Set the token of a raw HttpRequest, if it has an audience."""
        if audience is not None:
            request.oidc_token.service_account_email = self.service_account
            request.oidc_token.audience = audience

    def write(self, task: Any) -> None:
        """Set the deadline and the retry settings of a raw Task."""
        if self.dispatch_deadline is not None:
            task.dispatch_deadline.FromTimedelta(self.dispatch_deadline)
        if self.retry is not None:
            task.retry_config.CopyFrom(retry_message(self.retry))


def check_delivery(options: TaskOptions) -> Delivery:
    """Check the options that are the same for every row.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    account, audience = token_options(options.url, options.service_account, options.audience)
    check_text(account, "service_account", f"service_account={_ACCOUNT_HINT}")
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise InvalidInputError(
            f"service_account={account!r} is not an e-mail address",
            resource="service_account",
            hint=f"one account signs for all rows: service_account={_ACCOUNT_HINT}",
        )
    check_text(audience, "audience", 'audience="https://service.example.com"')
    if audience is not None and account is None:
        raise InvalidInputError(
            "audience= needs service_account=: without an account there is no token",
            resource="audience",
            hint=f"add service_account={_ACCOUNT_HINT}",
        )
    return Delivery(
        method=_method(options.method),
        service_account=account,
        audience=audience,
        dispatch_deadline=_deadline(options.dispatch_deadline),
        retry=_retry(options.retry),
    )


def token_options(url: Any, service_account: Any, audience: Any) -> tuple[Any, Any]:
    """Return account and audience of a task's token: as given, else those that a deployed function accepts."""
    if service_account is None:
        service_account = getattr(url, "service_account", None)
    return service_account, getattr(url, "audience", None) if audience is None else audience


def check_headers(headers: Any, *, json: bool) -> dict[str, str]:
    """Return the headers of a task sorted by name, with ``Content-Type: application/json`` added to JSON.

    Raises
    ------
    InvalidInputError
        If a name or a value is not one of a header.
    """
    check_mapping(headers, "headers", 'headers={"X-Shop": "north"}')
    for name, value in (headers or {}).items():
        if value is None:
            raise InvalidInputError(
                f'the header "{name}" has no value', resource=str(name), hint='leave it out, or use "" for an empty one'
            )
    found = {str(name): str(value) for name, value in (headers or {}).items()}
    for name, value in found.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(f'"{name}" is not the name of a header', resource=name, hint="for example X-Shop")
        if re.search(r"[\r\n\0]", value):
            raise InvalidInputError(
                f'the value of the header "{name}" has several lines',
                resource=name,
                hint="a header is one line; put longer text into the body",
            )
    if sum(len(name) + len(value.encode(errors="replace")) for name, value in found.items()) >= _HEADER_BYTES:
        raise InvalidInputError("the headers have more than 80 KB", resource="headers", hint="put it into the body")
    if json and "content-type" not in {name.lower() for name in found}:
        found["Content-Type"] = "application/json"
    return dict(sorted(found.items()))


def _method(given: str | None) -> str:
    method = "POST" if given is None else str(given).upper()
    if method not in HTTP_METHODS[1:]:
        raise InvalidInputError(
            f'method="{given}" is not an HTTP method{did_you_mean(method, HTTP_METHODS[1:])}',
            resource="method",
            hint="there are " + ", ".join(HTTP_METHODS[1:]),
        )
    return method


def _deadline(given: Any) -> dt.timedelta | None:
    if given is None:
        return None
    span = parse_duration(given, "dispatch_deadline")
    if not _SHORTEST <= span <= _LONGEST:
        raise InvalidInputError(
            f"dispatch_deadline={given!r} is not between 15 seconds and 30 minutes",
            resource="dispatch_deadline",
            hint='leave it out for 10 minutes, or use "30min"',
        )
    return span


def _retry(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if given is None:
        return None
    check_mapping(given, "retry", 'retry={"max_attempts": 3}')
    settings = dict(given)
    retry_message(settings)  # for its checks
    if settings.get("max_attempts", 1) < -1:
        raise InvalidInputError(
            f"retry: max_attempts={settings['max_attempts']!r} is no number of attempts",
            resource="max_attempts",
            hint="1 means no retry, -1 means without end",
        )
    return settings

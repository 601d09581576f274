"""The options of a task as the user gives them, and the checks of those that are the same for every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Required, TypedDict

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb._settings import check_mapping, check_text, wrong_argument
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.wire import TAG_BYTES

__all__ = [
    "HEADER_BREAK",
    "LARGEST_TASK",
    "TaskKeywords",
    "TaskOptions",
    "check_headers",
    "check_token",
    "token_options",
]

#: Bytes of a stored task that the service accepts, less what it adds itself (the name, times and its User-Agent header)
#: and the header with the tag of a row's task.
LARGEST_TASK = 1_048_569 - 700 - TAG_BYTES

#: What the value of a header cannot have.
HEADER_BREAK = re.compile(r"[\r\n\0]")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_BYTES = 80 * 1024 - TAG_BYTES
_ACCOUNT = re.compile(r"[^@\s{}]+@[^@\s{}]+")
_ACCOUNT_HINT = '"name@project.iam.gserviceaccount.com"'


class TaskKeywords(TypedDict, total=False):
    """The optional arguments by name that `enqueue`, `fan_out` and `backfill` share; None is as good as left out."""

    at: Any
    delay: Any
    tz: Any  #: the zone of times without one
    headers: Mapping[str, str] | None
    method: str | None  #: None: POST
    service_account: str | None
    audience: str | None
    dispatch_deadline: Any
    retry: Mapping[str, Any] | None


class TaskOptions(TaskKeywords, total=False):
    """The options that describe a task, unchecked."""

    url: Required[Any]
    body: Any
    key: Any  #: the columns that identify a row; only for rows


def check_token(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return account and audience of the tokens of tasks with these `TaskOptions`, checked.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    account, audience = token_options(options["url"], options.get("service_account"), options.get("audience"))
    check_text(account, "service_account", f"service_account={_ACCOUNT_HINT}")
    if account is not None and not _ACCOUNT.fullmatch(account):
        hint = f"one account signs for all rows: service_account={_ACCOUNT_HINT}"
        raise wrong_argument("service_account", account, "is not an e-mail address", hint)
    check_text(audience, "audience", 'audience="https://service.example.com"')
    if audience is not None and account is None:
        raise InvalidInputError(
            "audience= needs service_account=: without an account there is no token",
            resource="audience",
            hint=f"add service_account={_ACCOUNT_HINT}",
        )
    return account, audience


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
    found: dict[str, str] = {}
    for name, given in ((str(name), given) for name, given in (headers or {}).items()):
        if given is None:
            raise InvalidInputError(
                f'the header "{name}" has no value', resource=name, hint='leave it out, or use "" for an empty one'
            )
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(f'"{name}" is not the name of a header', resource=name, hint="for example X-Shop")
        if name.lower() == TAG_HEADER.lower():
            raise InvalidInputError(
                f'the header "{name}" is set by this package: by it a stored result shows of which task it is',
                resource=name,
                hint="give yours another name",
            )
        found[name] = str(given)
        if HEADER_BREAK.search(found[name]):
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

"""The answer to one request of a task, with or without a call of the function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LARGEST_BODY", "METHODS", "NO_FUNCTION", "Answer", "method_refusal", "refuse"]

#: Bytes; a task holds 1 MiB at most (https://cloud.google.com/tasks/docs/quotas).
LARGEST_BODY = 2 * 1024 * 1024

#: The methods of a task that carry a body.
METHODS = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a request, with the data that the handler records about the call."""

    status: int  #: HTTP status: 500 for an exception of the function, unless that says how to answer
    result: bytes | None = None  #: what the function returned, as JSON
    types: Any = None  #: what the result is, where JSON does not say it
    error: str | None = None  #: the whole traceback, or why the function was not called
    message: str | None = None  #: ``Type: message``; the sender gets only this, never the traceback
    duration: float | None = None  #: seconds in the function; None: it was not called
    gave_up: bool = False  #: the function has failed for good; the message says why
    upstream: int | None = None  #: HTTP status with which a service made the function fail
    retry_after: int | None = None  #: seconds after which to try again

    @property
    def ok(self) -> bool:
        """Whether the function has succeeded."""
        return self.status < 300 and not self.gave_up  # noqa: PLR2004 - Cloud Tasks counts 2xx as success

    def content(self) -> tuple[bytes, str]:
        """Return the body and its media type: the result as JSON, or the message."""
        if self.ok:
            return self.result or b"", "application/json"
        return (self.message or "").encode("utf-8", "replace"), "text/plain"

    def headers(self) -> dict[str, str]:
        """Return the headers that the status requires."""
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        return {"Allow": ", ".join(METHODS)} if self.status == 405 else {}  # noqa: PLR2004 - method not allowed


def refuse(status: int, reason: str) -> Answer:
    """Return the answer to a request that does not reach the function."""
    return Answer(status=status, error=reason, message=reason)


#: The answer at a path without a function; by it another kernel knows a handler, without a secret path.
NO_FUNCTION = refuse(404, "there is no function at this path")


def method_refusal(method: str) -> Answer | None:
    """Return an answer that explains how to call the function; None if the method is one with a body."""
    if method in METHODS:
        return None
    return refuse(
        405,
        "This is a function that waits for tasks of Google Cloud Tasks.\n"
        f"It answers {', '.join(METHODS)} with its arguments as a JSON object, "
        "for example from: queue.enqueue(handler, {...})\n",
    )

"""Which requests are for the function at all."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from cloudtasks_nb.handlers.address import Address

__all__ = ["LARGEST_BODY", "METHODS", "Refusal", "method_refusal", "request_refusal"]

#: Bytes; a task holds 1 MiB at most (https://cloud.google.com/tasks/docs/quotas).
LARGEST_BODY = 2 * 1024 * 1024

#: The methods of a task that carry a body.
METHODS = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer without a call."""

    status: int
    reason: str


def request_refusal(address: Address, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
    """Say why a request is not for the function at this address; None: it is.

    Browsers send an Origin header with what a page posts, and a foreign Host when a page's name was made to point to
    this machine: neither may reach a function of the notebook.
    """
    if "Origin" in headers:
        return Refusal(status=403, reason="requests from web pages are not answered")
    if headers.get("Host", "").lower() not in address.hosts:
        return Refusal(status=403, reason="only requests to this machine by its loopback name are answered")
    if not hmac.compare_digest(path.encode("utf-8", "replace"), address.path.encode()):
        return Refusal(status=404, reason="there is no function at this path")
    return method_refusal(method)


def method_refusal(method: str) -> Refusal | None:
    """Say how a function is called when the method is one without a body."""
    if method in METHODS:
        return None
    return Refusal(
        status=405,
        reason="This is a function that waits for tasks of Google Cloud Tasks.\n"
        f"It answers {', '.join(METHODS)} with its arguments as a JSON object, "
        "for example from: queue.enqueue(handler, {...})\n",
    )

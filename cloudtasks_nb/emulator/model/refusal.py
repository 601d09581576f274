"""The error of a refused request, and the texts that many calls share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloudtasks_nb._names import CODES
from cloudtasks_nb.emulator.model.apis import google_rpc
from cloudtasks_nb.errors import ServiceError

__all__ = [
    "RefusedError",
    "access_refused",
    "bad_request",
    "error_info",
    "help_link",
    "invalid_argument",
    "malformed_name",
    "not_found",
    "unknown_project",
]


class RefusedError(ServiceError):
    """A request is refused: its answer is an error.

    Parameters
    ----------
    code : str
        Canonical code (``"NOT_FOUND"``).
    message : str
        The exact text of the real service if it is known.
    details : sequence of messages
        The messages of `google.rpc.Status.details`.
    """

    _shown = str  # the client that gets it decides

    def __init__(self, code: str, message: str, details: Sequence[Any] = ()) -> None:
        super().__init__(message, code=code)
        self.number = CODES.index(code)
        self.details = details

    def status(self) -> Any:
        """Return the refusal as a `google.rpc.Status`."""
        status = google_rpc.Status(code=self.number, message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        return status


def invalid_argument(message: str, details: Sequence[Any] = ()) -> RefusedError:
    """Return an ``INVALID_ARGUMENT`` with the service's text."""
    return RefusedError("INVALID_ARGUMENT", message, details)


def bad_request(message: str, violations: Iterable[tuple[str, str]]) -> RefusedError:
    """Return an ``INVALID_ARGUMENT`` with its violations: paths of fields, and what is wrong there."""
    details = [
        google_rpc.BadRequest.FieldViolation(field=field, description=description) for field, description in violations
    ]
    return invalid_argument(message, [google_rpc.BadRequest(field_violations=details)])


def malformed_name() -> RefusedError:
    """Return the error for a malformed resource name."""
    return invalid_argument("Invalid resource field value in the request.")


def not_found() -> RefusedError:
    """Return the error for a resource that does not exist."""
    return RefusedError("NOT_FOUND", "Requested entity was not found.")


def unknown_project(service: str, project: str) -> RefusedError:
    """Return the error for a project that does not exist, or that the caller may not know of."""
    text = f"Permission denied on resource project {project}."
    metadata = {"consumer": f"projects/{project}", "containerInfo": project, "service": service}
    link = help_link("Google developers console", "https://console.developers.google.com")
    return access_refused(text, "CONSUMER_INVALID", metadata, link)


def access_refused(message: str, reason: str, metadata: Mapping[str, str], *more: Any) -> RefusedError:
    """Return a ``PERMISSION_DENIED`` with its reason, its text in a language, and more details."""
    localized = google_rpc.LocalizedMessage(locale="en-US", message=message)
    return RefusedError("PERMISSION_DENIED", message, (error_info(reason, metadata), localized, *more))


def error_info(reason: str, metadata: Mapping[str, str], domain: str = "googleapis.com") -> Any:
    """Return a `google.rpc.ErrorInfo` detail."""
    return google_rpc.ErrorInfo(reason=reason, domain=domain, metadata=metadata)


def help_link(description: str, url: str) -> Any:
    """Return a `google.rpc.Help` detail with one link."""
    return google_rpc.Help(links=[google_rpc.Help.Link(description=description, url=url)])

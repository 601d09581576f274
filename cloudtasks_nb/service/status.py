"""The table of gRPC status codes: which error each becomes, and whether another try may help."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Literal

from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import (
    AlreadyExistsError,
    CloudTasksError,
    CredentialsError,
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    QueueNotFoundError,
    QuotaError,
    ServiceError,
    TaskNotFoundError,
    UnavailableError,
)
from cloudtasks_nb.service.auth_errors import login_hint
from cloudtasks_nb.service.refusal import Refusal, cure, grant_command
from cloudtasks_nb.service.rpcs import Method

__all__ = ["LOST", "RETRIED", "RETRIED_SOME", "STATUSES", "Status", "lost_answer", "service_error"]

_RETRY_HINT = "try again; if the error persists, tasks.doctor() finds the cause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a code means to the toolkit."""

    error: type[CloudTasksError] = ServiceError
    hint: str | None = None  #: the next step; `method`, how to `grant` its role, and how to `login` are filled in
    answered: bool = True  #: False: the service did not answer, and may not have received the call
    retry: Literal["always", "some", "never"] = "never"  #: how often a request of a batch is repeated


#: Every canonical code but OK. NOT_FOUND becomes another class if the method is about a queue or a task.
STATUSES: dict[str, Status] = {
    "CANCELLED": Status(answered=False, retry="some"),
    "UNKNOWN": Status(retry="some"),
    "INVALID_ARGUMENT": Status(
        error=InvalidInputError, hint="limits of the service: https://cloud.google.com/tasks/docs/quotas"
    ),
    "DEADLINE_EXCEEDED": Status(error=UnavailableError, hint=_RETRY_HINT, answered=False, retry="always"),
    "NOT_FOUND": Status(),
    "ALREADY_EXISTS": Status(error=AlreadyExistsError),
    "PERMISSION_DENIED": Status(
        error=PermissionDeniedError,
        hint="the permission {method.permission} is needed; {method.role} includes it: {grant}",
    ),
    "RESOURCE_EXHAUSTED": Status(
        error=QuotaError, hint="wait a minute; quotas: https://cloud.google.com/tasks/docs/quotas", retry="always"
    ),
    "FAILED_PRECONDITION": Status(error=PreconditionError),
    "ABORTED": Status(retry="always"),
    "OUT_OF_RANGE": Status(error=InvalidInputError),
    "UNIMPLEMENTED": Status(hint="this endpoint does not support the call"),
    "INTERNAL": Status(retry="some"),
    "UNAVAILABLE": Status(error=UnavailableError, hint=_RETRY_HINT, answered=False, retry="always"),
    "DATA_LOSS": Status(retry="some"),
    "UNAUTHENTICATED": Status(error=CredentialsError, hint="{login}"),
}

#: Codes after which the same request of a batch may succeed.
RETRIED = frozenset(code for code, status in STATUSES.items() if status.retry == "always")

#: Codes of a broken connection that may also be a lasting fault of the service: repeated a few times.
RETRIED_SOME = frozenset(code for code, status in STATUSES.items() if status.retry == "some")


#: Codes after which it is not known whether the call was carried out.
LOST = frozenset(code for code, status in STATUSES.items() if not status.answered)


def lost_answer(error: CloudTasksError, *, method: Method, request: Any) -> UnavailableError:
    """Return the error for a call whose answer was lost for good, with what is not known and where to look."""
    effect, hint = (method.lost.effect.format(request=request), method.lost.hint) if method.lost else ("", None)
    text = f"{error.message}; it is not known whether {effect}"
    return UnavailableError(text, resource=error.resource, code=error.code, hint=hint)


def service_error(
    refusal: Refusal, *, method: Method, resource: str, endpoint: Endpoint, member: str = "user:YOU"
) -> CloudTasksError:
    """Return the error for a refusal of the service, with the resource and the next step.

    `member` is the caller, as IAM writes it.
    """
    code, text = refusal.code, refusal.message or refusal.code
    if code == "NOT_FOUND" and method.resource == "queue":
        return _queue_not_found(resource, endpoint)
    if code == "NOT_FOUND" and method.resource == "task":
        return TaskNotFoundError(
            f'task "{resource.rpartition("/")[2]}" is not in its queue: {text}',
            resource=resource,
            code=code,
            hint="a task is deleted when it succeeds or has no attempts left: queue.attempts() shows which",
        )
    message, reason = f"{resource}: {text}", refusal.reason or None
    if found := cure(refusal, method=method, endpoint=endpoint, member=member):
        return found.error(message, resource=resource, code=code, reason=reason, hint=found.hint)
    status = STATUSES[code]
    grant = grant_command(resource, method.role, endpoint.project, shlex.quote(member))
    hint = status.hint and status.hint.format(method=method, grant=grant, login=login_hint())
    for description, url in refusal.links[:1]:
        hint = f"{description}: {url}"
    return status.error(message, resource=resource, code=code, reason=reason, hint=hint)


def _queue_not_found(name: str, endpoint: Endpoint) -> QueueNotFoundError:
    short = name.rpartition("/")[2]
    ours = name == f"projects/{endpoint.project}/locations/{endpoint.location}/queues/{short}"
    create = f'tasks.queue("{short if ours else name}", create=True) creates it'
    return QueueNotFoundError(
        f'there is no queue "{short}" ({name})',
        resource=name,
        code="NOT_FOUND",
        hint=f"{create}; tasks.queues() lists the queues" if ours else create,
    )

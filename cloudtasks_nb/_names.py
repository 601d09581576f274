"""Resource names, status codes, and the constants that the toolkit and the emulator share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from cloudtasks_nb.errors import InvalidInputError

__all__ = [
    "CLOCK_AHEAD_METADATA",
    "CODES",
    "HTTP_CODES",
    "HTTP_PORT_METADATA",
    "INSTANCE_METADATA",
    "LOG_IMMEDIATE_METADATA",
    "OPERATIONS_LOG",
    "OPTION_VARIABLES",
    "ROW_TASK",
    "TAG_HEADER",
    "TASK_ID",
    "TOKEN_METADATA",
    "TYPES_HEADER",
    "QueueName",
    "TaskName",
    "account_project",
    "code_name",
    "code_of",
    "log_name",
]

#: Canonical status codes by number, as `google.rpc.Code` defines them.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

#: Response metadata key: microseconds by which an emulator's clock was moved forward; absent if it was not. The time
#: itself is in the `date` of an answer, as Google sends it.
CLOCK_AHEAD_METADATA = "x-cloudtasks-clock-ahead"

#: Response metadata key of an emulator's instance id. Google's service does not send it.
INSTANCE_METADATA = "x-cloudtasks-instance"

#: Response metadata key of the port of an emulator's HTTP interface, on the host that was called.
HTTP_PORT_METADATA = "x-cloudtasks-http-port"

#: Response metadata key: ``true`` if each entry of an emulator's log can be read at once, else ``false``.
LOG_IMMEDIATE_METADATA = "x-cloudtasks-log-immediate"

#: Request metadata key, and header of REST, with the token of an emulator that has one.
TOKEN_METADATA = "x-cloudtasks-emulator-token"  # noqa: S105 - the name of a header

#: Environment variables that begin like this are options of an emulator that is started by hand.
OPTION_VARIABLES = "CLOUD_TASKS_EMULATOR_"

#: The log of attempts and deletions of tasks (https://cloud.google.com/tasks/docs/logging).
OPERATIONS_LOG = "cloudtasks.googleapis.com%2Ftask_operations_log"

#: The id of the task of a batch's row: a digest of the row's key, the batch and the try, which the outbox can store.
ROW_TASK = re.compile(r"(?P<head>[0-9a-f]{20})-(?P<batch>[0-9a-f]{8})-(?P<try>[1-9][0-9]{0,8})")

#: Header with the tag of a row's task: by it a result shows that it is one of this task.
TAG_HEADER = "Batch-Tag"
#: The header that says what the values of a body are, where JSON does not; only our handlers read it.
TYPES_HEADER = "Value-Types"

_ACCOUNT = re.compile(r"[^@]+@(?P<id>[^@.]+)(\.(?P<domain>.+))?\.iam\.gserviceaccount\.com")

#: Canonical codes of HTTP statuses, as Cloud Tasks reports them; those that are missing follow from the first digit.
HTTP_CODES = {
    304: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_BY_HUNDREDS = {2: "OK", 3: "UNKNOWN", 4: "FAILED_PRECONDITION", 5: "INTERNAL"}

#: The id of a task, whatever made it.
TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")

_PROJECT = r"[A-Za-z0-9:.-]+"
_LOCATION = r"[A-Za-z0-9-]+"
_QUEUE = r"[A-Za-z0-9-]{1,100}"
_QUEUE_NAME = re.compile(
    rf"projects/(?P<project>{_PROJECT})/locations/(?P<location>{_LOCATION})/queues/(?P<queue>{_QUEUE})"
)
_TASK_NAME = re.compile(rf"(?P<parent>{_QUEUE_NAME.pattern})/tasks/(?P<task>{TASK_ID.pattern})")


def account_project(email: str) -> str | None:
    """Return the project of a service account; None if its address does not name one, as those of Google's own.

    https://cloud.google.com/iam/docs/service-accounts-create: of ``example.com:p`` it is ``name@p.example.com.iam…``.
    """
    found = _ACCOUNT.fullmatch(email)
    if found is None:
        return None
    return found["id"] if found["domain"] is None else f"{found['domain']}:{found['id']}"


def code_name(number: int) -> str:
    """Return the canonical name of a status code; ``UNKNOWN`` for an undefined number."""
    return CODES[number] if 0 <= number < len(CODES) else "UNKNOWN"


def code_of(http_status: int) -> int:
    """Return the number of the canonical code that Cloud Tasks reports for an HTTP status; 0 is no response."""
    return CODES.index(HTTP_CODES.get(http_status) or _BY_HUNDREDS.get(http_status // 100, "UNKNOWN"))


def log_name(project: str) -> str:
    """Return the full name of the project's task operations log."""
    return f"projects/{project}/logs/{OPERATIONS_LOG}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueName:
    """The parts of a queue's resource name."""

    project: str
    location: str
    queue: str  #: the short id, ``[A-Za-z0-9-]{1,100}``

    def __str__(self) -> str:
        return f"{self.parent}/queues/{self.queue}"

    @property
    def parent(self) -> str:
        """Name of the queue's location: ``projects/P/locations/L``."""
        return f"projects/{self.project}/locations/{self.location}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse a full resource name.

        Raises
        ------
        InvalidInputError
            If the name is not ``projects/P/locations/L/queues/Q``.
        """
        form = "projects/PROJECT/locations/LOCATION/queues/QUEUE; QUEUE is 1 to 100 letters, digits or hyphens"
        return cls(**_match(_QUEUE_NAME, name, "queue", form).groupdict())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskName:
    """The parts of a task's resource name."""

    queue: QueueName
    task: str  #: the short id, ``[A-Za-z0-9_-]{1,500}``

    def __str__(self) -> str:
        return f"{self.queue}/tasks/{self.task}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse a full resource name.

        Raises
        ------
        InvalidInputError
            If the name is not ``projects/P/locations/L/queues/Q/tasks/T``.
        """
        form = "projects/PROJECT/locations/LOCATION/queues/QUEUE/tasks/TASK; "
        form += "TASK is 1 to 500 letters, digits, hyphens or underscores"
        match = _match(_TASK_NAME, name, "task", form)
        return cls(queue=QueueName.parse(match["parent"]), task=match["task"])


def _match(pattern: re.Pattern[str], name: str, kind: str, form: str) -> re.Match[str]:
    """Match a resource name, or raise InvalidInputError with the form of such a name."""
    match = pattern.fullmatch(name)
    if match is None:
        raise InvalidInputError(f'"{name}" is not a {kind} name', resource=name, hint=f"a {kind} name is {form}")
    return match

"""Every status code of the service becomes an error with the resource and the next step."""

import grpc
import pytest

from cloudtasks_nb import errors
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.service.refusal import Refusal
from cloudtasks_nb.service.rpcs import METHODS
from cloudtasks_nb.service.status import RETRIED, RETRIED_SOME, STATUSES, service_error

ENDPOINT = Endpoint(project="p", location="l", target="t", local=True)
NAMES = {
    "GetQueue": "projects/p/locations/l/queues/q",
    "GetTask": "projects/p/locations/l/queues/q/tasks/t",
    "GetOperation": "projects/p/locations/l/operations/o",
}


def test_every_code_is_mapped() -> None:
    """The table has the codes that gRPC defines, all but OK."""
    assert set(STATUSES) == {code.name for code in grpc.StatusCode} - {"OK"}


def test_what_a_batch_repeats() -> None:
    """No code of a lasting refusal is repeated; a quota is, and a lost answer."""
    assert {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"} == RETRIED
    assert {"INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS"} == RETRIED_SOME


DENIED = errors.PermissionDeniedError
FAULT, INVALID = errors.ServiceError, errors.InvalidInputError
ERRORS_BY_CODE: list[tuple[str, str, type[errors.CloudTasksError], str | None]] = [
    ("NOT_FOUND", "GetQueue", errors.QueueNotFoundError, 'tasks.queue("q", create=True)'),
    ("NOT_FOUND", "GetTask", errors.TaskNotFoundError, "queue.attempts()"),
    ("NOT_FOUND", "GetOperation", errors.ServiceError, None),
    *(("ALREADY_EXISTS", "GetQueue", errors.AlreadyExistsError, None), ("ABORTED", "GetQueue", FAULT, None)),
    *(("INVALID_ARGUMENT", "GetQueue", INVALID, "quotas"), ("OUT_OF_RANGE", "GetQueue", INVALID, None)),
    ("FAILED_PRECONDITION", "GetQueue", errors.PreconditionError, None),
    ("PERMISSION_DENIED", "GetQueue", DENIED, "--project=p --member=user:YOU --role=roles/cloudtasks.viewer"),
    ("PERMISSION_DENIED", "GetTask", DENIED, "cloudtasks.tasks.get"),
    ("RESOURCE_EXHAUSTED", "GetQueue", errors.QuotaError, "quotas"),
    ("UNAUTHENTICATED", "GetQueue", errors.CredentialsError, "gcloud auth application-default login"),
    *((code, "GetQueue", errors.UnavailableError, "try again") for code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")),
    ("UNIMPLEMENTED", "GetQueue", FAULT, "does not support the call"),
    *((code, "GetQueue", FAULT, None) for code in ("CANCELLED", "INTERNAL", "UNKNOWN", "DATA_LOSS")),
]


def error_of(code: str, rpc: str, name: str) -> errors.CloudTasksError:
    """Return the error of a refused call."""
    refusal = Refusal(code=code, message="some details")
    return service_error(refusal, method=METHODS[rpc], resource=name, endpoint=ENDPOINT)


@pytest.mark.parametrize(("code", "rpc", "kind", "hint"), ERRORS_BY_CODE)
def test_an_error_for_each_code(code: str, rpc: str, kind: type[errors.CloudTasksError], hint: str | None) -> None:
    """The class fits the code; the resource, the code and the next step are attributes."""
    error = error_of(code, rpc, NAMES[rpc])
    assert (type(error), error.code, error.resource) == (kind, code, NAMES[rpc])
    assert NAMES[rpc].rpartition("/")[2] in error.message
    assert (hint or "") in (error.hint or "")
    assert (error.hint is None) == (hint is None)


def test_a_queue_of_another_project_is_named_in_full() -> None:
    """The short name would create the queue in the connection's own project."""
    name = "projects/other/locations/l/queues/q"
    assert error_of("NOT_FOUND", "GetQueue", name).hint == f'tasks.queue("{name}", create=True) creates it'

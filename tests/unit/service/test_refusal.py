"""A refusal of the service: its reason decides which error it becomes, and the next step."""

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cloudtasks_nb import errors
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.principal import iam_member
from cloudtasks_nb.service.refusal import of_call, of_code, service_error
from cloudtasks_nb.service.rpcs import METHODS
from tests.cases import cases
from tests.certificates import Authority
from tests.unit.service.conftest import QUEUE, Fakes, call, login, use

TABLE = tomllib.loads(Path(__file__).with_name("refusals.toml").read_text(encoding="utf-8"))
CONSUMER = {"consumer": "projects/123", "service": "cloudtasks.googleapis.com"}
DENIED = "PERMISSION_DENIED"
ENDPOINT = Endpoint(project="p", location="l", target="t", local=True)


def refusal(code: str, message: str, *details: Any) -> status_pb2.Status:
    """Return a status as Google's servers send it."""
    packed = [any_pb2.Any() for _ in details]
    for one, detail in zip(packed, details, strict=True):
        one.Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=packed)


def info(reason: str, facts: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    """Return the reason of a refusal."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com", metadata=dict(facts))


def raised(fake: Fakes, trusted: Authority, status: Any, *, rpc: str = "GetQueue", **fields: Any) -> Any:
    """Return the error of a call that ann@example.com makes."""
    server = fake(status, tls=trusted.grpc())
    work = call(rpc, **(fields or {"name": QUEUE}))
    with pytest.raises(errors.CloudTasksError) as caught:
        use(server.port, work, place={"local": False}, auth=login("ann@example.com"))
    return caught.value


@cases(*map(tuple, TABLE["reasons"]))
def test_a_reason_decides_the_error_and_the_next_step(
    fake: Fakes, trusted: Authority, kind: str, code: str, reason: str, facts: dict[str, str], hint: str
) -> None:
    """The cure names the project, the permission and the account that are concerned; the service's text is kept."""
    error = raised(fake, trusted, refusal(code, "what Google said", info(reason, facts)))
    assert (type(error).__name__, error.code, error.reason) == (kind, code, reason)
    assert error.message == f"{QUEUE}: what Google said"
    assert (hint in error.hint, "{" in error.hint) == (True, False), error.hint


@cases(*map(tuple, TABLE["permissions"]))
def test_a_permission_in_a_text(fake: Fakes, trusted: Authority, permission: str, resource: str, hint: str) -> None:
    """Cloud Tasks names the permission that is lacking in its text, without a reason."""
    text = f'The principal (user or service account) lacks IAM permission "{permission}" for the resource "{resource}" '
    text += "(or the resource may not exist)."
    error = raised(fake, trusted, refusal(DENIED, text), rpc="CreateTask", parent=QUEUE)
    assert (type(error), error.reason) == (errors.PermissionDeniedError, "IAM_PERMISSION_DENIED")
    assert (hint in error.hint, "--condition=None" in error.hint) == (True, "tasks queues" not in error.hint)


@cases(*map(tuple, TABLE["identities"]))
def test_a_grant_to_a_federated_identity(principal: str, note: str) -> None:
    """Its member is one person, quoted once for a shell, and behind the command stands where the subject is found."""
    member = str(iam_member(principal))
    error = service_error(
        of_code(DENIED, "no"), method=METHODS["GetQueue"], resource=QUEUE, endpoint=ENDPOINT, member=member
    )
    command, told, _ = str(error.hint).partition(note)
    assert told == note
    assert f"--member={principal}" in shlex.split(command)


def test_a_page_that_helps(fake: Fakes, trusted: Authority) -> None:
    """Without a reason the link in the answer is the next step; a detail of another kind changes nothing."""
    link = error_details_pb2.Help.Link(description="Definition of queue name", url="https://cloud.google.com/x")
    error = raised(fake, trusted, refusal("INVALID_ARGUMENT", "bad name", error_details_pb2.Help(links=[link])))
    assert error.hint == "Definition of queue name: https://cloud.google.com/x"
    details = error_details_pb2.LocalizedMessage(message="x"), info("BILLING_DISABLED", CONSUMER)
    assert isinstance(raised(fake, trusted, refusal(DENIED, "no", *details)), errors.PreconditionError)


NAMES = {"GetQueue": QUEUE, "GetTask": f"{QUEUE}/tasks/t", "GetOperation": "projects/p/locations/l/operations/o"}


@pytest.mark.parametrize("details", [b"\xff", refusal(DENIED, "another text").SerializeToString()])
def test_details_that_do_not_fit(details: bytes) -> None:
    """A call is refused all the same."""
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", details))
    call = grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, grpc.aio.Metadata(), metadata, details="no")
    assert (of_call(call).grpc_status_code, of_call(call).message) == (grpc.StatusCode.PERMISSION_DENIED, "no")


GOOGLE = replace(ENDPOINT, local=False)


def error_of(code: str, rpc: str, name: str) -> errors.CloudTasksError:
    """Return the error of a refused call to Google."""
    return service_error(of_code(code, "some details"), method=METHODS[rpc], resource=name, endpoint=GOOGLE)


@pytest.mark.parametrize("row", TABLE["codes"], ids=str)
def test_an_error_for_each_code(row: list[str]) -> None:
    """The class fits the code; the resource, the code and the next step are attributes."""
    code, rpc, kind, *hint = row
    error = error_of(code, rpc, NAMES[rpc])
    assert (type(error).__name__, error.code, error.resource) == (kind, code, NAMES[rpc])
    assert NAMES[rpc].rpartition("/")[2] in error.message
    assert "".join(hint) in (error.hint or "")
    assert (error.hint is None) == (not hint)


def test_a_queue_of_another_project_is_named_in_full() -> None:
    """The short name would create the queue in the connection's own project."""
    name = "projects/other/locations/l/queues/q"
    assert error_of("NOT_FOUND", "GetQueue", name).hint == f'tasks.queue("{name}", create=True) creates it'

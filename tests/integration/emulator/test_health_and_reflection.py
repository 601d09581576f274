"""gRPC health checks and reflection, asked by the packages that gRPC has for them."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cloudtasks_nb.testing import strict_emulator
from tests.cases import cases
from tests.integration.conftest import DEADLINE, PATIENCE, Emulator, StartEmulator

Ask = Callable[..., Any]
STATUS = health_pb2.HealthCheckResponse.ServingStatus
TASKS = "google.cloud.tasks.v2.CloudTasks"
#: The services, each with one of its methods.
SERVICES = {
    TASKS: "CreateTask",
    "google.cloud.tasks.v2beta3.CloudTasks": "BatchCreateTasks",
    "google.longrunning.Operations": "GetOperation",
    "google.cloud.location.Locations": "ListLocations",
    "google.logging.v2.LoggingServiceV2": "ListLogEntries",
    "grpc.health.v1.Health": "Watch",
}


def asked_for(service: str) -> Any:
    """Make the request for the health of a service."""
    return health_pb2.HealthCheckRequest(service=service)


@pytest.fixture
def pool(emulator: Emulator) -> DescriptorPool:
    """Give the descriptions of everything that a client knows from reflection."""
    return DescriptorPool(ProtoReflectionDescriptorDatabase(emulator.channel))


@pytest.fixture(params=["v1", "v1alpha"])
def ask(request: pytest.FixtureRequest, emulator: Emulator) -> Ask:
    """Ask one question by either version of the reflection service, and return the answer."""
    name = f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo"
    request_class, response_class = reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    call = emulator.channel.stream_stream(name, request_class.SerializeToString, response_class.FromString)

    def ask(**question: Any) -> Any:
        asked = request_class(host="here", **question)
        [answer] = call(iter([asked]), timeout=PATIENCE)
        assert (answer.valid_host, answer.original_request) == ("here", asked)
        return answer

    return ask


def test_the_health_of_all_services(emulator: Emulator, pool: DescriptorPool) -> None:
    """The emulator and each of its services say that they serve, all at once or one by one; others are unknown."""
    response = GetMessageClass(pool.FindMessageTypeByName("grpc.health.v1.HealthListResponse"))
    answer = response.FromString(emulator.channel.unary_unary("/grpc.health.v1.Health/List")(b"", timeout=PATIENCE))
    found = {service: one.status for service, one in answer.statuses.items()}
    assert found == dict.fromkeys({"", *SERVICES} - {"grpc.health.v1.Health"}, STATUS.SERVING)
    health = health_pb2_grpc.HealthStub(emulator.channel)
    assert {health.Check(asked_for(service)).status for service in found} == {STATUS.SERVING}
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(asked_for("google.cloud.tasks.v2.Nothing"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("arguments", [(), ("--single-port",)], ids=["two ports", "single port"])
def test_a_stop_is_watched(start_emulator: StartEmulator, arguments: tuple[str, ...]) -> None:
    """Who watches a service is told that it serves or is unknown, and at the end that it does not serve any more."""
    emulator = start_emulator("--quiet", *arguments)
    health = health_pb2_grpc.HealthStub(emulator.channel)
    whole, one, unknown = (health.Watch(asked_for(name)) for name in ("", TASKS, "x"))
    assert [next(watch).status for watch in (whole, one, unknown)] == [STATUS.SERVING] * 2 + [STATUS.SERVICE_UNKNOWN]
    emulator.process.terminate()
    assert [[answer.status for answer in watch] for watch in (whole, one, unknown)] == [[2], [2], []]
    assert emulator.process.wait(PATIENCE) == 0
    assert emulator.errors() == ""


def test_the_health_of_a_strict_emulator() -> None:
    """Health needs TLS, but no token, as `GET /health`."""
    with strict_emulator() as google:
        with open(google.environment["REQUESTS_CA_BUNDLE"], "rb") as roots:  # noqa: PTH123 - it is a path as text
            credentials = grpc.ssl_channel_credentials(roots.read())
        with grpc.secure_channel(google.grpc, credentials) as channel:
            assert health_pb2_grpc.HealthStub(channel).Check(asked_for(TASKS)).status == STATUS.SERVING


def test_the_services_are_listed(ask: Ask) -> None:
    """Both versions of reflection list every service that the emulator has."""
    listed = ask(list_services="*").list_services_response.service
    assert {service.name for service in listed} == SERVICES.keys()


def test_what_is_not_there(ask: Ask) -> None:
    """Unknown files, symbols and extensions are an error of the answer, and so is a request without a question."""
    extension = {"containing_type": "google.protobuf.MethodOptions", "extension_number": 7}
    for question in (
        {"file_by_filename": "nothing.proto"},
        {"file_containing_symbol": "google.cloud.tasks.v2.Nothing"},
        {"file_containing_extension": extension},
        {"all_extension_numbers_of_type": "google.cloud.tasks.v2.Nothing"},
    ):
        assert ask(**question).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert ask().error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@cases("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "grpc.health.v1.Health/Check")
def test_bytes_that_are_no_message(emulator: Emulator, method: str) -> None:
    """A request that cannot be parsed is refused as such."""
    answers = emulator.channel.stream_stream(f"/{method}")(iter([b"\x0a\xff"]), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as refused:
        list(answers)
    assert (refused.value.code().name, refused.value.details()) == ("INVALID_ARGUMENT", "The request cannot be parsed.")


def test_a_symbol_may_be_a_method_or_an_extension(ask: Ask) -> None:
    """A method leads to the file of its service, and an extension to the file that declares it."""
    by_method = ask(file_containing_symbol=f"{TASKS}.CreateTask").file_descriptor_response
    assert by_method == ask(file_containing_symbol=TASKS).file_descriptor_response
    extended = "google.protobuf.MethodOptions"
    numbers = ask(all_extension_numbers_of_type=extended).all_extension_numbers_response.extension_number
    [number] = {72295728}.intersection(numbers)
    found = ask(file_containing_extension={"containing_type": extended, "extension_number": number})
    by_name = ask(file_by_filename="google/api/annotations.proto")
    assert found.file_descriptor_response == by_name.file_descriptor_response


@pytest.mark.parametrize(("service", "known"), SERVICES.items())
def test_every_service_is_described(pool: DescriptorPool, service: str, known: str) -> None:
    """A client learns the methods of every service, with the messages that they take and return."""
    methods = {method.name: method for method in pool.FindServiceByName(service).methods}
    assert methods[known].input_type.fields
    assert methods[known].server_streaming is (known == "Watch")


def test_the_methods_are_those_of_googles_client(pool: DescriptorPool) -> None:
    """All calls of Google's client but those of other services are described."""
    calls = {name for name in vars(CloudTasksGrpcTransport) if not name.startswith("_")}
    described = {method.name for method in pool.FindServiceByName(TASKS).methods}
    assert len(described) == 20
    for name in described:
        assert "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_") in calls


def test_a_call_is_made_from_reflection_alone(pool: DescriptorPool, emulator: Emulator, queue: str) -> None:
    """A client without the packages of Google creates a task and gets it in full, as grpcurl does."""

    def call(method: str, **fields: Any) -> dict[str, Any]:
        described = next(m for m in pool.FindServiceByName(TASKS).methods if m.name == method)
        request, response = map(GetMessageClass, (described.input_type, described.output_type))
        send = emulator.channel.unary_unary(f"/{TASKS}/{method}", request.SerializeToString, response.FromString)
        return dict(MessageToDict(send(ParseDict(fields, request()), timeout=DEADLINE)))

    call("PauseQueue", name=queue)
    headers = {"A": "b", "User-Agent": "Google-Cloud-Tasks"}
    http = {"url": "http://127.0.0.1:9/", "headers": headers, "body": "Ym9keQ==", "httpMethod": "PUT"}
    made = call("CreateTask", parent=queue, task={"httpRequest": http, "dispatchDeadline": "60s"})
    assert made["dispatchDeadline"] == "60s"
    assert call("GetTask", name=made["name"], responseView="FULL")["httpRequest"] == http

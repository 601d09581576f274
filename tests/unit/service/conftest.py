"""A gRPC server in this process that answers from a script, and credentials in each of their forms."""

import asyncio
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import google.oauth2.credentials
import grpc
import grpc.aio
import pytest
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.types import LogEntry
from google.cloud.tasks_v2 import types
from google.rpc import status_pb2

from cloudtasks_nb import _loop
from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.rpcs import METHODS
from cloudtasks_nb.service.transport import Transport
from tests.certificates import Authority
from tests.google_sign_in import ACCOUNT, KEY_PEM, METADATA, TARGET, USER, GoogleSignIn
from tests.processes import free_port

PARENT = "projects/p/locations/l"
QUEUE = f"{PARENT}/queues/q"

#: The codes of gRPC by their numbers.
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

#: Clients of services other than `tasks.v2`, by a part of their path.
CLIENTS = {".v2beta3.": tasks_v2beta3.CloudTasksClient, ".logging.": LoggingServiceV2Client}

T = TypeVar("T")
Place = dict[str, Any]
Fakes = Callable[..., "Fake"]
#: Writes the file of the default credentials and returns its path.
WriteAdc = Callable[[Any], Path]
#: Makes the credentials of a form: user, key, federation, file, argument, nested, delegated, metadata.
MakeAuth = Callable[[str], Auth]

POOL = "projects/123/locations/global/workloadIdentityPools/pool"
WORKFORCE_POOL = "locations/global/workforcePools/staff"
IMPERSONATION_URL = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken"
KEY = {"type": "service_account", "client_email": ACCOUNT, "private_key": KEY_PEM, "project_id": "key-project"}
KEY |= {"token_uri": "https://oauth2.googleapis.com/token"}
FEDERATION = {"type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}
FEDERATION |= {"audience": f"//iam.googleapis.com/{POOL}/providers/github"}
FEDERATION |= {"token_url": "https://sts.googleapis.com/v1/token"}
SECRETS = {"client_id": "id", "client_secret": "s", "refresh_token": f"refresh {USER}"}
WORKFORCE = {"type": "external_account_authorized_user", "token_url": "https://sts.googleapis.com/v1/oauthtoken"}
WORKFORCE |= {"audience": f"//iam.googleapis.com/{WORKFORCE_POOL}/providers/okta", **SECRETS}


@dataclass(slots=True, kw_only=True)
class Call:
    """A call as the server saw it."""

    name: str
    request: bytes
    metadata: dict[str, str]


@dataclass(slots=True)
class Fake(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A server that answers every call from its script, the last answer again and again; an event is set instead."""

    script: list[Any]
    instance: str | None = None
    tls: grpc.ServerCredentials | None = None
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    server: Any = None

    async def start(self) -> None:
        """Listen at the port, or at a free one."""
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers([self])
        address = f"127.0.0.1:{self.port}"
        if self.tls is None:
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, self.tls)
        await self.server.start()

    def service(self, handler_call_details: Any) -> Any:
        """Take any method."""
        name = handler_call_details.method.rpartition("/")[2]

        async def answer(request: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata() or ())
            self.calls.append(Call(name=name, request=request, metadata=metadata))
            if self.instance is not None:
                await context.send_initial_metadata([(INSTANCE_METADATA, self.instance), (HTTP_PORT_METADATA, "80")])
            found = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(found, asyncio.Event):
                found.set()
                await asyncio.Event().wait()
            if isinstance(found, status_pb2.Status):
                details = (("grpc-status-details-bin", found.SerializeToString()),)
                await context.abort(STATUS_CODES[found.code], found.message, trailing_metadata=details)
            if isinstance(found, grpc.StatusCode):
                await context.abort(found, f"said {found.name}")
            return bytes(found.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def fake() -> Iterator[Fakes]:
    """Start servers on the background loop; they are stopped after the test."""
    started: list[Fake] = []

    def start(*script: Any, **how: Any) -> Fake:
        server = Fake([*script] or [types.Queue.pb()(name=QUEUE)], **how)
        _loop.run(server.start())
        started.append(server)
        return server

    yield start
    for server in started:
        _loop.run(server.server.stop(None))


def raw_entry(name: str, time: int, received: int, task: str = "") -> Any:
    """Make a raw log entry about the first attempt on a task; times in microseconds."""
    made = LogEntry.pb()(insert_id=name)
    made.timestamp.FromMicroseconds(time)
    made.receive_timestamp.FromMicroseconds(received)
    made.json_payload.update({"task": task or f"{QUEUE}/tasks/{name}", "attemptResponseLog": {"dispatchCount": "1"}})
    return made


def google_method(rpc: str, protocol: str, **how: Any) -> Callable[..., Any]:
    """Return the method of the client that Google generated for an RPC, with a transport of this protocol."""
    path = METHODS[rpc].path
    client: Any = next((made for part, made in CLIENTS.items() if part in path), tasks_v2.CloudTasksClient)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path.rpartition("/")[2]).lower()
    method: Callable[..., Any] = getattr(client(transport=client.get_transport_class(protocol)(**how)), name)
    return method


class Pauses(list[float]):
    """Records the pauses of a transport instead of making them."""

    async def sleep(self, seconds: float) -> None:
        """Return at once."""
        self.append(seconds)


def use(port: int, work: Callable[[Transport], Awaitable[T]], *, place: Place | None = None, **options: Any) -> T:
    """Run work with a transport to a port of this machine, and close it."""

    async def run() -> T:
        usual = {"project": "p", "location": "l", "target": f"127.0.0.1:{port}", "local": True}
        endpoint = Endpoint(**{**usual, **(place or {})})
        transport = Transport(endpoint, options.pop("auth", Auth()))
        for name, value in options.items():
            setattr(transport, name, value)
        try:
            return await work(transport)
        finally:
            await transport.close()

    return _loop.run(run())


def call(rpc: str, **fields: Any) -> Callable[[Transport], Awaitable[Any]]:
    """Give a call as work."""
    return lambda transport: transport.call(rpc, **fields)


@pytest.fixture
def closed() -> Iterator[int]:
    """Give a port at which no server listens."""
    with free_port() as port:
        yield port


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority of certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Make gRPC trust the authority."""
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(authority.ca))
    return authority


def login(account: str = "") -> Auth:
    """Return a login with a valid token."""
    return Auth(google.oauth2.credentials.Credentials("a-token", account=account))


def user_info(email: str = USER, **more: Any) -> dict[str, Any]:
    """Return the content of the file that `gcloud auth application-default login` writes."""
    return {"type": "authorized_user", **SECRETS, "refresh_token": f"refresh {email}", **more}


@pytest.fixture
def sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleSignIn]:
    """Answer in place of Google's hosts; this machine has no credentials and no metadata server."""
    with GoogleSignIn(tmp_path) as server:
        server.answers[METADATA] = 404, "there is no metadata server"
        monkeypatch.delenv("NO_PROXY", raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        yield server


@pytest.fixture
def write_adc() -> WriteAdc:
    """Write what is not text as JSON."""

    def write(content: Any) -> Path:
        path = Path(os.environ["CLOUDSDK_CONFIG"]) / "application_default_credentials.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def make_auth(sign_in: GoogleSignIn, write_adc: WriteAdc, tmp_path: Path) -> MakeAuth:
    """Make credentials that the stand-in knows."""
    (tmp_path / "token").write_text("workload 7")
    federation = {**FEDERATION, "credential_source": {"file": str(tmp_path / "token")}}
    impersonated = {"type": "impersonated_service_account", "source_credentials": user_info()}
    files: dict[str, dict[str, Any]] = {
        "workforce": WORKFORCE,
        "key": KEY,
        "federation": federation,
        "federated workforce": {**federation, "audience": WORKFORCE["audience"]},
        "federated account": {**federation, "service_account_impersonation_url": IMPERSONATION_URL},
        "both": {**federation, "service_account_impersonation_url": IMPERSONATION_URL.replace(TARGET, ACCOUNT)},
        "file": {**impersonated, "service_account_impersonation_url": IMPERSONATION_URL},
        "nested": {**impersonated, "service_account_impersonation_url": IMPERSONATION_URL.replace(TARGET, ACCOUNT)},
    }
    arguments = {"argument": TARGET, "nested": TARGET, "both": TARGET, "delegated": f"{ACCOUNT}, {TARGET}"}

    def make(form: str) -> Auth:
        if form == "metadata":
            del sign_in.answers[METADATA]
        else:
            write_adc(files.get(form) or user_info())
        return Auth(impersonate=arguments.get(form))

    return make


@pytest.fixture
def silent() -> Iterator[int]:
    """Give a port at which somebody takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]

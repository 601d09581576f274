"""Calls over REST, against a small HTTP server in this process that records requests and answers from a script."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from google.auth.credentials import AnonymousCredentials

from cloudtasks_nb import errors
from cloudtasks_nb._names import INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.service.rpcs import METHODS, STATS_MASK
from cloudtasks_nb.service.transport import Transport
from tests.certificates import Authority
from tests.raising import raises
from tests.unit.service.conftest import PARENT, QUEUE, call, google_method, login, use
from tests.web import Reply, Request, http_server

TASK = f"{QUEUE}/tasks/t"
GET = call("GetQueue", name=QUEUE)
OURS = {INSTANCE_METADATA: "0b7c", LOG_IMMEDIATE_METADATA: "true"}


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    """Return an answer with JSON, or with bytes."""
    return Reply(body=body if isinstance(body, bytes) else json.dumps(body).encode(), status=status, headers=headers)


@dataclass(slots=True)
class Web:
    """A server that answers every request from its script, the last answer again and again."""

    script: list[Reply | None]  #: None: no answer, the connection is closed
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    port: int = 0

    def answer(self, request: Request) -> Reply | None:
        """Record a request, and answer it."""
        query = {key: value for key, value in parse_qsl(request.url.query) if not key.startswith("$")}
        body = json.loads(request.body or b"null")
        self.calls.append((request.method, request.url.path, query, body, request.headers))
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


Webs = Callable[..., Web]


@pytest.fixture
def web() -> Iterator[Webs]:
    """Start servers; they are stopped after the test."""
    with ExitStack() as servers:

        def start(*script: Reply | None, tls: Authority | None = None) -> Web:
            made = Web(list(script) or [reply({})])
            made.port = servers.enter_context(http_server(made.answer, tls.context() if tls else None))
            return made

        yield start


REST = {"rest": True}
TASK_FIELDS = {"name": TASK, "http_request": {"url": "https://x.example/", "body": b"\x00\xff", "headers": {"A": "b"}}}
RETRIES = {"max_attempts": -1, "min_backoff": {"seconds": 3}}
RETRY_PATHS = [f"retry_config.{name}" for name in RETRIES]
#: A request of each RPC that Google's own REST client has too.
REQUESTS: dict[str, dict[str, Any]] = {
    **{rpc: {method.route: QUEUE} for rpc, method in METHODS.items() if method.resource != "log"},
    "ListQueues": {"parent": PARENT, "page_size": 5, "page_token": "a/b+c"},
    "CreateQueue": {"parent": PARENT, "queue": {"name": QUEUE, "rate_limits": {"max_dispatches_per_second": 2.5}}},
    "UpdateQueue": {"queue": {"name": QUEUE, "retry_config": RETRIES}, "update_mask": {"paths": RETRY_PATHS}},
    "ListTasks": {"parent": QUEUE, "page_size": 1000, "response_view": 2},
    "GetTask": {"name": TASK, "response_view": 1},
    "CreateTask": {"parent": QUEUE, "task": TASK_FIELDS},
    "RunTask": {"name": TASK},
    "DeleteTask": {"name": TASK},
    "BatchCreateTasks": {"parent": QUEUE, "requests": [{"parent": QUEUE, "task": TASK_FIELDS}], "request_id": "id"},
    "BatchDeleteTasks": {"parent": QUEUE, "names": [TASK, f"{TASK}2"]},
    "TestIamPermissions": {"resource": QUEUE, "permissions": ["a", "b"]},
    "GetOperation": {"name": f"{PARENT}/operations/o"},
    "ListLocations": {"name": "projects/p"},
    "ListQueueStats": {"parent": PARENT, "page_size": 7, "read_mask": {"paths": STATS_MASK}},
    "GetQueueStats": {"name": QUEUE, "read_mask": {"paths": STATS_MASK}},
}


def meaning(sent: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a request, with the names of enum values in place of numbers, without what says nothing."""
    verb, path, query, body, _ = sent
    views = {"1": "BASIC", "2": "FULL"}
    query = {key: views.get(value, value) if key == "responseView" else value for key, value in query.items()}
    return verb, path, query, body


@pytest.mark.parametrize("rpc", REQUESTS)
def test_a_request_is_the_one_of_googles_client(web: Webs, rpc: str) -> None:
    """HTTP method, path, query and body are those of the client that Google generated."""
    server, fields = web(), REQUESTS[rpc]
    transport = {"host": f"http://127.0.0.1:{server.port}", "credentials": AnonymousCredentials()}
    google_method(rpc, "rest", **transport)(request=fields)
    use(server.port, call(rpc, **fields), place=REST)
    theirs, *ours = (meaning(sent) for sent in server.calls)
    assert theirs in ours  # some calls read the state before


def test_a_read_of_the_log(web: Webs) -> None:
    """Google's client for the log has no REST; the path is that of the documentation."""
    entries = {"entries": [{"insertId": "i", "jsonPayload": {"@type": "x", "task": TASK}}], "nextPageToken": "n"}
    server = web(reply({**entries, "newField": 1}))
    answer = use(server.port, call("ListLogEntries", filter="x", resource_names=["projects/p"]), place=REST)
    assert server.calls[0][:4] == ("POST", "/v2/entries:list", {}, {"filter": "x", "resourceNames": ["projects/p"]})
    task = answer.entries[0].json_payload.fields["task"]
    assert (task.string_value, answer.next_page_token) == (TASK, "n")


def test_a_raw_call_gives_bytes(web: Webs) -> None:
    """A batch sends bytes and reads bytes, whatever the protocol."""
    kind = "type.googleapis.com/google.cloud.tasks.v2.BatchCreateTasksMetadata"
    operation = {"name": "o", "done": True, "metadata": {"@type": kind, "state": "SUCCEEDED"}}
    server, method = web(reply(operation)), METHODS["BatchCreateTasks"]
    request = method.request(**REQUESTS["BatchCreateTasks"]).SerializeToString()
    answer = use(server.port, lambda transport: transport.raw("BatchCreateTasks", request), place=REST)
    assert method.response.FromString(answer).metadata.type_url == kind


MISSING = {"error": {"status": "NOT_FOUND", "message": ""}}
DISABLED = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
METADATA = {"consumer": "projects/7", "service": "cloudtasks.googleapis.com"}
ERROR = {"code": 403, "status": "PERMISSION_DENIED", "message": "no", "details": [{**DISABLED, "metadata": METADATA}]}


ANSWERS = [
    (reply({"error": ERROR}, 403), errors.PreconditionError, "PERMISSION_DENIED", "--project=7"),
    (reply(MISSING, 404), errors.QueueNotFoundError, "NOT_FOUND", "there is no queue"),
    (reply(b"<h1>No", 403), errors.PermissionDeniedError, "PERMISSION_DENIED", "403 Forbidden: <h1>No"),
    (reply(b"", 502), errors.UnavailableError, "UNAVAILABLE", "HTTP 502 Bad Gateway"),
    (reply([1], 500), errors.ServiceError, "INTERNAL", "HTTP 500"),
    (None, errors.UnavailableError, "UNAVAILABLE", "Connection aborted"),
]


@pytest.mark.parametrize(("answer", "kind", "code", "text"), ANSWERS)
def test_what_an_answer_means(web: Webs, answer: Any, kind: type[CloudTasksError], code: str, text: str) -> None:
    """The errors are those of gRPC; what a proxy answers is shown."""
    server = web(answer)
    timeout = 1.0 if code == "UNAVAILABLE" else 60.0  # an unavailable service is called again until then
    with raises(kind, text, code=code):
        use(server.port, call("GetQueue", name=QUEUE, timeout=timeout), place=REST)


def test_a_slow_answer(silent: int) -> None:
    """The timeout is the caller's."""
    with pytest.raises(errors.UnavailableError, match=r"no answer within 0\.3 s"):
        use(silent, call("GetQueue", name=QUEUE, timeout=0.3), place=REST)


@pytest.mark.parametrize(("headers", "expected"), [(OURS, ("0b7c", True)), ({}, ("address", False))])
def test_identity_over_rest(web: Webs, headers: dict[str, str], expected: tuple[str, bool]) -> None:
    """Our emulator says in each answer who it is, also in a refusal."""
    server = web(reply(MISSING, 404, **headers))
    address = f"127.0.0.1:{server.port}"

    async def ask(transport: Transport) -> tuple[str, bool, str | None]:
        return await transport.identity(), await transport.log_is_immediate(), await transport.http()

    identity, immediate, http = use(server.port, ask, place=REST)
    assert (identity, immediate) == (expected[0].replace("address", address), expected[1])
    assert http == (f"http://{address}" if headers else None)


def test_the_log_has_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cloud Logging and Cloud Tasks are two services of Google."""
    asked = []

    def request(_session: Any, _verb: str, url: str, **_: Any) -> Any:
        asked.append(urlsplit(url).hostname)
        return Mock(status_code=200, content=b"{}", headers={})

    async def story(transport: Transport) -> None:
        await GET(transport)
        await call("ListLogEntries")(transport)

    monkeypatch.setattr(requests.Session, "request", request)
    place = {"local": False, "rest": True, "target": "cloudtasks.googleapis.com", "universe": "googleapis.com"}
    use(0, story, place=place, auth=login())
    assert asked == ["cloudtasks.googleapis.com", "logging.googleapis.com"]


@pytest.mark.parametrize("trusted_by", ["REQUESTS_CA_BUNDLE", None])
def test_tls_and_a_token(web: Webs, authority: Authority, monkeypatch: Any, trusted_by: str | None) -> None:
    """A server that is no emulator gets a token over TLS, if its certificate is of an authority that is trusted."""
    server = web(reply({"name": QUEUE}), tls=authority)
    place = {"local": False, "rest": True}
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    if trusted_by is None:
        with raises(errors.EndpointError, "is not trusted", hint="set REQUESTS_CA_BUNDLE to a PEM file"):
            use(server.port, GET, place=place, auth=login())
        return
    monkeypatch.setenv(trusted_by, str(authority.ca))
    assert use(server.port, GET, place=place, auth=login()).name == QUEUE
    assert server.calls[0][4]["authorization"] == "Bearer a-token"

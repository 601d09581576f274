"""Encoded tasks and requests are those that protobuf writes."""

import datetime as dt
from typing import Any

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.fanout.wire import CreateEncoder, http_requests, name_request, split_task, tasks
from cloudtasks_nb.store.results import tag_of

TASK = types.Task.pb()
CREATE = types.CreateTaskRequest.pb()
BATCH = types.BatchCreateTasksRequest.pb()
QUEUE = "projects/p/locations/l/queues/q"
KEY = b"key"
ENCODER = CreateEncoder(QUEUE, KEY)
BODIES = st.binary(max_size=300) | st.sampled_from([b"x" * n for n in (100, 127, 128, 4_000, 16_383, 16_384, 70_000)])
MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(9999, 1, 1))  # noqa: DTZ001 - hypothesis adds the zone
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    url=TEXT,
    method=st.integers(1, 7),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    body=st.one_of(st.binary(), st.integers(100, 20_000).map(bytes)),
    email=st.one_of(st.none(), TEXT),
    due=st.one_of(st.none(), MOMENTS),
    deadline=st.one_of(st.none(), st.timedeltas(dt.timedelta(seconds=15), dt.timedelta(minutes=30))),
    attempts=st.one_of(st.none(), st.integers(-1, 100)),
)
def test_encoding_equals_protobuf(
    *,
    url: str,
    method: int,
    headers: dict[str, str],
    body: bytes,
    email: str | None,
    due: dt.datetime | None,
    deadline: dt.timedelta | None,
    attempts: int | None,
) -> None:
    """A encoded task reads as the one that protobuf builds of the same fields, whole and without its request."""
    whole, settings, time = TASK(), TASK(), TASK()
    head, token = types.HttpRequest.pb()(http_method=method, headers=headers), types.HttpRequest.pb()()
    request = whole.http_request
    request.url, request.http_method, request.body = url, method, body
    for name, value in headers.items():
        request.headers[name] = value
    if email is not None:
        token.oidc_token.service_account_email = email
        request.oidc_token.service_account_email = email
    if due is not None:
        whole.schedule_time.FromDatetime(due)
        time.schedule_time.FromDatetime(due)
    for task in (whole, settings):
        if deadline is not None:
            task.dispatch_deadline.FromTimedelta(deadline)
        if attempts is not None:
            task.retry_config.max_attempts = attempts
    made = http_requests([url], [head.SerializeToString()], [body])
    (encoded,) = tasks(made, [token.SerializeToString()], [time.SerializeToString()], settings.SerializeToString())
    assert TASK.FromString(encoded) == whole
    whole.ClearField("http_request")
    split, rest = split_task(encoded)
    assert (split, TASK.FromString(rest)) == (url, whole)


def _wire(body: bytes) -> bytes:
    wire: bytes = TASK(http_request={"url": "https://svc/x", "body": body}).SerializeToString() if body else b""
    return wire


def _built(task: str, wire: bytes) -> Any:
    request = CREATE(parent=QUEUE, response_view=1)
    request.task.MergeFromString(wire)
    request.task.name = f"{QUEUE}/tasks/{task}"
    request.task.http_request.headers[TAG_HEADER] = tag_of(KEY, task)
    return request


@given(st.lists(st.tuples(st.sampled_from(["a", "b" * 20 + "-a91f03c2-1", "c" * 500]), BODIES), max_size=5))
def test_a_batch_is_what_protobuf_builds(rows: list[tuple[str, bytes]]) -> None:
    """The encoded batch call reads as the message built with protobuf, each task with the header for its tag."""
    tasks, wires = [task for task, _ in rows], [_wire(body) for _, body in rows]
    built = BATCH(parent=QUEUE, request_id="6e1c")
    for task, wire in zip(tasks, wires, strict=True):
        built.requests.append(_built(task, wire))
    assert BATCH.FromString(ENCODER.batch(tasks, wires, "6e1c")) == built


@given(BODIES)
def test_a_single_call_is_what_protobuf_builds(body: bytes) -> None:
    """The encoded single call reads as the message built with protobuf."""
    assert CREATE.FromString(ENCODER.create("t-1", _wire(body))) == _built("t-1", _wire(body))


def test_requests_name_request() -> None:
    """GetTask and GetOperation are asked for by name alone."""
    assert name_request("n" * 200) == types.GetTaskRequest.pb()(name="n" * 200).SerializeToString()
    assert name_request("op") == operations_pb2.GetOperationRequest(name="op").SerializeToString()

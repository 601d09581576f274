"""Protobuf to plain values and back."""

from typing import Any

import numpy as np
import pandas as pd
from google.cloud import tasks_v2beta3
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.rpc import status_pb2

from cloudtasks_nb.service import convert
from cloudtasks_nb.service.convert import decode_body, default_audience, http_target, queue_message, queue_values
from tests.cases import cases

QUEUE = "projects/p/locations/l/queues/q"
NOW = 1_767_225_600_000_000


@cases((1_767_225_601, "scheduled"), (1_767_225_600, "ready"), (0, "ready"))
def test_when_a_task_is_due(due: int, state: str) -> None:
    """At its very time it is ready."""
    assert convert.last_attempt(types.Task.pb()(schedule_time={"seconds": due}), 1_767_225_600_000_000)[0] == state


@cases(
    (b"", None),
    (b'{"a": [1, null]}', {"a": [1, None]}),
    (b"[1, 2]", [1, 2]),
    (b"12", 12),
    (b'"x"', "x"),
    (b"a=1&b=2", "a=1&b=2"),
    ("grüezi".encode(), "grüezi"),
    (b"\xff\xfe", b"\xff\xfe"),
    (b"NaN", "NaN"),
    (b"[18446744073709551616, -9223372036854775809]", [2**64, -(2**63) - 1]),
    (b"[123456789012345678901, 0.12345678901234567890]", [123456789012345678901, 0.12345678901234568]),
    (b"[0.12345678901234567890, -9223372036854775809]", [0.12345678901234568, -9223372036854775809]),
)
def test_bodies_are_decoded(body: bytes, value: Any) -> None:
    """JSON, else text, else the bytes; integers stay integers."""
    found = decode_body(body)
    assert (found, repr(found)) == (value, repr(value))


@cases(
    ("INTERNAL(13): HTTP status code 502", 502),
    ("UNKNOWN(2): HTTP status code 0", None),
    ("ValueError: HTTP status code 502", None),
    (None, None),
)
def test_the_http_status_of_an_attempt(message: str | None, status: int | None) -> None:
    """Only the service's own text names the status; 0 is no answer."""
    assert convert.http_status(message) == status


def test_settings_become_a_queue_and_its_mask() -> None:
    """The mask names exactly the words that were given; a value that comes out of a frame can be a setting."""
    words = {"rate": 0.5, "max_concurrent": 8, "max_attempts": -1, "min_backoff": "250ms", "log_sampling_ratio": 1}
    message, mask = queue_message(QUEUE, words)
    assert mask == [
        *("rate_limits.max_dispatches_per_second", "rate_limits.max_concurrent_dispatches"),
        *("retry_config.max_attempts", "retry_config.min_backoff", "stackdriver_logging_config.sampling_ratio"),
    ]
    expected = {**words, "min_backoff": 0.25, "log_sampling_ratio": 1.0, "name": QUEUE, "queue": "q"}
    assert {name: queue_values(message)[name] for name in expected} == expected
    numpy, _ = queue_message(QUEUE, {"rate": np.float32(0.5), "max_concurrent": pd.Series([8]).iloc[0]})
    assert queue_values(numpy)["max_concurrent"] == 8


def test_a_queue_as_rest_writes_it() -> None:
    """The same words in the field names of the REST API, and only those that were given."""
    assert convert.queue_json(QUEUE, {"rate": 0.5, "max_attempts": 3, "min_backoff": "250ms"}) == {
        "name": QUEUE,
        "rateLimits": {"maxDispatchesPerSecond": 0.5},
        "retryConfig": {"maxAttempts": 3, "minBackoff": "0.250s"},
    }


def test_statistics_where_there_are_some() -> None:
    """Only v2beta3 has statistics, and only when it was asked for them."""
    beta = tasks_v2beta3.Queue.pb()(name=QUEUE, state=2)
    assert [one for one in (beta, types.Queue.pb()(name=QUEUE, state=1)) if "tasks" in queue_values(one)] == []
    beta.stats.tasks_count, beta.stats.effective_execution_rate = 5, 2.5
    expected = {"state": "PAUSED", "tasks": 5, "oldest_due": None, "running": 0, "effective_rate": 2.5}
    assert expected.items() <= queue_values(beta).items()
    beta.stats.oldest_estimated_arrival_time.seconds = 7
    assert queue_values(beta)["oldest_due"] == 7_000_000


@cases(
    ("https://other.example.com", "https://other.example.com:443/*"),
    ("http://127.0.0.1:8080/run?x=1", "http://127.0.0.1:8080/run?x=1"),
    ("http://[::1]/", "http://::1:80/*"),
)
def test_a_route_overrides_what_its_url_has(url: str, shown: str) -> None:
    """What the URL leaves out stays each task's own, which the queue's `target` says with a star."""
    queue = types.Queue.pb()(name=QUEUE, http_target=http_target(url, "sa@p", None))
    assert queue_values(queue)["target"] == shown
    assert queue.http_target.oidc_token.service_account_email == "sa@p"
    assert queue.http_target.oidc_token.audience == default_audience(url)


@cases(
    *((f"https://svc-abc123.a.run.app{path}", "https://svc-abc123.a.run.app") for path in ("/JFK?x=1", "")),
    *((url, "https://svc.example") for url in ("https://svc.example?x=/y#z", "HTTPS://user:pw@SVC.example:443/Run")),
    *(("https://svc.example:8443/run", "https://svc.example:8443"), ("http://svc.example:80/", "http://svc.example")),
    *(("http://[::1]:8080/run", "http://[::1]:8080"), ("svc/run", "")),
    ("https://us-central1-p.cloudfunctions.net/Report/a?x=1", "https://us-central1-p.cloudfunctions.net/Report/a"),
)
def test_the_default_audience(url: str, audience: str) -> None:
    """It is the origin, so that it is the same for all paths of a service; for Cloud Functions all but the query."""
    assert default_audience(url) == audience


def test_a_route_that_only_signs() -> None:
    """Without a URL every task keeps its own."""
    target = http_target(None, "sa@p", "aud")
    assert (target.HasField("uri_override"), target.oidc_token.audience) == (False, "aud")


def test_failures_of_a_batch_delete() -> None:
    """Indexes lead to reasons, the code's name where there is no text."""
    facts = types.BatchDeleteTasksMetadata.pb()()
    facts.failed_requests[3].CopyFrom(status_pb2.Status(code=5, message="not there"))
    facts.failed_requests[7].CopyFrom(status_pb2.Status(code=7))
    operation = operations_pb2.Operation(done=True)
    operation.metadata.Pack(facts)
    assert convert.delete_failures(operation) == {3: "not there", 7: "PERMISSION_DENIED"}


def test_methods_are_googles() -> None:
    """The table of HTTP methods has Google's numbers."""
    assert [types.HttpMethod(number).name for number in range(1, 8)] == list(convert.HTTP_METHODS[1:])

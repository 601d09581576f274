"""`Queue.enqueue` and `Queue.schedule`: what arrives at the target, and what is in the queue."""

from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.cases import cases
from tests.integration.conftest import Emulator, Intercept, Target

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True

NOWHERE = "http://127.0.0.1:9/never"


@cases(
    ({"day": "2026-01-01", "n": [1, None]}, b'{"day":"2026-01-01","n":[1,null]}', "application/json"),
    ("a={b}&c=1", b"a={b}&c=1", None),
    (b"grue\xc3\xa9zi {x}", b"grue\xc3\xa9zi {x}", None),
    (None, b"", None),
)
def test_bodies(queue: ct.Queue, target: Target, body: Any, sent: bytes, kind: str | None) -> None:
    """JSON values are sent as JSON, text and bytes as they are, braces included."""
    queue.enqueue(target.url, body)
    request = target.wait(1)[0]
    assert (request.method, request.path, request.body) == ("POST", "/job", sent)
    if kind is not None:
        assert request.headers["content-type"] == kind


def test_the_words_of_a_task(paused: ct.Queue, emulator: Emulator) -> None:
    """Every word reaches the service."""
    retry: dict[str, Any] = {"max_attempts": 3, "min_backoff": "2s"}
    account: dict[str, Any] = {"service_account": "sa@p.iam.gserviceaccount.com"}
    made = paused.enqueue(NOWHERE, task_id="t", audience="aud", dispatch_deadline="30s", retry=retry, **account)
    found = made[["dispatch_deadline", "service_account"]]
    assert found.to_dict("index") == {"t": {"dispatch_deadline": pd.Timedelta("30s"), **account}}
    stored = emulator.client.get_task(name=f"{paused.name}/tasks/t")
    assert stored.http_request.oidc_token.audience == "aud"
    assert (stored.retry_config.max_attempts, stored.retry_config.min_backoff.total_seconds()) == (3, 2)


@pytest.mark.parametrize("left", [False, True])
def test_an_answer_that_was_lost(paused: ct.Queue, emulator: Emulator, intercept: Intercept, *, left: bool) -> None:
    """A task whose creation was not confirmed is created once; one that has left the queue already is `gone`."""

    async def lose(call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        answer = await call()
        if rpc != "CreateTask":
            return answer
        if left:
            emulator.client.delete_task(name=answer.name)
        raise errors.AlreadyExistsError("there", code="ALREADY_EXISTS")

    intercept(lose)
    made = paused.enqueue(NOWHERE, {"n": 1})
    assert made.state.tolist() == ["gone" if left else "ready"]
    assert made.url.tolist() == [NOWHERE]
    assert paused.tasks().index.tolist() == ([] if left else made.index.tolist())


def test_integers_of_more_than_64_bits(queue: ct.Queue, target: Target) -> None:
    """No digit is lost on the way to the target, in the body of a task or of a row, in a URL, or when it is shown."""
    queue.pause().enqueue(NOWHERE, {"n": 2**70 + 1})
    assert queue.tasks(body=True)["body"].tolist() == [{"n": 2**70 + 1}]
    queue.purge().resume()
    rows = pd.DataFrame({"n": [2**80 + 1]})
    batch = queue.fan_out(rows, url=f"{target.url}/{{n}}", body={"is": "{n}"}, progress=False)
    (received,) = target.wait()
    assert (received.path, received.body) == (f"/job/{2**80 + 1}", b'{"is":%d}' % (2**80 + 1))
    batch.wait()
    assert batch.tasks()["n"].tolist() == [2**80 + 1]


def test_bytes_that_are_no_text(paused: ct.Queue) -> None:
    """They are sent as they are, and shown as bytes."""
    paused.enqueue(NOWHERE, b"\xff\xfe{}")
    assert paused.tasks(body=True)["body"].tolist() == [b"\xff\xfe{}"]

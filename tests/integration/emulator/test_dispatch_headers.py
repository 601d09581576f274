"""The requests that a target receives: method, headers and body of each attempt."""

import pytest
from google.cloud import tasks_v2
from google.rpc import code_pb2

from tests.integration.conftest import Answer, Emulator, Target
from tests.integration.emulator.conftest import LOGGED, QUICK, counts, log_entries
from tests.web import Request

ALWAYS = {"queuename", "taskname", "taskretrycount", "taskexecutioncount", "tasketa"}
RETRIED = ALWAYS | {"taskpreviousresponse", "taskretryreason"}


def ours(request: Request) -> dict[str, str]:
    """Give a request's Cloud Tasks headers by the rest of their names."""
    prefix = "x-cloudtasks-"
    return {name.removeprefix(prefix): text for name, text in request.headers.items() if name.startswith(prefix)}


def test_the_first_request(emulator: Emulator, queue: str, target: Target) -> None:
    """The request has the task's content, and five headers about the task."""
    http = {"body": b'{"day": 1}', "headers": {"Content-Type": "application/json", "X-Mine": "a b"}}
    task = emulator.enqueue(queue, f"{target.url}/sub?q=1&r=%20", http)
    (request,) = target.wait()
    assert (request.method, request.path, request.body) == ("POST", "/job/sub?q=1&r=%20", b'{"day": 1}')
    sent, short = ours(request), (queue.rpartition("/")[2], task.name.rpartition("/")[2])
    assert (set(sent), (sent["queuename"], sent["taskname"])) == (ALWAYS, short)
    assert sent["tasketa"] == f"{task.schedule_time.timestamp():.6f}"
    assert counts(request) == ("0", "0", None, None)
    given = {"user-agent": "Google-Cloud-Tasks", "content-type": "application/json", "x-mine": "a b"}
    assert request.headers.items() >= {**given, "host": f"127.0.0.1:{target.port}"}.items()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_every_method(emulator: Emulator, queue: str, target: Target, method: str) -> None:
    """A task is sent with its own method; POST, PUT and PATCH carry the body."""
    body = b"body" if method in {"POST", "PUT", "PATCH"} else b""
    emulator.enqueue(queue, target.url, {"http_method": method, "body": body})
    (request,) = target.wait()
    assert (request.method, request.body) == (method, body)


def test_the_recorded_sequence_of_answers(emulator: Emulator, target: Target) -> None:
    """The counts on each attempt are those recorded from the real service: 5xx do not count as executions."""
    target.script(503, 404, 429, 500, 302, 200)
    task = emulator.enqueue(emulator.make_queue(retry_config=QUICK), target.url)
    requests = target.wait(6)
    retried = [("1", "0", "503"), ("2", "1", "404"), ("3", "2", "429"), ("4", "2", "500"), ("5", "3", "302")]
    assert [counts(one) for one in requests] == [("0", "0", None, None), *((*counted, "") for counted in retried)]
    assert [ours(request).keys() for request in requests] == [ALWAYS] + [RETRIED] * 5
    emulator.gone(task.name)
    assert len(target.received) == 6


def test_a_deadline_that_passes(emulator: Emulator, target: Target) -> None:
    """An attempt without an answer ends at the deadline; the next one names 504, and no response is counted."""
    queue, held = emulator.make_queue(**LOGGED), target.hold()
    target.script(held)
    task = emulator.enqueue(queue, target.url, dispatch_deadline={"seconds": 15})
    target.wait()
    emulator.client.pause_queue(name=queue)
    emulator.advance(16)
    retrying = emulator.tried(task.name)
    held.release()
    assert retrying.last_attempt.response_status.code == code_pb2.DEADLINE_EXCEEDED
    assert (retrying.dispatch_count, retrying.response_count) == (1, 0)
    entry = log_entries(emulator, queue, 3)[-1]["jsonPayload"]["attemptResponseLog"]
    assert (entry["status"], entry["dispatchCount"], entry["responseCount"]) == ("DEADLINE_EXCEEDED", "1", "0")
    emulator.client.resume_queue(name=queue)
    assert counts(target.wait(2)[1]) == ("1", "0", "504", "")


def test_an_answer_that_fails_an_attempt(failed_once: tasks_v2.Task) -> None:
    """It is kept as the last attempt's status, in canonical form."""
    task, attempt = failed_once, failed_once.last_attempt
    assert attempt.response_status.message == "INTERNAL(13): HTTP status code 500"
    assert attempt.response_status.code == code_pb2.INTERNAL
    assert attempt.schedule_time <= attempt.dispatch_time <= attempt.response_time <= task.schedule_time
    assert task.first_attempt.dispatch_time == attempt.dispatch_time
    assert "response_time" not in task.first_attempt
    assert (task.dispatch_count, task.response_count) == (1, 1)


def test_a_redirect_in_a_circle(emulator: Emulator, target: Target) -> None:
    """Endless redirects are a failed attempt."""
    target.script(*[Answer(status=307, headers={"Location": "/job"})] * 50)
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 100}})
    task = emulator.tried(emulator.enqueue(queue, target.url).name)
    assert task.dispatch_count == 1
    assert task.last_attempt.response_status.message == "UNKNOWN(2): HTTP status code 307"

"""Refusals carry the code and the exact text of the real service (and its links, where it gives some)."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core.exceptions import (
    AlreadyExists,
    BadRequest,
    FailedPrecondition,
    GoogleAPICallError,
    InvalidArgument,
    NotFound,
)
from google.cloud import tasks_v2
from google.protobuf.json_format import MessageToDict

from tests.integration.conftest import LOCATION, MakeQueue, refusal

BOTH_TRANSPORTS = True
QUEUE = f"{LOCATION}/queues/here"  # it holds the task `live`; the task `dead` was deleted
OTHER = f"{LOCATION}/queues/other"
DELETED = f"{LOCATION}/queues/deleted"
MISSING = f"{LOCATION}/queues/missing"
URL = "https://example.com/"

NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
NEGATIVE_RATE = "RateLimits.maxDispatchesPerSecond cannot be negative."
BACKOFFS = "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff."
DEADLINE = "Task.dispatchDeadline must be between [15s, 30m]."
NO_SCHEME = "HttpTarget.url must start with 'http://' or 'https://'."
NO_ENTITY = "Requested entity was not found."
QUEUE_FORMAT = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'
TASK_FORMAT = (
    'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>/tasks/<TASK_ID>"'
)
TASK_WAS = (
    "The task no longer exists, though a task with this name existed recently. "
    "The task either successfully completed or was deleted."
)
TASK_TOO_RECENT = (
    "The task cannot be created because a task with this name existed too recently. For more information about task "
    "de-duplication see https://cloud.google.com/tasks/docs/reference/rest/v2/"
    "projects.locations.queues.tasks/create#body.request_body.FIELDS.task."
)
REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues"


@pytest.fixture(scope="module", autouse=True)
def resources(client: tasks_v2.CloudTasksClient) -> None:
    """Create the queues and tasks of the cases."""
    for queue in (QUEUE, OTHER, DELETED):
        client.create_queue({"parent": LOCATION, "queue": {"name": queue}})
        client.pause_queue(name=queue)
    client.delete_queue(name=DELETED)
    for name in ("live", "dead"):
        client.create_task(create(name=f"{QUEUE}/tasks/{name}"))
    client.delete_task(name=f"{QUEUE}/tasks/dead")


def create(parent: str = QUEUE, url: str = URL, **task: object) -> dict[str, Any]:
    """Build a CreateTaskRequest."""
    return {"parent": parent, "task": {"http_request": {"url": url}, **task}}


def limits(**fields: object) -> dict[str, Any]:
    """Build a CreateQueueRequest with rate limits."""
    return {"parent": LOCATION, "queue": {"name": f"{LOCATION}/queues/new", "rate_limits": fields}}


def retry(**fields: object) -> dict[str, Any]:
    """Build a CreateQueueRequest with a retry configuration."""
    return {"parent": LOCATION, "queue": {"name": f"{LOCATION}/queues/new", "retry_config": fields}}


def named(queue: str) -> dict[str, Any]:
    """Build a CreateQueueRequest with a name."""
    return {"parent": LOCATION, "queue": {"name": queue}}


def seconds(number: float) -> dict[str, int]:
    """Build a duration."""
    return {"seconds": int(number), "nanos": int((number - int(number)) * 1e9)}


def bad_id(task_id: str) -> str:
    """Give the text about a task id that cannot be."""
    return (
        f'Task ID "{task_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or underscores (_). '
        "Task ID must between 1 and 500 characters."
    )


def too_far(time: str) -> str:
    """Give the text about a schedule time that is too far ahead."""
    return (
        f"The Task.scheduleTime, {time}, is too far in the future. "
        "Schedule time must be no more than 720h in the future."
    )


QUEUES: list[tuple[str, dict[str, Any], type[GoogleAPICallError], str]] = [
    ("get_queue", {"name": MISSING}, NotFound, NO_QUEUE),
    ("get_queue", {"name": DELETED}, NotFound, NO_QUEUE),
    ("pause_queue", {"name": MISSING}, NotFound, NO_QUEUE),
    ("pause_queue", {"name": DELETED}, NotFound, NO_QUEUE),
    ("resume_queue", {"name": MISSING}, NotFound, NO_QUEUE),
    ("purge_queue", {"name": MISSING}, NotFound, NO_QUEUE),
    ("delete_queue", {"name": MISSING}, NotFound, NO_ENTITY),
    ("create_queue", named(QUEUE), AlreadyExists, "Queue already exists"),
    (
        "create_queue",
        named(DELETED),
        FailedPrecondition,
        "The queue cannot be created because a queue with this name existed too recently.",
    ),
    ("create_queue", named("wrong"), InvalidArgument, QUEUE_FORMAT),
    ("create_queue", named(f"{LOCATION}/queues/under_score"), InvalidArgument, QUEUE_FORMAT),
    ("create_queue", named(f"{LOCATION}/queues/{'x' * 101}"), InvalidArgument, QUEUE_FORMAT),
    (
        "create_queue",
        named("projects/demo/locations/asia-east1/queues/new"),
        InvalidArgument,
        f"projects/demo/locations/asia-east1/queues/new must begin with {LOCATION}.",
    ),
    *(
        ("create_queue", message, InvalidArgument, text)
        for message, text in (
            (limits(max_dispatches_per_second=-1), NEGATIVE_RATE),
            (
                limits(max_dispatches_per_second=500.5),
                "RateLimits.maxDispatchesPerSecond must be less than or equal to 500.",
            ),
            (limits(max_concurrent_dispatches=-1), "RateLimits.maxConcurrentDispatches cannot be negative."),
            (
                limits(max_concurrent_dispatches=5001),
                "RateLimits.maxConcurrentDispatches must be less than or equal to 5000.",
            ),
            (retry(max_attempts=-2), "RetryConfig.maxAttempts must be greater or equal to -1."),
            (retry(max_doublings=-1), "RetryConfig.maxDoublings cannot be negative."),
            (retry(min_backoff=seconds(-1)), "RetryConfig.minBackoff cannot be negative."),
            (retry(min_backoff=seconds(10), max_backoff=seconds(5)), BACKOFFS),
        )
    ),
    ("update_queue", {"queue": limits(max_dispatches_per_second=-1)["queue"]}, InvalidArgument, NEGATIVE_RATE),
]

TASKS: list[tuple[str, dict[str, Any], type[GoogleAPICallError], str]] = [
    ("create_task", create(parent=MISSING), NotFound, NO_QUEUE),
    ("create_task", create(parent=DELETED), NotFound, NO_QUEUE),
    ("create_task", create(name=f"{QUEUE}/tasks/live"), AlreadyExists, "Requested entity already exists"),
    ("create_task", create(name=f"{QUEUE}/tasks/dead"), AlreadyExists, TASK_TOO_RECENT),
    ("create_task", create(name=f"{QUEUE}/tasks/a b"), InvalidArgument, bad_id("a b")),
    ("create_task", create(name=f"{QUEUE}/tasks/{'x' * 501}"), InvalidArgument, bad_id("x" * 501)),
    ("create_task", create(name="wrong"), InvalidArgument, TASK_FORMAT),
    (
        "create_task",
        create(name=f"{OTHER}/tasks/a"),
        InvalidArgument,
        f"The queue name from request ('{QUEUE}') must be the same as the queue name in the named task ('{OTHER}').",
    ),
    ("create_task", {"parent": QUEUE, "task": {}}, InvalidArgument, "Task.payload_type is not set."),
    ("create_task", create(url=""), InvalidArgument, "HttpRequest.url is required."),
    ("create_task", create(url="example.com"), InvalidArgument, NO_SCHEME),
    (
        "create_task",
        create(schedule_time={"seconds": 4_102_444_800}),
        InvalidArgument,
        too_far("2099-12-31T16:00:00-08:00"),
    ),
    (
        "create_task",
        create(schedule_time={"seconds": 4_118_083_200}),
        InvalidArgument,
        too_far("2100-06-30T17:00:00-07:00"),
    ),
    ("create_task", create(dispatch_deadline=seconds(14.9)), InvalidArgument, DEADLINE),
    ("create_task", create(dispatch_deadline=seconds(1801)), InvalidArgument, DEADLINE),
    ("get_task", {"name": f"{QUEUE}/tasks/none"}, NotFound, NO_ENTITY),
    ("get_task", {"name": f"{QUEUE}/tasks/dead"}, NotFound, TASK_WAS),
    ("delete_task", {"name": f"{QUEUE}/tasks/none"}, NotFound, NO_ENTITY),
    ("run_task", {"name": f"{QUEUE}/tasks/none"}, NotFound, NO_ENTITY),
    *((rpc, {"name": f"{QUEUE}/tasks/dead"}, NotFound, TASK_WAS) for rpc in ("delete_task", "run_task")),
    ("list_tasks", {"parent": MISSING}, NotFound, NO_QUEUE),
]


@pytest.mark.parametrize(("rpc", "message", "error", "text"), QUEUES + TASKS)
def test_a_refusal_has_the_services_code_and_text(
    client: tasks_v2.CloudTasksClient,
    rpc: str,
    message: dict[str, Any],
    error: type[GoogleAPICallError],
    text: str,
) -> None:
    """An invalid request is refused with the code and the text of the real service."""
    with pytest.raises(GoogleAPICallError) as caught:
        getattr(client, rpc)(message)
    assert error.grpc_status_code is not None
    assert refusal(caught.value) == (error.grpc_status_code.name, text)


@pytest.mark.parametrize(
    ("rpc", "message", "description", "link"),
    [
        ("create_queue", named("wrong"), "Definition of queue name", f"{REFERENCE}#Queue.FIELDS.name"),
        (
            "create_task",
            create(name=f"{QUEUE}/tasks/a b"),
            "Definition of task ID",
            f"{REFERENCE}.tasks#Task.FIELDS.name",
        ),
    ],
)
def test_a_bad_name_comes_with_a_link(
    client: tasks_v2.CloudTasksClient, rpc: str, message: dict[str, Any], description: str, link: str
) -> None:
    """The refusal of a name links to its definition."""
    with pytest.raises(BadRequest) as caught:
        getattr(client, rpc)(message)
    (help_,) = caught.value.details
    shown = help_ if isinstance(help_, dict) else MessageToDict(help_)  # Google's REST client does not parse it
    assert shown["links"] == [{"description": description, "url": link}]


@pytest.mark.grpc_only("a request of HTTP does not tell its deadline")
@pytest.mark.parametrize("timeout", [None, 20, 30])
def test_deadlines_that_are_taken(client: tasks_v2.CloudTasksClient, timeout: float | None) -> None:
    """A call may wait thirty seconds, or say nothing of a deadline."""
    assert client.get_queue(name=QUEUE, timeout=timeout, retry=None).name == QUEUE


@pytest.mark.grpc_only("a request of HTTP does not tell its deadline")
def test_a_deadline_too_far_ahead(client: tasks_v2.CloudTasksClient) -> None:
    """A call that would wait for more than thirty seconds is refused, as the real service does."""
    with pytest.raises(InvalidArgument) as caught:
        client.get_queue(name=QUEUE, timeout=31, retry=None)
    before, _, after = caught.value.message.partition("20")
    assert before == "The request deadline is "
    assert after.endswith(". The deadline cannot be more than 30s in the future.")


def test_a_burst_size_is_ignored(client: tasks_v2.CloudTasksClient, make_queue: MakeQueue) -> None:
    """`max_burst_size` is output only: a wrong one is no error."""
    queue = make_queue(rate_limits={"max_burst_size": -1})
    assert client.get_queue(name=queue).rate_limits.max_burst_size == 100


def test_a_refused_queue_was_not_made(client: tasks_v2.CloudTasksClient) -> None:
    """Nothing of a refused request stays behind."""
    with pytest.raises(BadRequest):
        client.create_queue(limits(max_dispatches_per_second=501))
    with pytest.raises(NotFound):
        client.get_queue(name=f"{LOCATION}/queues/new")


def test_header_names_are_checked(client: tasks_v2.CloudTasksClient) -> None:
    """A header that HTTP has no name for is refused when the task or the queue is created."""
    target = {"header_overrides": [{"header": {"key": "X A", "value": "1"}}]}
    task = {"http_request": {"url": URL, "headers": {"X A": "1"}}}
    with pytest.raises(BadRequest, match='"X A" is not the name of an HTTP header'):
        client.create_task({"parent": QUEUE, "task": task})
    with pytest.raises(BadRequest, match='"X A" is not the name of an HTTP header'):
        client.create_queue({"parent": LOCATION, "queue": {"name": f"{QUEUE}-odd", "http_target": target}})

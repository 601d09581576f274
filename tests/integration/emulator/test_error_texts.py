"""Refusals carry the code and the exact text of the real service (and its links, where it gives some)."""

from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, GoogleAPICallError, InvalidArgument
from google.cloud.location.locations_pb2 import GetLocationRequest
from google.longrunning.operations_pb2 import GetOperationRequest
from google.protobuf.json_format import MessageToDict

from tests.cases import cases
from tests.integration.conftest import LOCATION, Emulator, refusal

BOTH_TRANSPORTS = True
QUEUE = f"{LOCATION}/queues/here"  # it holds the task `live`; the task `dead` was deleted
OTHER = f"{LOCATION}/queues/other"
DELETED = f"{LOCATION}/queues/deleted"
MISSING = f"{LOCATION}/queues/missing"
BAD_TASK = f"{QUEUE}/tasks/a b"
ELSEWHERE = "projects/demo/locations/asia-east1/queues/new"
KEY = f"{LOCATION}/cmekConfig"
URL = "https://example.com/"

NO_QUEUE = "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize."
NEGATIVE: dict[str, Any] = {"rate_limits": {"max_dispatches_per_second": -1}}
NEGATIVE_RATE = "RateLimits.maxDispatchesPerSecond cannot be negative."
BAD_RESOURCE = "Invalid resource field value in the request."
NO_FIELD = "Invalid update mask."
TOO_MANY = "The number of names must be at most 1000."
NO_BATCH = "All tasks must be in the queue that is the parent of the batch."
QUEUE_TOO_RECENT = "The queue cannot be created because a queue with this name existed too recently."
OTHER_QUEUE = (
    f"The queue name from request ('{QUEUE}') must be the same as the queue name in the named task ('{OTHER}')."
)
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


@pytest.fixture(autouse=True)
def _resources(emulator: Emulator) -> None:
    """Create the queues and tasks of the cases."""
    queues = [{"name": queue, "state": "PAUSED"} for queue in (QUEUE, OTHER, DELETED)]
    emulator.request("POST", "/admin/seed", {"queues": queues})
    emulator.client.delete_queue(name=DELETED)
    for name in ("live", "dead"):
        emulator.client.create_task(create(name=f"{QUEUE}/tasks/{name}"))
    emulator.client.delete_task(name=f"{QUEUE}/tasks/dead")


def create(parent: str = QUEUE, url: str = URL, **task: object) -> dict[str, Any]:
    """Build a CreateTaskRequest."""
    return {"parent": parent, "task": {"http_request": {"url": url}, **task}}


def named(queue: str, **fields: object) -> dict[str, Any]:
    """Build a CreateQueueRequest with a name."""
    return {"parent": LOCATION, "queue": {"name": queue, **fields}}


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


NOT_FOUND, INVALID, EXISTS = "NOT_FOUND", "INVALID_ARGUMENT", "ALREADY_EXISTS"
POLICIES = ("get_iam_policy", "set_iam_policy", "test_iam_permissions")
UNKNOWN_QUEUE = ("get_queue", "pause_queue", "resume_queue", "purge_queue")


# A call of Google's client, its request, and the code and the text with which it is refused.
@cases(
    *((rpc, {"name": name}, NOT_FOUND, NO_QUEUE) for rpc in UNKNOWN_QUEUE for name in (MISSING, DELETED)),
    ("delete_queue", {"name": MISSING}, NOT_FOUND, NO_ENTITY),
    ("create_queue", named(QUEUE), EXISTS, "Queue already exists"),
    ("create_queue", named(DELETED), "FAILED_PRECONDITION", QUEUE_TOO_RECENT),
    ("create_queue", named("wrong"), INVALID, QUEUE_FORMAT),
    ("create_queue", named(f"{LOCATION}/queues/under_score"), INVALID, QUEUE_FORMAT),
    ("create_queue", named(f"{LOCATION}/queues/{'x' * 101}"), INVALID, QUEUE_FORMAT),
    ("create_queue", named(ELSEWHERE), INVALID, f"{ELSEWHERE} must begin with {LOCATION}."),
    ("create_queue", named(f"{LOCATION}/queues/new", **NEGATIVE), INVALID, NEGATIVE_RATE),
    ("update_queue", {"queue": {"name": f"{LOCATION}/queues/new", **NEGATIVE}}, INVALID, NEGATIVE_RATE),
    ("create_task", create(parent=MISSING), NOT_FOUND, NO_QUEUE),
    ("create_task", create(parent=DELETED), NOT_FOUND, NO_QUEUE),
    ("create_task", create(name=f"{QUEUE}/tasks/live"), EXISTS, "Requested entity already exists"),
    ("create_task", create(name=f"{QUEUE}/tasks/dead"), EXISTS, TASK_TOO_RECENT),
    ("create_task", create(name=BAD_TASK), INVALID, bad_id("a b")),
    ("create_task", create(name=f"{QUEUE}/tasks/{'x' * 501}"), INVALID, bad_id("x" * 501)),
    ("create_task", create(name="wrong"), INVALID, TASK_FORMAT),
    ("create_task", create(name=f"{OTHER}/tasks/a"), INVALID, OTHER_QUEUE),
    ("create_task", {"parent": QUEUE, "task": {}}, INVALID, "Task.payload_type is not set."),
    ("create_task", create(url=""), INVALID, "HttpRequest.url is required."),
    ("create_task", create(url="example.com"), INVALID, NO_SCHEME),
    ("create_task", create(schedule_time={"seconds": 4_102_444_800}), INVALID, too_far("2099-12-31T16:00:00-08:00")),
    ("create_task", create(schedule_time={"seconds": 4_118_083_200}), INVALID, too_far("2100-06-30T17:00:00-07:00")),
    *((rpc, {"name": f"{QUEUE}/tasks/none"}, NOT_FOUND, NO_ENTITY) for rpc in ("get_task", "delete_task", "run_task")),
    *((rpc, {"name": f"{QUEUE}/tasks/dead"}, NOT_FOUND, TASK_WAS) for rpc in ("get_task", "delete_task", "run_task")),
    ("list_tasks", {"parent": MISSING}, NOT_FOUND, NO_QUEUE),
    ("batch_create_tasks", {"parent": MISSING, "requests": [create(parent=MISSING)]}, NOT_FOUND, NO_QUEUE),
    ("batch_delete_tasks", {"parent": QUEUE, "names": [f"{QUEUE}/tasks/t{n}" for n in range(1001)]}, INVALID, TOO_MANY),
    ("batch_delete_tasks", {"parent": QUEUE, "names": [f"{QUEUE}/tasks/live", f"{OTHER}/tasks/a"]}, INVALID, NO_BATCH),
    ("get_operation", GetOperationRequest(name=f"{LOCATION}/operations/none"), NOT_FOUND, NO_ENTITY),
    ("get_location", GetLocationRequest(name="projects/demo/locations/atlantis"), NOT_FOUND, NO_ENTITY),
    ("update_cmek_config", {"cmek_config": {"name": KEY}, "update_mask": {"paths": ["colour"]}}, INVALID, NO_FIELD),
    *((rpc, {"resource": f"{LOCATION}/queues/under_score"}, INVALID, BAD_RESOURCE) for rpc in POLICIES),
)
def test_a_refusal_has_the_services_code_and_text(
    emulator: Emulator, rpc: str, request_: Any, code: str, text: str
) -> None:
    """An invalid request is refused with the code and the text of the real service, and changes nothing."""
    before = everything(emulator)
    with pytest.raises(GoogleAPICallError) as caught:
        getattr(emulator.client, rpc)(request_)
    assert refusal(caught.value) == (code, text)
    assert everything(emulator) == before


def everything(emulator: Emulator) -> list[Any]:
    """Return the queues, and the tasks of the first one."""
    return [*emulator.client.list_queues(parent=LOCATION), *emulator.client.list_tasks(parent=QUEUE)]


@cases(
    ("create_queue", named("wrong"), "Definition of queue name", f"{REFERENCE}#Queue.FIELDS.name"),
    ("create_task", create(name=BAD_TASK), "Definition of task ID", f"{REFERENCE}.tasks#Task.FIELDS.name"),
)
def test_a_bad_name_comes_with_a_link(
    emulator: Emulator, rpc: str, message: dict[str, Any], description: str, link: str
) -> None:
    """The refusal of a name links to its definition."""
    with pytest.raises(BadRequest) as caught:
        getattr(emulator.client, rpc)(message)
    (help_,) = caught.value.details
    shown = help_ if isinstance(help_, dict) else MessageToDict(help_)  # Google's REST client does not parse it
    assert shown["links"] == [{"description": description, "url": link}]


@pytest.mark.grpc_only("a request of HTTP does not tell its deadline")
def test_a_deadline_too_far_ahead(emulator: Emulator) -> None:
    """A call that would wait for more than thirty seconds is refused, as the real service does; thirty are taken."""
    assert emulator.client.get_queue(name=QUEUE, timeout=30, retry=None).name == QUEUE
    with pytest.raises(InvalidArgument) as caught:
        emulator.client.get_queue(name=QUEUE, timeout=31, retry=None)
    before, _, after = caught.value.message.partition("20")
    assert before == "The request deadline is "
    assert after.endswith(". The deadline cannot be more than 30s in the future.")

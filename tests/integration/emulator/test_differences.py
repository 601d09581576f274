"""The defaults in which the emulator differs from the service, as the README's table says, and its options."""

import re
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, NotFound
from google.cloud import tasks_v2beta3
from google.iam.v1 import iam_policy_pb2
from google.iam.v1.policy_pb2 import Binding, Policy

from cloudtasks_nb.emulator.model.settings import Settings
from tests.cases import cases
from tests.integration.conftest import LOCATION, PATIENCE, Answer, Emulator, StartEmulator, Target, options
from tests.integration.emulator.conftest import batch

HOUR = 3_600


@pytest.mark.parametrize("status", [429, 503])
def test_a_queue_is_not_slowed_down(emulator: Emulator, target: Target, status: int) -> None:
    """A backlog is sent without a ramp, whatever the target answers; `Retry-After` delays the one task."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": HOUR}, "max_backoff": {"seconds": HOUR}})
    emulator.client.pause_queue(name=queue)
    emulator.client.batch_create_tasks(batch(queue, 80, url=target.url))
    later = Answer(status=status, headers={"Retry-After": str(2 * HOUR)})
    target.script(later, *[status] * 40)
    emulator.client.resume_queue(name=queue)
    target.wait(80)
    tasks = emulator.client.list_tasks
    emulator.until(lambda: [bool(task.response_count) for task in tasks(parent=queue)] == [True] * 41)
    delays = sorted(task.schedule_time - task.last_attempt.response_time for task in tasks(parent=queue))
    assert [round(delay / timedelta(hours=1), 2) for delay in delays] == [1] * 40 + [2]
    client = emulator.connect(tasks_v2beta3.CloudTasksClient)
    assert client.get_queue({"name": queue, "read_mask": "stats"}).stats.effective_execution_rate == 500


def test_nobody_needs_credentials_roles_or_quota(emulator: Emulator, queue: str, target: Target) -> None:
    """Without `--strict` any token will do, a policy keeps nobody out, and 61 RunTask in a minute are executed."""
    assert emulator.request("GET", f"/v2/{queue}")["name"] == queue
    assert emulator.request("GET", f"/v2/{queue}", headers={"Authorization": "Bearer nonsense"})["name"] == queue
    others = Policy(bindings=[Binding(role="roles/cloudtasks.admin", members=["user:somebody@example.com"])])
    emulator.client.set_iam_policy(iam_policy_pb2.SetIamPolicyRequest(resource=queue, policy=others))
    asked = ["cloudtasks.tasks.create", "cloudtasks.queues.delete"]
    question = iam_policy_pb2.TestIamPermissionsRequest(resource=queue, permissions=asked)
    assert list(emulator.client.test_iam_permissions(question).permissions) == asked
    emulator.client.pause_queue(name=queue)
    for _ in range(61):  # the service allows 60 a minute
        emulator.client.run_task(name=emulator.enqueue(queue, target.url).name)
    target.wait(61)


def test_an_encryption_key_changes_nothing(emulator: Emulator, target: Target) -> None:
    """A location's key is stored; a queue with a route, which Google refuses beside a key, is filled and sends."""
    name = "projects/demo/locations/us-central1/cmekConfig"
    key = "projects/demo/locations/us-central1/keyRings/r/cryptoKeys/destroyed"
    emulator.client.update_cmek_config({"cmek_config": {"name": name, "kms_key": key}})
    route = {"uri_override": {"scheme": "HTTP", "host": "127.0.0.1", "port": target.port}}
    task = emulator.enqueue(emulator.make_queue(http_target=route), "https://nowhere.invalid/", {"body": b"plain"})
    assert target.wait()[0].body == b"plain"
    emulator.gone(task.name)
    assert emulator.client.get_cmek_config(name=name).kms_key == key


@cases(
    ("GET", "/v2beta2/{queue}", None, 404),
    ("GET", "/$discovery/rest?version=v2", None, 404),
    ("POST", "/$rpc/google.cloud.tasks.v2.CloudTasks/GetQueue", "application/x-protobuf", 415),
    ("POST", "/$rpc/google.cloud.tasks.v2.CloudTasks/GetQueue", "application/json", 404),
    ("POST", "/v2/{queue}:pause", "text/plain", 415),
)
def test_what_is_not_answered(emulator: Emulator, queue: str, verb: str, path: str, kind: str, status: int) -> None:
    """Protocols that are not spoken, and writes that are not called JSON, are refused."""
    headers = {"Content-Type": kind} if kind else {}
    assert emulator.ask(verb, path.format(queue=queue), b"{}" if kind else None, headers)[0] == status


def test_v2beta2_is_not_implemented(emulator: Emulator) -> None:
    """The API with pull queues has no service."""
    with pytest.raises(grpc.RpcError) as refused:
        emulator.channel.unary_unary("/google.cloud.tasks.v2beta2.CloudTasks/GetQueue")(b"", timeout=PATIENCE)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_default_limit_of_the_log() -> None:
    """The limit that the README's table names is the emulator's own."""
    readme = (Path(__file__).parents[3] / "cloudtasks_nb/emulator/README.md").read_text(encoding="utf-8")
    (limit,) = re.findall(r"\| entries of the log .*newest ([0-9,]+)", readme)
    assert Settings().log_limit == int(limit.replace(",", ""))


QUEUE = f"{LOCATION}/queues/flags"
NEW = {"parent": LOCATION, "queue": {"name": QUEUE}}
TASK = {"parent": QUEUE, "task": {"name": f"{QUEUE}/tasks/a", "http_request": {"url": "http://127.0.0.1:9/"}}}


def test_hard_reset_on_purge(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """With `--hard-reset-on-purge-queue` a purge frees the names, also those of tasks that went before it."""
    arguments = ("--hard-reset-on-purge-queue", "--queue", QUEUE, "--data-dir", str(tmp_path))
    first = start_emulator(*arguments)
    first.client.pause_queue(name=QUEUE)
    first.client.create_task(TASK)
    first.client.delete_task(name=f"{QUEUE}/tasks/a")
    first.client.purge_queue(name=QUEUE)
    first.client.create_task(TASK)
    first.client.purge_queue(name=QUEUE)
    first.kill()
    second = start_emulator(*arguments)
    assert list(second.client.list_tasks(parent=QUEUE)) == []
    assert second.client.create_task(TASK).name == f"{QUEUE}/tasks/a"


LIVES = [([], HOUR, 3 * 86_400), (["--task-tombstone", "100", "--queue-tombstone", "50"], 100, 50)]


@pytest.mark.parametrize(("cloud_tasks_emulator_arguments", "of_tasks", "of_queues"), LIVES)
def test_for_how_long_names_are_taken(emulator: Emulator, of_tasks: int, of_queues: int) -> None:
    """An hour after a task, three days after a queue; or as `--task-tombstone` and `--queue-tombstone` say."""
    emulator.client.create_queue(NEW)
    emulator.client.pause_queue(name=QUEUE)
    emulator.client.create_task(TASK)
    emulator.client.delete_task(name=f"{QUEUE}/tasks/a")
    emulator.advance(of_tasks - 10)
    with pytest.raises(AlreadyExists, match="existed too recently"):
        emulator.client.create_task(TASK)
    emulator.advance(11)
    emulator.client.create_task(TASK)
    emulator.client.delete_queue(name=QUEUE)
    emulator.advance(of_queues - 10)
    with pytest.raises(FailedPrecondition, match="existed too recently"):
        emulator.client.create_queue(NEW)
    emulator.advance(11)
    emulator.client.create_queue(NEW)
    assert list(emulator.client.list_tasks(parent=QUEUE)) == []


@options("--new-queue-delay", "3600")
def test_a_new_queue_takes_its_time(emulator: Emulator) -> None:
    """With `--new-queue-delay` a new queue is not found at first, as on the service."""
    emulator.client.create_queue(NEW)
    with pytest.raises(NotFound, match="wait at least a minute for the queue to initialize"):
        emulator.client.create_task(TASK)
    emulator.advance(3590)
    with pytest.raises(NotFound):
        emulator.client.create_task(TASK)
    emulator.advance(11)
    assert emulator.client.create_task(TASK).name == f"{QUEUE}/tasks/a"

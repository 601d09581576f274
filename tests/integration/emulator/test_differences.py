"""The defaults in which the emulator differs from the service, as the README's table says, and its options."""

import re
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.cloud import tasks_v2beta3

from cloudtasks_nb.emulator.model.settings import Settings
from tests.integration.conftest import LOCATION, PATIENCE, Answer, Emulator, StartEmulator, Target
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


def test_nobody_needs_quota(emulator: Emulator, queue: str, target: Target) -> None:
    """Without `--strict` 61 RunTask in a minute are executed; `answers/tasks.toml` has the rest."""
    emulator.client.pause_queue(name=queue)
    for _ in range(61):  # the service allows 60 a minute
        emulator.client.run_task(name=emulator.enqueue(queue, target.url).name)
    target.wait(61)


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

"""`--wait-for-loopback`: tasks for a function that is not served yet wait for it."""

from tests.integration.conftest import Answer, Emulator, Target, options
from tests.integration.emulator.conftest import batch

pytestmark = options("--wait-for-loopback")


def test_no_attempt_is_spent_while_the_target_is_down(emulator: Emulator, target: Target, free_port: int) -> None:
    """A refused loopback connection costs no attempt; when the target listens, the tasks arrive as first attempts."""
    queue = emulator.make_queue(retry_config={"max_attempts": 1})
    waiting = [emulator.enqueue(queue, f"http://127.0.0.1:{free_port}/{number}") for number in range(5)]
    emulator.advance(10)
    served = emulator.enqueue(queue, target.url)
    target.wait()
    emulator.gone(served.name)
    for task in waiting:
        assert emulator.client.get_task(name=task.name).dispatch_count == 0
    (target_down,) = emulator.request("GET", "/admin/waiting")["targets"]
    assert (target_down["address"], target_down["queue"], target_down["tasks"]) == (f"127.0.0.1:{free_port}", queue, 5)
    with Target(free_port) as late:
        emulator.advance(2)
        requests = late.wait(5)
        assert sorted(request.path for request in requests) == ["/0", "/1", "/2", "/3", "/4"]
        assert {request.headers["x-cloudtasks-taskretrycount"] for request in requests} == {"0"}
        for task in waiting:
            emulator.gone(task.name)


def test_a_server_that_goes_and_comes_back(emulator: Emulator, free_port: int) -> None:
    """A task that failed while its function was served waits when the function is gone."""
    queue = emulator.make_queue(retry_config={"max_attempts": 2, "min_backoff": {"seconds": 5}})
    with Target(free_port) as early:
        early.script(500)
        task = emulator.enqueue(queue, early.url)
        emulator.answered(task.name, 1)
    emulator.advance(60)
    assert emulator.client.get_task(name=task.name).dispatch_count == 1
    with Target(free_port) as late:
        emulator.advance(2)
        assert late.wait()[0].headers["x-cloudtasks-taskretrycount"] == "1"
        emulator.gone(task.name)


def test_a_redirect_to_a_closed_port_is_an_attempt(emulator: Emulator, target: Target, free_port: int) -> None:
    """The emulator waits only for the task's own address: a target that redirects to a closed port has been called."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 100}})
    target.script(Answer(status=307, headers={"Location": f"http://127.0.0.1:{free_port}/"}))
    task = emulator.tried(emulator.enqueue(queue, target.url).name)
    assert (task.dispatch_count, task.last_attempt.response_status.code) == (1, 2)


def test_deleted_waiting_tasks_block_no_others(emulator: Emulator, queue: str, target: Target, free_port: int) -> None:
    """After thousands of tasks for an unreachable target were deleted, the queue sends to other targets at once."""
    for _ in range(12):
        emulator.client.batch_create_tasks(batch(queue, url=f"http://127.0.0.1:{free_port}/"))
    emulator.until(lambda: waiting_count(emulator) >= 1_000)
    names = [task.name for task in emulator.client.list_tasks(parent=queue)]
    for start in range(0, len(names), 1_000):
        emulator.client.batch_delete_tasks({"parent": queue, "names": names[start : start + 1_000]})
    emulator.gone(emulator.enqueue(queue, target.url).name)
    assert waiting_count(emulator) == 0


def waiting_count(emulator: Emulator) -> int:
    """Give the number of tasks that wait for targets."""
    return sum(entry["tasks"] for entry in emulator.request("GET", "/admin/waiting")["targets"])

"""The endpoints for tests: clock, seeds, snapshots, faults, and the history of finished tasks."""

from tests.integration.conftest import Emulator, Target
from tests.integration.emulator.conftest import QUICK


def test_the_history_of_a_finished_task(emulator: Emulator, target: Target) -> None:
    """The history has every attempt of a finished task, in order; the newest tasks come first, without bodies."""
    queue = emulator.make_queue(retry_config=QUICK)
    target.script(500, 204)
    task = emulator.enqueue(queue, target.url, {"body": b"payload"})
    emulator.gone(task.name)
    short = queue.rpartition("/")[2]
    (found,) = emulator.request("GET", f"/admin/history?queue={short}&body=1")["tasks"]
    (newest,) = emulator.request("GET", "/admin/history?limit=1")["tasks"]
    assert (newest["task"], "body" in newest["attempts"][0]) == (found["task"], False)
    assert (found["queue"], found["task"], found["status"]) == (queue, task.name.rpartition("/")[2], "OK")
    assert [(one["status"], one["http_status"]) for one in found["attempts"]] == [("INTERNAL", 500), ("OK", 204)]
    last = found["attempts"][1]
    assert (last["method"], last["url"], last["body"]) == ("POST", target.url, "payload")
    assert 0 <= last["duration_s"] < 60

"""The configuration file of an emulator that runs: at its start, after SIGHUP, after a reset."""

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api_core.exceptions import FailedPrecondition
from google.cloud import tasks_v2

from tests.integration.conftest import LOCATION, Emulator, StartEmulator, Target

QUEUE, OTHER = f"{LOCATION}/queues/declared", f"{LOCATION}/queues/other"
README = Path(__file__).parents[3] / "cloudtasks_nb/emulator/README.md"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")


def write(file: Path, *queues: dict[str, Any], **options: Any) -> Path:
    """Write a configuration file."""
    file.write_text(json.dumps({"queues": queues, **options}))
    return file


def reload(emulator: Emulator, word: str) -> str:
    """Send SIGHUP, and return what the emulator says of it, as soon as `word` is in it."""
    before = len(emulator.errors())
    emulator.process.send_signal(signal.SIGHUP)
    return emulator.until(lambda: said if word in (said := emulator.errors()[before:]) else "")


def example() -> str:
    """Return the example of the README."""
    found = re.search(r"^```yaml\n(port:.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def within(part: Any, whole: Any) -> bool:
    """Return whether a document has all of another one."""
    return all(within(part[key], whole[key]) for key in part) if isinstance(part, dict) else bool(part == whole)


def test_the_example_of_the_readme(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """The file that the README shows makes its queues, with all that it says of them."""
    file = tmp_path / "emulator.yaml"
    file.write_text(example().replace("data-dir: data", f"data-dir: {tmp_path / 'data'}"), encoding="utf-8")
    emulator = start_emulator("--config", str(file))
    assert emulator.ready["data_dir"] == str(tmp_path / "data")
    for api, declared in zip(("v2beta3", "v2beta3", "v2"), yaml.safe_load(example())["queues"], strict=True):
        assert within(declared, emulator.request("GET", f"/{api}/{declared['name']}"))


def test_nothing_to_reload(start_emulator: StartEmulator) -> None:
    """SIGHUP without `--config` changes nothing, and a line says so."""
    emulator = start_emulator()
    assert reload(emulator, "ignored") == (
        "cloudtasks-nb emulator: SIGHUP is ignored, because there is no file of --config to read again\n"
    )
    assert emulator.request("GET", "/health")["status"] == "ok"


def test_reload_creates_and_updates(start_emulator: StartEmulator, tmp_path: Path, target: Target) -> None:
    """SIGHUP makes new queues, changes known ones with their tasks in place, and leaves those that were removed."""
    file = write(tmp_path / "c.json", {"name": QUEUE, "state": "PAUSED"}, {"name": OTHER})
    emulator = start_emulator("--config", str(file))
    emulator.client.create_task({"parent": QUEUE, "task": {"http_request": {"url": target.url}}})
    third = f"{LOCATION}/queues/third"
    limits = {"maxConcurrentDispatches": 3}
    write(file, {"name": QUEUE, "state": "RUNNING", "rateLimits": limits}, {"name": third}, grace=5)
    said = reload(emulator, "grace")
    assert f"{file} was read again; queues: 1 new, 1 updated" in said
    assert f"{OTHER} is not in {file} any more: the queue stays as it is" in said
    assert "the new value of grace counts from the next start on" in said
    assert target.wait()  # the task is sent, because the queue runs
    assert emulator.client.get_queue(name=QUEUE).rate_limits.max_concurrent_dispatches == 3
    assert {queue.name for queue in emulator.client.list_queues(parent=LOCATION)} == {QUEUE, OTHER, third}


def test_a_bad_file_changes_nothing(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """A mistake in the file leaves everything as it was; the next reload works."""
    file = write(tmp_path / "c.json", {"name": QUEUE}, {"name": OTHER})
    emulator = start_emulator("--config", str(file))
    changed = {"name": QUEUE, "rateLimits": {"maxDispatchesPerSecond": 7}}
    write(file, changed, {"name": "x"})
    assert f"nothing was changed, because {file}:1: queues[1]: " in reload(emulator, "is not a queue name")
    file.unlink()
    assert "cannot be read" in reload(emulator, "nothing was changed")
    assert emulator.client.get_queue(name=QUEUE).rate_limits.max_dispatches_per_second == 500
    write(file, changed)
    reload(emulator, "1 updated")
    assert emulator.client.get_queue(name=QUEUE).rate_limits.max_dispatches_per_second == 7


def test_a_restart_updates(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """At a start the file's settings replace those of the data folder; a state that it does not name is kept."""
    file = write(tmp_path / "c.json", {"name": QUEUE, "retryConfig": {"maxAttempts": 3}}, **{"data-dir": str(tmp_path)})
    arguments = ("--config", str(file), "--queue", OTHER, "--queue", QUEUE)
    first = start_emulator(*arguments)
    first.client.update_queue({"queue": {"name": QUEUE, "retry_config": {"max_attempts": 9}}})
    first.client.pause_queue(name=QUEUE)
    first.client.update_queue({"queue": {"name": OTHER, "retry_config": {"max_attempts": 9}}})
    first.stop()
    second = start_emulator(*arguments)
    queue = second.client.get_queue(name=QUEUE)
    assert (queue.retry_config.max_attempts, queue.state) == (3, tasks_v2.Queue.State.PAUSED)
    assert second.client.get_queue(name=OTHER).retry_config.max_attempts == 9


def test_a_deleted_queue_is_created_again(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """The file and the command line bring back queues that a client has deleted, though their names are reserved."""
    file = write(tmp_path / "c.json", {"name": QUEUE}, **{"data-dir": str(tmp_path)})
    arguments = ("--config", str(file), "--queue", OTHER)
    first = start_emulator(*arguments)
    first.client.delete_queue(name=QUEUE)
    reload(first, "1 new")
    assert first.client.get_queue(name=QUEUE).name == QUEUE
    for name in (QUEUE, OTHER):
        first.client.delete_queue(name=name)
    first.stop()
    second = start_emulator(*arguments)
    assert {queue.name for queue in second.client.list_queues(parent=LOCATION)} == {QUEUE, OTHER}
    second.client.delete_queue(name=OTHER)
    with pytest.raises(FailedPrecondition, match="existed too recently"):
        second.client.create_queue(parent=LOCATION, queue=tasks_v2.Queue(name=OTHER))


def test_a_reset_declares_again(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """After a reset for tests the queues of the file and of the command line are there, as they were at the start."""
    file = write(tmp_path / "c.json", {"name": QUEUE, "state": "PAUSED", "retryConfig": {"maxAttempts": 3}})
    emulator = start_emulator("--config", str(file), "--queue", OTHER)
    emulator.client.resume_queue(name=QUEUE)
    assert set(emulator.request("POST", "/admin/reset", {})["queues"]) == {QUEUE, OTHER}
    queue = emulator.client.get_queue(name=QUEUE)
    assert (queue.retry_config.max_attempts, queue.state.name) == (3, "PAUSED")

"""A stored task in a reply: the encoded bytes are the message that protobuf reads, in both versions."""

from __future__ import annotations

from google.protobuf import json_format

from cloudtasks_nb.emulator.model.protobuf import beta, v2
from cloudtasks_nb.emulator.model.tasks import as_beta, as_v2, is_app_engine, task_wire
from tests.unit.emulator.conftest import NOW, QUEUE, http_task


def test_versions_differ_in_their_numbers_only() -> None:
    """A v2 task becomes the v2beta3 task with the same content, and comes back."""
    task = http_task("a", body=b"body")
    task.schedule_time.FromMicroseconds(NOW)
    task.dispatch_deadline.seconds = 77
    task.retry_config.max_attempts = 3
    task.dispatch_count, task.view = 4, 2
    task.last_attempt.response_status.code = 5
    wire = task.SerializeToString()
    shown = beta.Task.FromString(as_beta(wire))
    assert json_format.MessageToDict(shown) == json_format.MessageToDict(task)
    assert v2.Task.FromString(as_v2(as_beta(wire))) == task


def test_versions_drop_unknown_fields() -> None:
    """The payload of a pull task has no place in v2."""
    pull = beta.Task(name="n", pull_message=beta.PullMessage(payload=b"x"))
    assert v2.Task.FromString(as_v2(pull.SerializeToString())) == v2.Task(name="n")


def test_app_engine_tasks_are_recognized() -> None:
    """The kind of a stored task is seen in its bytes, also behind a long name."""
    name = f"{QUEUE}/tasks/{'x' * 500}"
    assert not is_app_engine(http_task("x" * 500).SerializeToString())
    engine = v2.Task(name=name, app_engine_http_request=v2.AppEngineHttpRequest(relative_uri="/a"))
    assert is_app_engine(engine.SerializeToString())
    shown = v2.Task.FromString(task_wire(engine.SerializeToString(), NOW, None, b"body", 2))
    assert (shown.app_engine_http_request.relative_uri, shown.app_engine_http_request.body) == ("/a", b"body")

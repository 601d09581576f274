"""What else than a missing role makes Google refuse a call, each with its own text and reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions

from cloudtasks_nb.errors import EmulatorError
from cloudtasks_nb.testing import StrictEmulator
from tests.integration.strict.conftest import ADMIN, QUEUE, REFUSALS, Connect, in_a_process, refused


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize(("condition", "reason", "text"), REFUSALS["conditions"])
def test_conditions_of_the_project(
    emulator: StrictEmulator, connect: Connect, transport: str, condition: dict[str, Any], reason: str, text: str
) -> None:
    """A refusal has the text of Google, the reason, the service and the project, by gRPC and by REST."""
    client = connect(emulator.user("ann@example.com", ADMIN), transport=transport)
    emulator.set(**condition)
    message, found, metadata = refused(lambda: client.get_queue(name=QUEUE), exceptions.Forbidden)
    assert text in message
    assert found == reason
    assert (metadata["service"], metadata["consumer"]) == ("cloudtasks.googleapis.com", "projects/demo")
    emulator.set(api_disabled=False, billing=True, vpc_sc=False, projects=[])
    assert client.get_queue(name=QUEUE).name == QUEUE


GET_QUEUE = """
import json
from google.api_core.exceptions import PermissionDenied
from google.cloud import tasks_v2
try:
    print(json.dumps([tasks_v2.CloudTasksClient().get_queue(name=queue).name]))
except PermissionDenied as error:
    assert "requires a quota project" in error.message
    print(json.dumps([error.reason, error.metadata["consumer"]]))
"""


def test_quota_project(emulator: StrictEmulator, connect: Connect) -> None:
    """The quota of a project may be used by who has serviceusage.services.use there."""
    file = emulator.user("ann@example.com", ADMIN)
    client = connect(file, quota_project_id="billed")
    text, reason, metadata = refused(lambda: client.get_queue(name=QUEUE))
    start = "Caller does not have required permission to use project billed. Grant the caller the roles/"
    assert text.startswith(start)
    assert (reason, metadata["consumer"]) == ("USER_PROJECT_DENIED", "projects/billed")
    emulator.grant("ann@example.com", "roles/serviceusage.serviceUsageConsumer", "projects/billed")
    assert client.get_queue(name=QUEUE).name == QUEUE


def test_a_login_of_gcloud_without_a_quota_project(emulator: StrictEmulator, tmp_path: Path) -> None:
    """Its calls count for a project of Google's own, where the service is not enabled."""
    variables = dict(emulator.google_environment)
    for named, expected in [(None, ["SERVICE_DISABLED", "projects/764086051850"]), ("demo", [QUEUE])]:
        roles = [ADMIN, "roles/serviceusage.serviceUsageConsumer"]
        file = emulator.user("ann@example.com", roles, gcloud=True, quota_project=named)
        variables["GOOGLE_APPLICATION_CREDENTIALS"] = str(file)
        assert in_a_process(f"queue = {QUEUE!r}\n{GET_QUEUE}", tmp_path, variables) == expected


TASK = f"{QUEUE}/tasks/none"


def reason_of(call: Callable[[], Any]) -> str | None:
    """Return the reason for which a call was refused; None if it was executed, also if it found nothing."""
    try:
        call()
    except exceptions.GoogleAPICallError as error:
        return str(error.reason) if error.reason else None
    return None


def test_a_reset_forgets_everybody_and_everything(emulator: StrictEmulator, connect: Connect) -> None:
    """After a reset nobody exists, no token is valid, no role is left, and nothing is wrong or counted."""
    before = connect(emulator.user("ann@example.com", ADMIN))
    emulator.cloud_run("https://job.a.run.app", 9)
    emulator.set(quotas=True)
    assert {reason_of(lambda: before.run_task(name=TASK)) for _ in range(60)} == {None}
    assert reason_of(lambda: before.run_task(name=TASK)) == "RATE_LIMIT_EXCEEDED"
    emulator.set(latency_s=0.1, machine="workbench@demo.iam.gserviceaccount.com")
    emulator.reset()
    with pytest.raises(exceptions.Unauthenticated):
        before.get_queue(name=QUEUE, retry=None)
    emulator.seed("reports")
    again = connect(emulator.user("ann@example.com"))
    assert refused(lambda: again.get_queue(name=QUEUE))[1] == "IAM_PERMISSION_DENIED"
    shown = emulator._call("GET", "google")
    assert (shown["bindings"], shown["services"], shown["conditions"]["latency_s"]) == ({}, {}, 0)
    emulator.set(quotas=True)
    emulator.grant("ann@example.com", ADMIN)
    assert reason_of(lambda: again.run_task(name=TASK)) is None


def test_unknown_settings_are_named(emulator: StrictEmulator) -> None:
    """A typo in a setting or a role says what exists."""
    with pytest.raises(EmulatorError, match='"biling" is unknown: the settings are api_disabled, billing'):
        emulator.set(biling=False)
    with pytest.raises(EmulatorError, match="is unknown to the emulator, which knows"):
        emulator.grant("ann@example.com", "roles/cloudtasks.reader")

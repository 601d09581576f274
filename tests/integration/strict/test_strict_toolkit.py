"""The toolkit takes a strict emulator for Google: the addresses of Google, the files that gcloud writes, Cloud Run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import InvalidArgument

import cloudtasks_nb as ct
from cloudtasks_nb.testing import StrictEmulator
from tests.integration.conftest import Target
from tests.integration.strict.conftest import QUEUE, Connect, in_a_process, task

RUN = "https://jobs-abc.a.run.app"
FAN_OUT = """
import json
import pandas as pd
import cloudtasks_nb as ct

found = []
with ct.connect("demo", "us-central1") as tasks:
    queue = tasks.queue("jobs", create=True, max_attempts=2)
    days = pd.DataFrame({"day": range(20)})
    batch = queue.fan_out(days, url=f"{run}/job", service_account=caller, progress=False)
    batch.wait("60s")
    found += [repr(tasks), batch.progress().succeeded, len(queue.attempts())]
with ct.connect("demo", "us-central1", impersonate=robot) as tasks:
    found += [tasks.queues().index.tolist()]
print(json.dumps(found))
"""


def test_a_signing_account_of_another_project(
    emulator: StrictEmulator, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    """The service refuses it in a task and in a queue's target; each verb refuses it first, and names both projects."""
    file = emulator.user("ann@example.com", "roles/owner")
    other = "caller@other.iam.gserviceaccount.com"
    emulator.service_account(other, key=False)
    emulator.grant("ann@example.com", "roles/iam.serviceAccountUser", other)
    client, token = connect(file), {"service_account_email": other}
    with pytest.raises(InvalidArgument, match="same project as the queue"):
        client.create_task(parent=QUEUE, task=task(oidc_token=token))
    with pytest.raises(InvalidArgument, match="same project as the queue"):
        client.update_queue(queue={"name": QUEUE, "http_target": {"oidc_token": token}})
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with ct.connect("demo", "us-central1") as tasks:
        queue = tasks.queue("reports")
        for verb in (
            lambda: queue.enqueue(RUN, service_account=other),
            lambda: queue.schedule(RUN, delay="1h", service_account=other),
            lambda: queue.fan_out([{"a": 1}], url=RUN, service_account=other),
            lambda: queue.backfill("2026-01-01", "2026-01-02", freq="D", url=RUN, service_account=other),
            lambda: queue.route(RUN, service_account=other),
        ):
            with pytest.raises(ct.errors.InvalidInputError, match=r"is of the project other: .* project, demo, only"):
                verb()


def test_a_fan_out_to_cloud_run(emulator: StrictEmulator, target: Target, tmp_path: Path) -> None:
    """Connect without an endpoint, fan out with tokens to a service that only one account may invoke, read the log."""
    emulator.reset()
    emulator.cloud_run(RUN, target.port, invokers="caller")
    emulator.service_account("caller", key=False)
    emulator.service_account("robot", "roles/cloudtasks.viewer", key=False)
    file = emulator.user("ann@example.com", "roles/owner", gcloud=True)
    emulator.grant("ann@example.com", "roles/iam.serviceAccountTokenCreator", emulator.email("robot"))
    code = f"run, caller, robot = {[RUN, emulator.email('caller'), emulator.email('robot')]!r}\n{FAN_OUT}"
    variables = {**emulator.google_environment, "CLOUDTASKS_NB_HOME": str(tmp_path / "home")}
    found = in_a_process(code, tmp_path, {**variables, "GOOGLE_APPLICATION_CREDENTIALS": str(file)})
    assert found == ["<Cloud Tasks in demo / us-central1 [GOOGLE demo]>", 20, 20, ["jobs"]]
    assert {request.headers["host"] for request in target.received} == {"jobs-abc.a.run.app"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (7, 10.0, 600.0, 6)),
        ({"max_attempts": 3}, (3, 10.0, 600.0, 6)),
        ({"min_backoff": "20min"}, (7, 1200.0, 3600.0, 16)),
    ],
)
def test_a_new_queue_outlasts_a_rollout(
    emulator: StrictEmulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    expected: tuple[float, ...],
) -> None:
    """On Google a task is tried for ten minutes, unless backoffs are given; the printed line has each default."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(emulator.user("ann@example.com", "roles/owner")))
    with ct.connect("demo", "us-central1") as tasks:
        tasks.queue("fresh", create=True, **given)
        row = tasks.queues().loc["fresh"].to_dict()
    seconds = [row[name].total_seconds() for name in ("min_backoff", "max_backoff")]
    assert (row["max_attempts"], *seconds, row["max_doublings"]) == expected
    assert ("min_backoff=10s (Cloud Tasks' own default: 0.1s)" in capsys.readouterr().out) == (expected[1] == 10)

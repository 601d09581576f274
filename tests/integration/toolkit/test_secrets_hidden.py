"""Secrets are sent, and shown nowhere unless they are asked for; files are for their owner, as SECURITY.md says."""

import os
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator, Target, attempted

SECRETS = ("s3cr3t-url", "s3cr3t-body", "s3cr3t-head", "s3cr3t-cell")
ROWS = pd.DataFrame({"day": ["d1", "d2"], "api_key": "s3cr3t-cell"})
BODY = {"day": "{day}", "api_key": "{api_key}", "user": {"password": "s3cr3t-body"}}


def shown(thing: Any) -> str:
    """Return all that a notebook would save of a thing."""
    bundle = thing._repr_mimebundle_()
    return repr(thing) + str(bundle)


@pytest.fixture
def arguments(target: Target) -> dict[str, Any]:
    """Give arguments of a fan-out with a secret in each place."""
    headers = {"Authorization": "Bearer s3cr3t-head", "X-Api-Key": "s3cr3t-head"}
    return {"url": f"{target.url}?token=s3cr3t-url&day={{day}}", "body": BODY, "headers": headers}


def test_a_batch_and_its_queue(
    tasks: ct.Client, queue: ct.Queue, emulator: Emulator, target: Target, arguments: dict[str, Any]
) -> None:
    """Plan, trial, batch, queue and the frames of the service have dots; the target got the secrets."""
    plan = queue.fan_out(ROWS, dry_run=True, **arguments)
    seen = shown(plan) + repr(plan.try_one())
    batch = plan.submit()
    batch.wait("240s")
    attempted(emulator, queue, 2)
    seen += shown(batch) + shown(queue)
    seen += "".join(frame.to_string() for frame in (queue.attempts(), batch.attempts(), tasks.batches()))
    assert "•••" in seen
    assert not [secret for secret in SECRETS if secret in seen]
    assert "token=s3cr3t-url" in queue.attempts(secrets=True)["url"].iloc[0]
    request = target.received[-1]
    assert "token=s3cr3t-url" in request.path
    assert b"s3cr3t-body" in request.body
    assert b"s3cr3t-cell" in request.body


def test_tasks_that_wait(paused: ct.Queue, arguments: dict[str, Any]) -> None:
    """Their list has dots in URLs, headers and bodies, and all of it on request."""
    paused.enqueue(**{**arguments, "body": {"api_key": "s3cr3t-cell", "password": "s3cr3t-body"}})
    hidden = paused.tasks(body=True).iloc[0].to_json()
    assert not [secret for secret in SECRETS if secret in hidden]
    asked = paused.tasks(body=True, secrets=True).iloc[0].to_json()
    assert [secret for secret in SECRETS if secret in asked] == list(SECRETS)


@pytest.mark.parametrize("url", ["ftp://svc/run?token=s3cr3t-url", "https://?token=s3cr3t-url"])
def test_the_error_of_a_url(queue: ct.Queue, url: str) -> None:
    """An error names the URL without its secrets."""
    with pytest.raises(ct.errors.InvalidInputError) as raised:
        queue.enqueue(url)
    assert "token=•••" in str(raised.value)
    assert "s3cr3t-url" not in str(raised.value)


POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")


def mode(path: Path) -> int:
    """Return the permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@POSIX
def test_a_home_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under any umask, and where its folder was open before: the home, its locks, and an emulator's folder in it."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    before = os.umask(0)
    try:
        with ct.local(home / "emulator", store=tmp_path / "store") as tasks, ct.serve(str.upper) as handler:
            queue = tasks.queue("reports", create=True)
            queue.fan_out(pd.DataFrame({"day": ["d1"]}), url=handler, body="{day}").wait("240s")
            found = [home, *home.rglob("*")]
            assert {path.name for path in found} >= {"locks", "outbox.sqlite3-wal", "handlers.key", "endpoint.json"}
            assert {path.name: oct(mode(path)) for path in found if mode(path) & 0o077} == {}
    finally:
        os.umask(before)

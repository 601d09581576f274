"""Handlers of a connection by endpoint: they take the tokens of that emulator, and of no other."""

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.integration.conftest import LOCATION, Emulator, StartEmulator

ACCOUNT = "worker@demo.iam.gserviceaccount.com"
QUEUE = f"{LOCATION}/queues/signed"


def deliver(emulator: Emulator, url: str) -> str:
    """Have an emulator send a handler one task with its token, and give the status that came of it."""
    http = {"url": url, "body": b'{"x": 1}', "oidc_token": {"service_account_email": ACCOUNT}}
    queue = {"name": QUEUE, "retry_config": {"max_attempts": 1}}
    emulator.client.create_queue({"parent": LOCATION, "queue": queue})
    task = emulator.client.create_task({"parent": QUEUE, "task": {"http_request": http}})
    emulator.gone(task.name)
    [done] = emulator.request("GET", "/admin/history")["tasks"]
    return str(done["status"])


@pytest.mark.parametrize("by_variable", [False, True], ids=["endpoint", "CLOUD_TASKS_EMULATOR_HOST"])
def test_the_tokens_of_the_endpoint(
    emulator: Emulator, start_emulator: StartEmulator, monkeypatch: pytest.MonkeyPatch, *, by_variable: bool
) -> None:
    """A handler takes the tokens of the emulator that was connected to, and refuses those of another."""
    foreign, endpoint = start_emulator(), emulator.ready["grpc"]
    if by_variable:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", endpoint)
    heard: list[int] = []

    def hear(x: int) -> None:
        heard.append(x)

    with ct.connect("demo", "us-central1", endpoint=None if by_variable else endpoint) as tasks:
        assert tasks.certs_url == f"{emulator.ready['http']}/oauth2/v1/certs"
        with ct.serve(hear, name="signed", service_account=ACCOUNT, tasks=tasks) as handler:
            assert deliver(foreign, handler.url) == "UNAUTHENTICATED"
            assert heard == []
            assert deliver(emulator, handler.url) == "OK"
            assert heard == [1]


def test_nobody_is_asked_before_a_token_comes() -> None:
    """Serving asks nobody; while the emulator that it depends on is not there, its certificates are not either."""
    with ct.connect("demo", "us-central1", endpoint="127.0.0.1:9") as tasks:
        ct.serve(print, name="early", service_account=ACCOUNT, tasks=tasks).close()
        with pytest.raises(errors.EndpointError):
            _ = tasks.certs_url

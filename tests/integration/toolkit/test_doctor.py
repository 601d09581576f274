"""`tasks.doctor()`: one row a check, whatever is wrong."""

from __future__ import annotations

import email.utils
import time
import urllib.error
import urllib.request
from email.message import Message
from types import SimpleNamespace
from typing import Any

import google.auth
import google.auth.exceptions
import google.oauth2.credentials
import pandas as pd
import pytest
from google.cloud.logging_v2.types import logging as logging_types
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2

import cloudtasks_nb as ct
from cloudtasks_nb.errors import CredentialsError, EndpointError, PermissionDeniedError
from cloudtasks_nb.service.costs import LOG_PRICE
from tests.integration.conftest import StartEmulator
from tests.integration.toolkit.conftest import Intercept, impatient

CHECKS = ["credentials", "principal", "project", "api", "location", "queues", "permissions", "log", "clock", "versions"]
QUEUE = "projects/p/locations/l/queues/reports"


def wrong(found: pd.DataFrame) -> list[str]:
    """Name the checks that are not ok."""
    return found.index[~found.ok.astype(bool)].tolist()


def diagnosed() -> pd.DataFrame:
    """Return the checks of a connection to Google."""
    with ct.connect("p", "l") as tasks:
        return tasks.doctor()


def test_an_emulator_is_well(start_emulator: StartEmulator) -> None:
    """Everything is ok, checks that an emulator does not need are marked so, and the frame has the declared columns."""
    with ct.connect("p", "l", endpoint=start_emulator().ready["grpc"]) as tasks:
        found = tasks.doctor()
        tasks.queue("reports", create=True)
        assert tasks.doctor().detail["queues"] == "1: reports"
    assert found.index.tolist() == CHECKS
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == {
        "ok": "boolean",
        "detail": "string",
        "fix": "string",
    }
    assert wrong(found) == []
    unneeded = found.index[found.detail.str.contains("not needed")]
    assert unneeded.tolist() == ["credentials", "principal", "permissions", "clock"]
    assert 'tasks.queue("reports", create=True)' in found.fix["queues"]


def test_a_queue_without_a_log(tasks: ct.Client, queue: ct.Queue) -> None:
    """The queue and the line that mends it are named."""
    queue.update(log_sampling_ratio=0.0)
    found = tasks.doctor().loc["log"]
    assert (found.ok, found.fix) == (False, f'tasks.queue("{queue.id}").update(log_sampling_ratio=1.0)')
    assert LOG_PRICE in found.detail


def test_nobody_answers(free_port: int) -> None:
    """It does not raise: the checks that need an answer say what is wrong and what to do."""
    with impatient("p", "l", f"127.0.0.1:{free_port}") as tasks:
        found = tasks.doctor()
    assert wrong(found) == ["api", "queues", "log"]
    assert found.detail["api"] == f"nothing answers at 127.0.0.1:{free_port}"
    assert found.fix[wrong(found)].str.contains("ct.local()", regex=False).all()


def test_who_does_not_answer_is_asked_once(intercept: Intercept) -> None:
    """All checks together wait once for an answer."""
    waits: list[str] = []

    async def nobody(_: Any, rpc: str, __: Any) -> Any:
        waits.append(rpc)
        raise EndpointError("nothing answers", hint="start it")

    intercept(nobody)
    with ct.connect("p", "l", endpoint="127.0.0.1:9") as tasks:
        first = tasks.doctor()
        assert waits == ["ListQueues"]
        assert tasks.doctor().equals(first)
    assert waits == ["ListQueues"] * 2
    assert first.loc[["api", "queues", "log"], "detail"].unique().tolist() == ["nothing answers"]
    assert first.loc[["api", "queues", "log"], "fix"].unique().tolist() == ["start it"]


def test_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, project and location each check has its own next step."""

    def missing(**_: Any) -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", missing)
    monkeypatch.setattr(urllib.request, "urlopen", answer_at(0))
    with ct.connect() as tasks:
        found = tasks.doctor()
    assert wrong(found) == CHECKS[:-2]
    assert "gcloud auth application-default login" in found.fix["credentials"]
    assert found.fix.notna()[wrong(found)].all()


def answer_at(skew: float, *, refused: bool = False) -> Any:
    """Answer HTTP with the date of a clock that is off."""
    headers = Message()
    headers["Date"] = email.utils.formatdate(time.time() + skew)

    class Answer(SimpleNamespace):
        """An answer that is closed."""

        def __enter__(self) -> Any:
            return SimpleNamespace(headers=headers)

        def __exit__(self, *_: object) -> None:
            """Close."""

    def urlopen(request: urllib.request.Request, **_: Any) -> Any:
        if refused:
            raise urllib.error.HTTPError(request.full_url, 404, "not found", headers, None)
        return Answer()

    return urlopen


@pytest.fixture
def google_(monkeypatch: pytest.MonkeyPatch, intercept: Intercept) -> dict[str, Any]:
    """Give the answers of a Google where all is well; a test may change them."""
    monkeypatch.setattr(google.auth, "default", lambda **_: (google.oauth2.credentials.Credentials("t"), "p"))
    monkeypatch.setattr(urllib.request, "urlopen", answer_at(1, refused=True))
    queue = types.Queue.pb()(name=QUEUE)
    queue.stackdriver_logging_config.sampling_ratio = 1.0
    answers: dict[str, Any] = {
        "ListQueues": types.ListQueuesResponse.pb()(queues=[queue]),
        "ListLogEntries": logging_types.ListLogEntriesResponse.pb()(),
        "TestIamPermissions": lambda permissions, **_: iam_policy_pb2.TestIamPermissionsResponse(
            permissions=permissions
        ),
    }

    async def answer(_: Any, rpc: str, fields: dict[str, Any]) -> Any:
        found = answers[rpc]
        if isinstance(found, Exception):
            raise found
        return found(**fields) if callable(found) else found

    intercept(answer)
    return answers


def test_google_is_well(google_: dict[str, Any]) -> None:
    """With everything granted every check is ok; the project is the credentials'."""
    found = diagnosed()
    assert wrong(found) == []
    assert "all 7 that the toolkit uses, on reports" in found.detail["permissions"]
    assert (found.detail["project"], found.detail["location"]) == ("p", "l")


def test_permissions_that_lack(google_: dict[str, Any]) -> None:
    """They are named, with the command that grants a role that has them."""
    google_["TestIamPermissions"] = iam_policy_pb2.TestIamPermissionsResponse(permissions=["cloudtasks.tasks.create"])
    found = diagnosed().loc["permissions"]
    assert not found.ok
    assert "cloudtasks.tasks.run" in found.detail
    assert "cloudtasks.tasks.create" not in found.detail
    assert "--role=roles/cloudtasks.editor" in found.fix


def test_an_api_that_is_off(google_: dict[str, Any]) -> None:
    """The command that enables it is shown."""
    google_["ListQueues"] = PermissionDeniedError("Cloud Tasks API has not been used", hint="grant")
    found = diagnosed()
    assert wrong(found) == ["api", "queues", "permissions", "log"]
    assert found.fix["api"] == "gcloud services enable cloudtasks.googleapis.com --project=p"


def test_a_clock_that_is_off(google_: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is half a minute ahead is reported, because the service refuses its deadlines."""
    monkeypatch.setattr(urllib.request, "urlopen", answer_at(-3600))
    found = diagnosed().loc["clock"]
    assert (found.ok, found.fix) == (False, "set this machine's clock (NTP)")


def test_nobody_to_compare_clocks_with(google_: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network hears of the network, not that it found a bug."""

    def urlopen(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    found = diagnosed().loc["clock"]
    assert not found.ok
    assert "cannot be compared" in found.detail
    assert "network" in found.fix


def test_an_api_that_cannot_be_asked(google_: dict[str, Any]) -> None:
    """What keeps the question from being asked is mended first; to enable the API would not help."""
    google_["ListQueues"] = CredentialsError("no Google credentials were found", hint="log in")
    assert diagnosed().fix["api"] == "log in"


def test_a_check_that_breaks(google_: dict[str, Any]) -> None:
    """A bug of a check is a finding, and the others go on."""
    google_["ListLogEntries"] = ZeroDivisionError("a bug")
    found = diagnosed()
    assert (wrong(found), found.detail["log"]) == (["log"], "ZeroDivisionError: a bug")

"""The request of an attempt: headers and their counts, and what the queue overrides."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from cloudtasks_nb.emulator.dispatch.request import HttpCall, overridden, prepare
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.queues import QueueConfig, configured
from cloudtasks_nb.emulator.model.tasks import accept_task
from cloudtasks_nb.emulator.store.state import Claim, QueueState, StoredTask
from tests.unit.emulator.conftest import NOW, QUEUE, URL

URLS = tomllib.loads(Path(__file__).with_name("urls.toml").read_text(encoding="utf-8"))


def claim(task: Any, attempts: Attempts | None = None, **settings: Any) -> Claim:
    """Claim a task in a queue with these settings, in JSON."""
    message = configured(json_format.ParseDict({"name": QUEUE, **settings}, beta.Queue()))
    queue = QueueState(q=1, name=QUEUE, message=message, config=QueueConfig.of(message, SECOND), usable_at=0)
    new = accept_task(task, QUEUE, NOW)
    stored = StoredTask(1, new.id, new.due, new.head, new.body)
    return Claim(queue, stored, attempts or Attempts(due=new.due))


def token_of(setting: Any, url: str) -> str | None:
    """Make tokens that show what they were made for."""
    kind = setting.WhichOneof("authorization_header")
    return f"Bearer {getattr(setting, kind).service_account_email} {url}" if kind else None


def prepared(task: Any, attempts: Attempts | None = None, base: str | None = None, **settings: Any) -> HttpCall:
    """Prepare a task's request."""
    return prepare(claim(task, attempts, **settings), token_of, base)


def http(**request: Any) -> Any:
    """Make an HTTP task from JSON."""
    return json_format.ParseDict({"name": f"{QUEUE}/tasks/a", "httpRequest": {"url": URL, **request}}, v2.Task())


def app_engine(**request: Any) -> Any:
    """Make an App Engine task from JSON."""
    return json_format.ParseDict({"name": f"{QUEUE}/tasks/a", "appEngineHttpRequest": request}, v2.Task())


def test_headers_that_a_task_may_not_set() -> None:
    """Computed and reserved headers of a task and of its queue are dropped, in upper and lower case."""
    given = dict.fromkeys(("HOST", "content-length", "Transfer-Encoding", "User-agent"), "x")
    given |= dict.fromkeys(("x-google-a", "X-AppEngine-b", "x-cloudtasks-QueueName"), "x")
    override = {"headerOverrides": [{"header": {"key": "X-CloudTasks-TaskName", "value": "forged"}}]}
    call = prepared(http(headers={**given, "Kept": "y"}), httpTarget=override)
    assert {name for name in call.headers if not name.startswith("X-CloudTasks-")} == {"Kept", "User-Agent"}
    assert call.headers["User-Agent"] == "Google-Cloud-Tasks"
    assert (call.headers["X-CloudTasks-QueueName"], call.headers["X-CloudTasks-TaskName"]) == ("q", "a")


def test_routing_of_the_queue_wins() -> None:
    """A queue's routing override sends its App Engine tasks elsewhere."""
    routing = {"service": "worker", "host": "evil.example"}  # the host is output only
    override: dict[str, Any] = {"appEngineHttpQueue": {"appEngineRoutingOverride": routing}}
    assert prepared(app_engine(), **override).url == "https://worker.p.uc.r.appspot.com/"


@pytest.mark.parametrize(("url", "override", "result"), URLS["rows"])
def test_overridden_urls(url: str, override: dict[str, Any], result: str) -> None:
    """The parts that the queue sets replace the task's, or fill its gaps; the others stay."""
    assert overridden(url, json_format.ParseDict(override, beta.UriOverride())) == result


@pytest.mark.parametrize("level", ["task", "queue"])
def test_tokens_replace_a_given_authorization(level: str) -> None:
    """A token goes where the request goes, and replaces any header of that name; the queue's wins."""
    token = {"oidcToken": {"serviceAccountEmail": "queue@x"}} if level == "queue" else {}
    call = prepared(
        http(headers={"authorization": "mine"}, oidcToken={"serviceAccountEmail": "task@x"}),
        httpTarget={"uriOverride": {"host": "b.net"}, **token},
    )
    assert call.headers["Authorization"] == f"Bearer {level}@x http://b.net:9/run"
    assert "authorization" not in call.headers


@pytest.mark.parametrize(("url", "address"), URLS["addresses"])
def test_addresses(url: str, address: str) -> None:
    """The address of a request is host and port, also where the URL names no port."""
    assert prepared(http(url=url)).address == address

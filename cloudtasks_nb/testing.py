"""Fixtures for pytest: an emulator of the tests' own, and a connection to it.

In ``conftest.py``::

    pytest_plugins = ["cloudtasks_nb.testing"]

and in a test::

    def test_report_is_made_once(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed({"reports": {"max_attempts": 2}})
        make_report(cloud_tasks.queue("reports"))  # what is tested
        done = cloud_tasks_emulator.history("reports", at_least=1)
        assert [task["status"] for task in done] == ["OK"]

The emulator is started once for all tests and begins each one empty. It is a Cloud Tasks for other clients and
languages too: gRPC at ``cloud_tasks_emulator.grpc``, REST at ``cloud_tasks_emulator.http``.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from http.client import OK, HTTPConnection, HTTPException
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, Endpoint, check_names, parse_duration
from cloudtasks_nb.client import emulator_process
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.client.queue_settings import NEW_QUEUE
from cloudtasks_nb.errors import EmulatorError
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import queue_json

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "cloudtasks_nb.testing needs pytest, which cloudtasks_nb does not bring along: pip install pytest"
    ) from error

__all__ = ["Emulator", "cloud_tasks", "cloud_tasks_emulator", "cloud_tasks_emulator_arguments"]

_START_TIMEOUT = 30.0  # seconds; a start takes one
_CALL_TIMEOUT = 30.0  # seconds
_STOP_TIMEOUT = 10.0  # seconds that attempts under way may take
_LOOK_EVERY = 0.01  # seconds


class Emulator:
    """A running emulator, and what a test can do with it. Made by the fixture `cloud_tasks_emulator`.

    Attributes
    ----------
    grpc : str
        ``host:port`` for Google's clients, on an insecure channel.
    http : str
        ``http://host:port`` of the REST API (``/v2/…``).
    project, location : str
        Where short names of queues are, and what the fixture `cloud_tasks` is connected to.
    """

    project = "test"
    location = "us-central1"

    def __init__(self, arguments: Iterable[str] = ()) -> None:
        child, output = emulator_process.start(list(arguments), _START_TIMEOUT)
        if child is None:
            raise EmulatorError(f"the emulator did not start: {output}", hint="python -m cloudtasks_nb.emulator --help")
        self._process = child.process
        self._held = emulator_process.hold(child.facts)
        self.grpc: str = child.facts["grpc"]
        self.http: str = child.facts["http"]

    @property
    def now(self) -> dt.datetime:
        """The time that its clock shows."""
        return dt.datetime.fromisoformat(self._call("GET", "clock")["now"])

    def advance(self, seconds: Any) -> None:
        """Move its clock forward: what is due by then is dispatched, what is over by then is forgotten.

        Times that a client works out itself (``delay="10min"``) are those of this machine. The next test has an
        emulator whose clock is right again.

        Parameters
        ----------
        seconds : duration
            A number of seconds, ``"10min"`` or a Timedelta.
        """
        span = parse_duration(seconds, "seconds").total_seconds()
        self._call("POST", "clock", {"advance_s": span})

    def reset(self) -> None:
        """Forget queues, tasks, names of tasks and logs, and set its clock right; attempts under way are broken off."""
        self._call("POST", "reset")

    def seed(self, queues: Iterable[str] | Mapping[str, Mapping[str, Any]]) -> None:
        """Make queues, or give those that are there other settings.

        Parameters
        ----------
        queues : str, iterable of str, or mapping
            Names, short or full; with a mapping each has its settings, in the words of ``tasks.queue(create=True)``
            and with the same defaults, and may have ``state="PAUSED"``.

        Raises
        ------
        InvalidInputError
            For a bad name or setting; no queue is made then.
        EmulatorError
            For a setting out of the service's limits.
        """
        names = [queues] if isinstance(queues, str) else queues
        settings = names if isinstance(names, Mapping) else {name: {} for name in names}
        self._call("POST", "seed", {"queues": [self._queue(name, words) for name, words in settings.items()]})

    def snapshot(self) -> str:
        """Keep a copy of everything, and return its name for `restore`; it lasts as long as the emulator."""
        return str(self._call("POST", "snapshot")["name"])

    def restore(self, snapshot: str) -> None:
        """Go back to a snapshot; attempts under way are broken off. The clock stays.

        Raises
        ------
        EmulatorError
            If there is no such snapshot.
        """
        self._call("POST", "restore", {"name": snapshot})

    def history(
        self, queue: str = "", *, at_least: int = 0, timeout: Any = "10s", body: bool = False
    ) -> list[dict[str, Any]]:
        """Return the tasks that were tried and have left their queue, the newest first.

        Parameters
        ----------
        queue : str
            Name, short or full; all queues when left out.
        at_least : int
            Wait until there are so many.
        timeout : duration
            How long to wait for them.
        body : bool
            Add the body that was sent, as text, to each attempt.

        Returns
        -------
        list of dict
            ``queue, task, status`` (of the last attempt: ``OK``, ``INTERNAL``, …), ``finished`` and ``attempts``, each
            with ``dispatched, status, http_status, duration_s, method, url, headers``.

        The test fails if there are fewer than `at_least` in the end.
        """
        query = urllib.parse.urlencode({"queue": queue, "body": int(body), "limit": max(at_least, 1000)})
        end = time.monotonic() + parse_duration(timeout, "timeout").total_seconds()
        pause = threading.Event()
        while True:
            found: list[dict[str, Any]] = self._call("GET", f"history?{query}")["tasks"]
            if len(found) >= at_least:
                return found
            if time.monotonic() >= end:
                shown = "".join(f"\n  {task['task']} {task['status']}" for task in found)
                pytest.fail(f"after {timeout} {len(found)} of {at_least} tasks have left their queue{shown}")
            pause.wait(_LOOK_EVERY)

    def close(self) -> None:
        """End it; its tasks are gone."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            if self._held is not None:
                self._held.close()

    def empty(self) -> bool:
        """Bring it to its first state; False if it has ended."""
        if self._process.poll() is not None:
            return False
        self.reset()
        return True

    def _queue(self, name: str, words: Mapping[str, Any]) -> dict[str, Any]:
        full = name if "/" in name else f"projects/{self.project}/locations/{self.location}/queues/{name}"
        settings = {**NEW_QUEUE, **words}
        state = settings.pop("state", "RUNNING")
        check_names(settings, QUEUE_SETTINGS, "queue setting")
        return {**queue_json(str(QueueName.parse(full)), settings), "state": state}

    def _call(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        connection = HTTPConnection(self.http.removeprefix("http://"), timeout=_CALL_TIMEOUT)
        try:
            connection.request(method, f"/admin/{path}", None if content is None else json.dumps(content))
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            raise EmulatorError(f"the emulator at {self.http} does not answer: {error}", resource=self.http) from error
        finally:
            connection.close()
        if answer.status != OK:
            raise EmulatorError(str(found["error"]), resource=self.http)
        return found


@pytest.fixture(scope="session")
def cloud_tasks_emulator_arguments() -> list[str]:
    """Give the emulator's options; override it for others: ``["--no-batch"]`` (``cloudtasks-nb emulator --help``)."""
    return []


@pytest.fixture(scope="session")
def _cloud_tasks_started() -> Iterator[list[Emulator]]:
    """Keep an emulator from one test to the next."""
    kept: list[Emulator] = []
    yield kept
    for emulator in kept:
        emulator.close()


@pytest.fixture
def cloud_tasks_emulator(
    _cloud_tasks_started: list[Emulator],
    cloud_tasks_emulator_arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Emulator:
    """Give an empty emulator; ``CLOUD_TASKS_EMULATOR_HOST`` names it, so that ``ct.connect()`` reaches it as well."""
    if not (_cloud_tasks_started and _cloud_tasks_started[0].empty()):
        for old in _cloud_tasks_started:
            old.close()
        _cloud_tasks_started[:] = [Emulator(cloud_tasks_emulator_arguments)]
    emulator = _cloud_tasks_started[0]
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.grpc)
    return emulator


@pytest.fixture
def cloud_tasks(
    cloud_tasks_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """Give a connection to the emulator, with a home of its own: no test sees the batches of another, or yours."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path_factory.mktemp("cloudtasks_nb")))
    emulator = cloud_tasks_emulator
    endpoint = Endpoint(project=emulator.project, location=emulator.location, target=emulator.grpc, local=True)
    with Client(Connection(endpoint, Auth(), certs_url=f"{emulator.http}/oauth2/v1/certs")) as client:
        yield client

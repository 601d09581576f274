"""A running emulator that a test controls."""

from __future__ import annotations

import datetime as dt
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, check_names, parse_duration
from cloudtasks_nb.client import emulator_process
from cloudtasks_nb.client.clock import Clock
from cloudtasks_nb.client.queue_settings import NEW_QUEUE
from cloudtasks_nb.errors import EmulatorError
from cloudtasks_nb.service.clock import ServiceClock
from cloudtasks_nb.service.convert import queue_json

__all__ = ["Emulator"]

_STOP_TIMEOUT = 60.0  # seconds to wait for the process to end
_POLL_INTERVAL = 0.01  # seconds


class Emulator:
    """A running emulator that a test controls; the fixture `cloud_tasks_emulator` returns it.

    Attributes
    ----------
    grpc : str
        ``host:port`` for Google's clients, on an insecure channel.
    http : str
        ``http://host:port`` of the REST API (``/v2/…``).
    project, location : str
        The project and location of short queue names and of the fixture `cloud_tasks`.

    Examples
    --------
    >>> cloud_tasks_emulator.seed({"reports": {"rate": 5}})
    >>> tasks = ct.connect("test")  # to this emulator: the fixture sets CLOUD_TASKS_EMULATOR_HOST
    >>> tasks.queues()["rate"].tolist()
    [5.0]
    """

    project = "test"
    location = "us-central1"

    def __init__(self, arguments: Iterable[str] = ()) -> None:
        # The end of the tests does not wait for attempts in flight.
        child, output = emulator_process.start(["--grace", "0", *arguments])
        if child is None:
            raise EmulatorError(f"the emulator did not start: {output}", hint="python -m cloudtasks_nb.emulator --help")
        self._process = child.process
        self._facts = child.facts
        self._held = emulator_process.hold(child.facts)
        self.grpc: str = child.facts["grpc"]
        self.http: str = child.facts["http"]
        self._clock = Clock(lambda: self._facts, moved=self._moved, now=ServiceClock(lambda: self.grpc).now)

    @property
    def now(self) -> dt.datetime:
        """The current time of the emulator's clock.

        Examples
        --------
        >>> before = cloud_tasks_emulator.now
        >>> cloud_tasks_emulator.advance("1h")
        >>> (cloud_tasks_emulator.now - before).total_seconds() >= 3600
        True
        """
        return self._clock.now.to_pydatetime()

    def advance(self, seconds: Any, *, wait: bool = True) -> None:
        """Move its clock forward as `tasks.clock.advance` does, and return when the attempts on the way have ended.

        It does not wait for a batch that is still being sent; ``cloud_tasks.clock.advance`` does. The next test starts
        with the right time again.

        Parameters
        ----------
        seconds : duration
            A number of seconds, ``"10min"`` or a Timedelta.
        wait : bool
            False: move at once, and do not wait for attempts in flight.

        Examples
        --------
        >>> cloud_tasks_emulator.seed("reports")
        >>> task = cloud_tasks.queue("reports").enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="1h")
        >>> cloud_tasks_emulator.advance("1h")
        >>> [done["status"] for done in cloud_tasks_emulator.history("reports", at_least=1)]
        ['OK']
        """
        self._clock.advance(parse_duration(seconds, "seconds"), wait=wait, progress=False)

    def reset(self) -> None:
        """Delete queues, tasks, task names and logs, remove faults, correct the clock, and abort running attempts.

        A strict emulator also forgets users, service accounts, roles, Cloud Run services and what `set` has changed.

        Examples
        --------
        >>> cloud_tasks_emulator.seed(["reports", "mails"])
        >>> cloud_tasks_emulator.reset()
        >>> len(cloud_tasks.queues())
        0
        """
        self._call("POST", "reset")
        self._moved(0)

    def seed(self, queues: Iterable[str] | Mapping[str, Mapping[str, Any]]) -> None:
        """Create queues, or change the settings of existing ones.

        Parameters
        ----------
        queues : str, iterable of str, or mapping
            Names, short or full; a mapping gives each its settings, with the names and defaults of
            ``tasks.queue(create=True)``, and perhaps ``state="PAUSED"``.

        Raises
        ------
        InvalidInputError
            For a bad name or setting; then no queue is created.
        EmulatorError
            For a setting outside the service's limits.

        Examples
        --------
        >>> cloud_tasks_emulator.seed({"reports": {"rate": 5}, "mails": {"state": "PAUSED"}})
        >>> cloud_tasks.queues()[["state", "rate"]]
                   state   rate
        queue
        mails     PAUSED  500.0
        reports  RUNNING    5.0
        """
        names = [queues] if isinstance(queues, str) else queues
        settings = names if isinstance(names, Mapping) else {name: {} for name in names}
        self._call("POST", "seed", {"queues": [self._queue(name, given) for name, given in settings.items()]})

    def snapshot(self) -> str:
        """Copy the whole state, and return the name of the copy for `restore`; it lasts as long as the emulator.

        Examples
        --------
        >>> cloud_tasks_emulator.seed("reports")
        >>> name = cloud_tasks_emulator.snapshot()
        >>> cloud_tasks.queue("reports").delete()
        <Queue projects/test/locations/us-central1/queues/reports>
        >>> cloud_tasks_emulator.restore(name)
        >>> cloud_tasks.queues().index.tolist()
        ['reports']
        """
        return str(self._call("POST", "snapshot")["name"])

    def restore(self, snapshot: str) -> None:
        """Return to a snapshot and abort running attempts; the clock does not change.

        Raises
        ------
        EmulatorError
            If there is no such snapshot.

        Examples
        --------
        >>> empty = cloud_tasks_emulator.snapshot()
        >>> cloud_tasks_emulator.seed("reports")
        >>> cloud_tasks_emulator.restore(empty)
        >>> len(cloud_tasks.queues())
        0
        """
        self._call("POST", "restore", {"name": snapshot})

    def history(
        self, queue: str = "", *, at_least: int = 0, timeout: Any = "10s", body: bool = False
    ) -> list[dict[str, Any]]:
        """Return the tasks that had an attempt and have left their queue, newest first.

        Parameters
        ----------
        queue : str
            Name, short or full; by default all queues.
        at_least : int
            Wait for this many tasks.
        timeout : duration
            How long to wait for them.
        body : bool
            Add the body that was sent, as text, to each attempt.

        Returns
        -------
        list of dict
            ``queue, task, status`` (of the last attempt: ``OK``, ``INTERNAL``, …), ``finished`` and ``attempts``, each
            with ``dispatched, status, http_status, duration_s, method, url, headers``.

        The test fails if there are fewer than `at_least` after the timeout.

        Examples
        --------
        >>> cloud_tasks_emulator.seed("reports")
        >>> task = cloud_tasks.queue("reports").enqueue(handler, {"day": "2013-01-01", "origin": "JFK"})
        >>> (done,) = cloud_tasks_emulator.history("reports", at_least=1)
        >>> done["status"], [attempt["http_status"] for attempt in done["attempts"]]
        ('OK', [200])
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
            pause.wait(_POLL_INTERVAL)

    def close(self) -> None:
        """End the process; its tasks are lost.

        Examples
        --------
        >>> from cloudtasks_nb.testing import Emulator
        >>> emulator = Emulator(["--no-batch"])
        >>> emulator.close()
        """
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            if self._held is not None:
                self._held.close()

    def empty(self) -> bool:
        """Reset the emulator; return False if its process has ended.

        Examples
        --------
        >>> cloud_tasks_emulator.empty()
        True
        """
        if self._process.poll() is not None:
            return False
        self.reset()
        return True

    def _queue(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        full = name if "/" in name else f"projects/{self.project}/locations/{self.location}/queues/{name}"
        settings = {**NEW_QUEUE, **given}
        state = settings.pop("state", "RUNNING")
        check_names(settings, QUEUE_SETTINGS, "queue setting")
        return {**queue_json(str(QueueName.parse(full)), settings), "state": state}

    def _call(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        return emulator_process.call_admin(self._facts, method, path, content)

    def _moved(self, advanced: int) -> None:
        """Tell the connections of this process how far the clock was moved; others learn it from the next answer."""
        ServiceClock(lambda: self.grpc).move(advanced)
        ServiceClock(lambda: urllib.parse.urlsplit(self.http).netloc).move(advanced)

"""Fixtures for pytest: an emulator for the tests, and a connection to it.

In ``conftest.py``::

    pytest_plugins = ["cloudtasks_nb.testing"]

and in a test::

    def test_report_is_made_once(cloud_tasks, cloud_tasks_emulator):
        cloud_tasks_emulator.seed({"reports": {"max_attempts": 2}})
        make_report(cloud_tasks.queue("reports"))  # what is tested
        done = cloud_tasks_emulator.history("reports", at_least=1)
        assert [task["status"] for task in done] == ["OK"]

The emulator is started once for all tests and is emptied before each one. Other clients and languages can use it
too: gRPC at ``cloud_tasks_emulator.grpc``, REST at ``cloud_tasks_emulator.http``.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import OK, HTTPException
from pathlib import Path
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, STORE_VARIABLE, Endpoint, check_names, parse_duration
from cloudtasks_nb.client import emulator_process
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.client.queue_settings import NEW_QUEUE
from cloudtasks_nb.errors import EmulatorError
from cloudtasks_nb.service.auth import SCOPE, Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import queue_json

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "cloudtasks_nb.testing needs pytest, which cloudtasks_nb does not install: pip install pytest"
    ) from error

__all__ = [
    "Emulator",
    "StrictEmulator",
    "cloud_tasks",
    "cloud_tasks_emulator",
    "cloud_tasks_emulator_arguments",
    "strict_emulator",
]

_START_TIMEOUT = 30.0  # seconds; a start takes one
_CALL_TIMEOUT = 30.0  # seconds
_STOP_TIMEOUT = 10.0  # seconds to wait for the process to end
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
        child, output = emulator_process.start(["--grace", "0", *arguments], _START_TIMEOUT)
        if child is None:
            raise EmulatorError(f"the emulator did not start: {output}", hint="python -m cloudtasks_nb.emulator --help")
        self._process = child.process
        self._facts = child.facts
        self._held = emulator_process.hold(child.facts)
        self.grpc: str = child.facts["grpc"]
        self.http: str = child.facts["http"]

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
        return dt.datetime.fromisoformat(self._call("GET", "clock")["now"])

    def advance(self, seconds: Any) -> None:
        """Move its clock forward: tasks that become due are dispatched, and names that expire can be used again.

        A client computes times such as ``delay="10min"`` with the clock of this machine. The next test starts with the
        right time again.

        Parameters
        ----------
        seconds : duration
            A number of seconds, ``"10min"`` or a Timedelta.

        Examples
        --------
        >>> cloud_tasks_emulator.seed("reports")
        >>> task = cloud_tasks.queue("reports").enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="1h")
        >>> cloud_tasks_emulator.advance("1h")
        >>> [done["status"] for done in cloud_tasks_emulator.history("reports", at_least=1)]
        ['OK']
        """
        span = parse_duration(seconds, "seconds").total_seconds()
        self._call("POST", "clock", {"advance_s": span})

    def reset(self) -> None:
        """Delete queues, tasks, task names and logs, correct the clock, and abort running attempts.

        Examples
        --------
        >>> cloud_tasks_emulator.seed(["reports", "mails"])
        >>> cloud_tasks_emulator.reset()
        >>> len(cloud_tasks.queues())
        0
        """
        self._call("POST", "reset")

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
        connection = emulator_process.connection(self._facts, _CALL_TIMEOUT)
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, f"/admin/{path}", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            raise EmulatorError(f"the emulator at {self.http} does not answer: {error}", resource=self.http) from error
        finally:
            connection.close()
        if answer.status != OK:
            raise EmulatorError(str(found["error"]), resource=self.http)
        return found


class StrictEmulator(Emulator):
    """An emulator that behaves like Google Cloud: TLS, tokens, roles; `strict_emulator` starts it.

    It is Google for a whole process if `environment` is set before the first connection: gRPC reads the trusted roots
    once. All strict emulators of a process have the same certificate authority.

    Attributes
    ----------
    endpoint : str
        ``https://host:port`` of the gRPC API, for ``ct.connect(endpoint=…)``.
    environment : dict
        The variables that lead Google's libraries and this package to it: the trusted roots, endpoint and project.
    certificate, key : Path
        A TLS certificate for ``localhost``, for targets of tasks with tokens, which must be ``https://``.

    Examples
    --------
    >>> google.endpoint
    'https://127.0.0.1:...'
    >>> sorted(google.environment)
    ['CLOUD_TASKS_EMULATOR_HOST', 'GOOGLE_CLOUD_PROJECT', 'GRPC_DEFAULT_SSL_ROOTS_FILE_PATH', 'REQUESTS_CA_BUNDLE']
    """

    def __init__(self, folder: Path, project: str, location: str, arguments: Iterable[str] = ()) -> None:
        for name, content in _authority.items():
            (folder / name).write_bytes(content)
        super().__init__(["--strict", "--metadata-port", "0", "--data-dir", str(folder), *arguments])
        _authority.update({name: (folder / name).read_bytes() for name in ("ca.pem", "ca-key.pem")})
        self.project, self.location = project, location
        self.endpoint = f"https://{self.grpc}"
        self.certificate, self.key = folder / "server.pem", folder / "server-key.pem"
        self.environment = {
            "CLOUD_TASKS_EMULATOR_HOST": self.endpoint,
            "GOOGLE_CLOUD_PROJECT": project,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": self._facts["ca"],
            "REQUESTS_CA_BUNDLE": self._facts["ca"],
        }
        self._folder = folder

    def user(self, email: str, roles: str | Iterable[str] = ()) -> Path:
        """Create a user, or log in again, and return the path of Application Default Credentials.

        Parameters
        ----------
        email : str
            ``ann@example.com``.
        roles : str or iterable of str
            Roles on the project, such as ``roles/cloudtasks.viewer``; the name of a permission is a custom role.

        Raises
        ------
        EmulatorError
            For an unknown role.

        Examples
        --------
        >>> file = google.user("ann@example.com", roles=["roles/cloudtasks.viewer", "roles/logging.viewer"])
        >>> monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        """
        return self._credentials(email, roles, "user")

    def service_account(self, email: str, roles: str | Iterable[str] = (), *, key: bool = True) -> Path:
        """Create a service account, and return the path of a new key file.

        Parameters
        ----------
        email : str
            ``sender@demo.iam.gserviceaccount.com``, or its first part.
        roles : str or iterable of str
            As for `user`.
        key : bool
            Make a key; without one the file that is named does not exist.

        Examples
        --------
        >>> file = google.service_account("sender", roles="roles/cloudtasks.enqueuer")
        >>> file.name
        'sender@demo.iam.gserviceaccount.com.json'
        """
        return self._credentials(self.email(email), roles, "key" if key else "")

    def workload(self, subject: str, roles: str | Iterable[str] = (), *, service_account: str | None = None) -> Path:
        """Create an identity of a workload pool, and return the path of its credential configuration.

        Parameters
        ----------
        subject : str
            Its name in the pool ``runners`` of the project.
        roles : str or iterable of str
            As for `user`; of the service account if there is one.
        service_account : str, optional
            A service account that the workload impersonates; it is created, and the workload may make its tokens.

        Examples
        --------
        >>> file = google.workload("build-7", roles="roles/cloudtasks.enqueuer")
        >>> file = google.workload("build-8", roles="roles/cloudtasks.enqueuer", service_account="sender")
        """
        pool = f"iam.googleapis.com/projects/{self.project}/locations/global/workloadIdentityPools/runners"
        member = f"principal://{pool}/subject/{subject}"
        content = self._call("POST", "google/principals", {"email": member, "credentials": "workload"})
        token = self._folder / f"{subject}.token"
        token.write_text(content["token"], encoding="utf-8")
        configuration = {
            "type": "external_account",
            "audience": f"//{pool}/providers/tokens",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.http}/v1/token",
            "credential_source": {"file": str(token)},
        }
        if service_account:
            email = self.email(service_account)
            self._credentials(email, roles, "")
            self.grant(member, "roles/iam.workloadIdentityUser", email)
            url = f"{self.http}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"
            configuration["service_account_impersonation_url"] = url
        else:
            self._grant_all(member, roles)
        file = self._folder / f"{subject}.json"
        file.write_text(json.dumps(configuration), encoding="utf-8")
        return file

    def machine(
        self, email: str, roles: str | Iterable[str] = (), *, scopes: Iterable[str] = (SCOPE,)
    ) -> dict[str, str]:
        """Be the metadata server of a machine, such as a Workbench notebook, and return its environment.

        google-auth reads these variables once, when it is imported.

        Parameters
        ----------
        email : str
            The machine's service account, which is created.
        roles : str or iterable of str
            As for `user`.
        scopes : iterable of str
            What the machine's tokens can be used for.

        Examples
        --------
        >>> sorted(google.machine("workbench", roles="roles/cloudtasks.viewer"))
        ['GCE_METADATA_HOST', 'GCE_METADATA_IP']
        """
        self._credentials(self.email(email), roles, "")
        self.set(machine=self.email(email), machine_scopes=list(scopes))
        return {"GCE_METADATA_HOST": self._facts["metadata"], "GCE_METADATA_IP": self._facts["metadata"]}

    def email(self, name: str) -> str:
        """Return the address of a service account of the project.

        Examples
        --------
        >>> google.email("sender")
        'sender@demo.iam.gserviceaccount.com'
        """
        return name if "@" in name else f"{name}@{self.project}.iam.gserviceaccount.com"

    def grant(self, member: str, role: str, resource: str | None = None) -> None:
        """Give a role to a member.

        Parameters
        ----------
        member : str
            An e-mail address, or as in policies: ``user:…``, ``serviceAccount:…``, ``principal://…``, ``allUsers``.
        role : str
            As for `user`.
        resource : str, optional
            ``projects/P``, the name of a queue, or the e-mail address of a service account; by default the project.

        Examples
        --------
        >>> google.grant("ann@example.com", "roles/iam.serviceAccountUser", google.email("caller"))
        """
        self._call("POST", "google/grant", self._binding(member, role, resource))

    def revoke(self, member: str, role: str, resource: str | None = None) -> None:
        """Take a role from a member.

        Raises
        ------
        EmulatorError
            If the member does not have it on this resource.

        Examples
        --------
        >>> google.grant("ann@example.com", "roles/cloudtasks.viewer")
        >>> google.revoke("ann@example.com", "roles/cloudtasks.viewer")
        """
        self._call("POST", "google/revoke", self._binding(member, role, resource))

    def set(self, **conditions: Any) -> None:
        """Change what is wrong with the project; each setting stays until it is set again.

        Parameters
        ----------
        **conditions
            ``api_disabled`` (True, or a list such as ``["logging.googleapis.com"]``), ``billing=False``,
            ``quota_project_denied``, ``vpc_sc``, ``quotas`` (600 lists, 60 reads of the log and 60 RunTask a minute),
            ``latency_s``, ``service_agent=False`` (Cloud Tasks cannot make tokens for tasks), ``token_lifetime_s``,
            ``clock_offset_s`` (Google's clock is ahead of this machine's), ``projects`` (those that exist; none: all),
            and ``log_excluded`` (the entries of the log are routed elsewhere).

        Raises
        ------
        EmulatorError
            For an unknown setting or a wrong type.

        Examples
        --------
        >>> google.set(api_disabled=True)
        >>> google.set(api_disabled=False, latency_s=0.05)
        """
        self._call("PUT", "google", conditions)

    def fault(self, method: str, **settings: Any) -> None:
        """Let the next calls of a method fail.

        Parameters
        ----------
        method : str
            ``CreateTask``, or ``*`` for all.
        **settings
            ``code``, ``message``, ``count=1`` (None: until a reset), ``after`` (execute the call first), ``delay_s``.

        Examples
        --------
        >>> google.fault("CreateTask", code="UNAVAILABLE")
        """
        self._call("POST", "faults", {"method": method, **settings})

    def log_out(self, email: str) -> None:
        """Revoke all credentials of a principal, which keeps its roles; `user` logs in again.

        Examples
        --------
        >>> google.log_out("ann@example.com")
        """
        self._call("DELETE", "google/principals", {"email": email, "log_out": True})

    def delete(self, email: str) -> None:
        """Delete a principal; its roles stay, as Google's do.

        Examples
        --------
        >>> google.delete(google.email("sender"))
        """
        self._call("DELETE", "google/principals", {"email": email})

    def _binding(self, member: str, role: str, resource: str | None) -> dict[str, str]:
        return {"member": member, "role": role, "resource": resource or f"projects/{self.project}"}

    def _grant_all(self, member: str, roles: str | Iterable[str]) -> None:
        for role in [roles] if isinstance(roles, str) else roles:
            self.grant(member, role)

    def _credentials(self, email: str, roles: str | Iterable[str], kind: str) -> Path:
        content = self._call("POST", "google/principals", {"email": email, "credentials": kind})
        self._grant_all(email, roles)
        file = self._folder / f"{email}.json"
        if kind:
            file.write_text(json.dumps(content), encoding="utf-8")
        return file


#: The files of the certificate authority of all strict emulators of this process.
_authority: dict[str, bytes] = {}


@contextmanager
def strict_emulator(*arguments: str, project: str = "demo", location: str = "us-central1") -> Iterator[StrictEmulator]:
    """Run an emulator that behaves like Google Cloud, with a temporary folder.

    Parameters
    ----------
    *arguments : str
        Further options of ``cloudtasks-nb emulator``.
    project, location : str
        Where short names of queues are, and where roles are granted.

    Examples
    --------
    >>> from cloudtasks_nb.testing import strict_emulator
    >>> with strict_emulator() as google:
    ...     file = google.user("ann@example.com", roles="roles/cloudtasks.admin")
    """
    with tempfile.TemporaryDirectory(prefix="cloudtasks-strict-") as folder:
        emulator = StrictEmulator(Path(folder), project, location, arguments)
        try:
            yield emulator
        finally:
            emulator.close()


@pytest.fixture(scope="session")
def cloud_tasks_emulator_arguments() -> list[str]:
    """Return the emulator's options, none by default; override it to set some, such as ``["--no-batch"]``.

    ``cloudtasks-nb emulator --help`` lists them.

    Examples
    --------
    >>> cloud_tasks_emulator_arguments
    []
    """
    return []


@pytest.fixture(scope="session")
def _cloud_tasks_started() -> Iterator[list[Emulator]]:
    """Give the list with the emulator that all tests share; empty before the first one."""
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
    """Return an empty emulator; ``ct.connect()`` connects to it too, by ``CLOUD_TASKS_EMULATOR_HOST``.

    Examples
    --------
    >>> cloud_tasks_emulator.seed("reports")
    >>> ct.connect("test").queues().index.tolist()
    ['reports']
    """
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
    """Give a connection to the emulator, with a new home: a test sees neither other tests' batches nor yours.

    Examples
    --------
    >>> cloud_tasks.queue("reports", create=True)
    made queue reports with log_sampling_ratio=1.0 ...
    <Queue projects/test/locations/us-central1/queues/reports>
    """
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path_factory.mktemp("cloudtasks_nb")))
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    emulator = cloud_tasks_emulator
    endpoint = Endpoint(project=emulator.project, location=emulator.location, target=emulator.grpc, local=True)
    with Client(Connection(endpoint, Auth())) as client:
        yield client

"""Check a connection from its credentials to its log, and suggest a fix for each problem."""

from __future__ import annotations

import email.utils
import importlib.metadata
import platform
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import DOCTOR, frame
from cloudtasks_nb._names import QueueName, log_name
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, PreconditionError
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.service.oplog import log_filter
from cloudtasks_nb.service.watch import now_micros

__all__ = ["diagnose"]

_TIMEOUT = 10.0  # seconds a check may take
_SKEW = 30.0  # seconds; if clocks differ by more, the service refuses calls because their deadline is too far away
_PERMISSIONS = (
    "cloudtasks.tasks.create",
    "cloudtasks.tasks.list",
    "cloudtasks.tasks.fullView",
    "cloudtasks.tasks.delete",
    "cloudtasks.tasks.run",
    "cloudtasks.queues.get",
    "cloudtasks.queues.update",
)
#: Checks that a connection to an emulator does not need.
_ONLY_GOOGLE = ("credentials", "principal", "permissions", "clock")
_PACKAGES = ("cloudtasks-nb", "google-cloud-tasks", "pandas", "ipywidgets", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    ok: bool
    detail: str
    fix: str | None = None


class _CheckContext:
    """Shared by all checks; lists the queues only once, because a call to a service that is down is slow."""

    def __init__(self, connection: Connection) -> None:
        self.auth = connection.auth
        self._connection = connection
        self._queues: list[Any] | CloudTasksError | None = None

    @property
    def endpoint(self) -> Endpoint:
        return self._connection.endpoint

    def call(self, rpc: str, /, **fields: Any) -> Any:
        return _loop.run(self._connection.transport.call(rpc, timeout=_TIMEOUT, **fields))

    def queues(self) -> list[Any]:
        """Return the first 1,000 queues as raw messages; raises the error of the listing."""
        if self._queues is None:
            try:
                self._queues = list(self.call("ListQueues", parent=self.endpoint.parent(), page_size=1000).queues)
            except CloudTasksError as error:
                self._queues = error
        if isinstance(self._queues, CloudTasksError):
            raise self._queues
        return self._queues


def diagnose(connection: Connection) -> pd.DataFrame:
    """Check a connection from credentials to clock; never raises.

    Returns
    -------
    pandas.DataFrame
        Index `check`; columns `ok`, `detail` and `fix` (NA where there is nothing to fix).
    """
    checks: dict[str, Callable[[_CheckContext], _Finding]] = {
        "credentials": _credentials,
        "principal": _principal,
        "project": _project,
        "api": _api,
        "location": _location,
        "queues": _queues,
        "permissions": _permissions,
        "log": _log,
        "clock": _clock,
        "versions": _versions,
    }
    context = _CheckContext(connection)
    found = dict.fromkeys(checks, _Finding(ok=True, detail="not needed on an emulator"))
    for name, check in checks.items():
        if not (context.endpoint.local and name in _ONLY_GOOGLE):
            found[name] = _safely(check, context)
    columns: dict[str, list[Any]] = {
        "check": list(found),
        "ok": [finding.ok for finding in found.values()],
        "detail": [finding.detail for finding in found.values()],
        "fix": [finding.fix for finding in found.values()],
    }
    return frame(DOCTOR, columns, index="check")


def _safely(check: Callable[[_CheckContext], _Finding], context: _CheckContext) -> _Finding:
    try:
        return check(context)
    except CloudTasksError as error:
        return _Finding(ok=False, detail=error.message, fix=error.hint)
    except Exception as error:  # noqa: BLE001 - a failed check is a finding, and must not stop the other checks
        return _Finding(ok=False, detail=f"{type(error).__name__}: {error}", fix="please report this")


def _credentials(context: _CheckContext) -> _Finding:
    if not context.auth.credentials().valid:
        context.auth.renew()
    return _Finding(ok=True, detail=context.auth.form())


def _principal(context: _CheckContext) -> _Finding:
    return _Finding(ok=True, detail=context.auth.principal() or "the credentials do not name it")


def _project(context: _CheckContext) -> _Finding:
    endpoint = context.endpoint
    project = endpoint.project or (None if endpoint.local else context.auth.project())
    if project is None:
        return _Finding(
            ok=False, detail="not known", fix='ct.connect("my-project", …) or: gcloud config set project MY-PROJECT'
        )
    return _Finding(ok=True, detail=project)


def _api(context: _CheckContext) -> _Finding:
    endpoint = context.endpoint
    try:
        context.queues()
    except CloudTasksError as error:
        enable = f"gcloud services enable cloudtasks.googleapis.com --project={endpoint.project}"
        refused = not endpoint.local and isinstance(error, (PermissionDeniedError, PreconditionError))
        return _Finding(ok=False, detail=error.message, fix=enable if refused else error.hint)
    return _Finding(ok=True, detail=f"{endpoint.target} answers")


def _location(context: _CheckContext) -> _Finding:
    return _Finding(ok=True, detail=context.endpoint.parent().rpartition("/")[2])


def _queues(context: _CheckContext) -> _Finding:
    names = [queue.name for queue in context.queues()]
    if not names:
        return _Finding(ok=True, detail="none yet", fix='tasks.queue("reports", create=True) makes one')
    return _Finding(ok=True, detail=f"{len(names):,}: " + ", ".join(name.rpartition("/")[2] for name in names[:5]))


def _permissions(context: _CheckContext) -> _Finding:
    queues = context.queues()
    if not queues:
        return _Finding(ok=True, detail="not checked: there is no queue yet")
    name = queues[0].name
    answer = context.call("TestIamPermissions", resource=name, permissions=_PERMISSIONS)
    lacking = [one for one in _PERMISSIONS if one not in answer.permissions]
    if lacking:
        grant = f"gcloud projects add-iam-policy-binding {context.endpoint.project} --member=user:YOU"
        return _Finding(ok=False, detail="lacks " + ", ".join(lacking), fix=f"{grant} --role=roles/cloudtasks.editor")
    return _Finding(ok=True, detail=f"all {len(_PERMISSIONS)} that the toolkit uses, on {name.rpartition('/')[2]}")


def _log(context: _CheckContext) -> _Finding:
    parent = context.endpoint.parent()
    project = parent.split("/")[1]
    queues = context.queues()
    any_queue = QueueName.parse(queues[0].name if queues else f"{parent}/queues/none")
    filters = log_filter(any_queue, since=now_micros() - 3_600_000_000)
    context.call(
        "ListLogEntries",
        resource_names=[f"projects/{project}"],
        filter=filters,
        page_size=1,
        resource_name=log_name(project),
    )
    silent = [queue.name.rpartition("/")[2] for queue in queues if queue.stackdriver_logging_config.sampling_ratio == 0]
    if silent:
        return _Finding(
            ok=False,
            detail=f"can be read, but {len(silent)} queues write no log ({LOG_PRICE}): " + ", ".join(silent[:3]),
            fix=f'tasks.queue("{silent[0]}").update(log_sampling_ratio=1.0)',
        )
    return _Finding(ok=True, detail="can be read, and every queue writes to it")


def _clock(context: _CheckContext) -> _Finding:  # noqa: ARG001 - all checks have the same signature
    request = urllib.request.Request("https://cloudtasks.googleapis.com/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - the URL is a constant
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except OSError as error:
        return _Finding(ok=False, detail=f"cannot be compared: {error}", fix="check the network and the proxy")
    skew = abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    if skew > _SKEW:
        return _Finding(ok=False, detail=f"{skew:.0f} s off", fix="set this machine's clock (NTP)")
    return _Finding(ok=True, detail=f"{skew:.0f} s off at most")


def _versions(context: _CheckContext) -> _Finding:  # noqa: ARG001 - all checks have the same signature
    versions = (f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return _Finding(ok=True, detail=", ".join([f"Python {platform.python_version()}", *versions]))

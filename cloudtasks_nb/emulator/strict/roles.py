"""The permissions of IAM roles (https://cloud.google.com/iam/docs/roles-permissions).

Only the permissions that an emulator checks are listed, and those by which a caller gets tokens of service accounts.
"""

from __future__ import annotations

from cloudtasks_nb.errors import InvalidInputError

__all__ = ["check_role", "permissions_of"]


def _tasks(*names: str) -> frozenset[str]:
    return frozenset(f"cloudtasks.{name}" for name in names)


_LOCATIONS = _tasks("locations.get", "locations.list")
_QUEUES = _tasks(
    *("queues.create", "queues.delete", "queues.get", "queues.list", "queues.pause", "queues.purge", "queues.resume"),
    "queues.update",
)
_TASKS = _tasks("tasks.create", "tasks.delete", "tasks.fullView", "tasks.get", "tasks.list", "tasks.run")
_POLICY = _tasks("queues.getIamPolicy", "queues.setIamPolicy")
_TASKS_EDITOR = _LOCATIONS | _QUEUES | _TASKS | _tasks("operations.get", "cmekConfig.get")
_TASKS_ADMIN = _TASKS_EDITOR | _POLICY | _tasks("cmekConfig.update")
_TASKS_VIEWER = _LOCATIONS | _tasks(
    *("cmekConfig.get", "operations.get", "queues.get", "queues.list", "tasks.fullView", "tasks.get", "tasks.list")
)
_READ_LOG = frozenset({"logging.logEntries.list", "logging.logs.list"})
_WRITE_LOG = frozenset({"logging.logEntries.create"})
_ACT_AS = frozenset({"iam.serviceAccounts.actAs", "iam.serviceAccounts.get", "iam.serviceAccounts.list"})
_ID_TOKEN = frozenset({"iam.serviceAccounts.getOpenIdToken"})
_TOKENS = _ID_TOKEN | {
    "iam.serviceAccounts.getAccessToken",
    "iam.serviceAccounts.implicitDelegation",
    "iam.serviceAccounts.signBlob",
    "iam.serviceAccounts.signJwt",
}
_USE_PROJECT = frozenset({"serviceusage.services.use"})
_READ_IAM = frozenset({"iam.serviceAccounts.get", "iam.serviceAccounts.list", "resourcemanager.projects.getIamPolicy"})
_INVOKE = frozenset({"run.routes.invoke"})
_SERVICES = frozenset({"run.services.get", "run.services.getIamPolicy"})
_WRITE_OBJECTS = frozenset({"storage.objects.create"})
_READ_OBJECTS = frozenset({"storage.objects.get", "storage.objects.list"})
_OBJECTS = _WRITE_OBJECTS | _READ_OBJECTS | {"storage.objects.delete", "storage.objects.update"}
_BUCKETS = frozenset({"storage.buckets.get", "storage.buckets.getIamPolicy"})
_EDITOR = _TASKS_EDITOR | _READ_LOG | _WRITE_LOG | _ACT_AS | _USE_PROJECT | _READ_IAM

_ROLES: dict[str, frozenset[str]] = {
    "roles/owner": _EDITOR | _TASKS_ADMIN | _INVOKE | _SERVICES | _OBJECTS | _BUCKETS,
    "roles/editor": _EDITOR,
    "roles/viewer": _TASKS_VIEWER | _READ_LOG | _READ_IAM,
    "roles/cloudtasks.admin": _TASKS_ADMIN,
    "roles/cloudtasks.editor": _TASKS_EDITOR,
    "roles/cloudtasks.viewer": _TASKS_VIEWER,
    "roles/cloudtasks.enqueuer": _tasks("tasks.create", "tasks.fullView", "operations.get"),
    "roles/cloudtasks.taskRunner": _tasks("tasks.run", "tasks.fullView"),
    "roles/cloudtasks.taskDeleter": _tasks("tasks.delete"),
    "roles/cloudtasks.queueAdmin": _LOCATIONS | _QUEUES | _POLICY,
    "roles/cloudtasks.serviceAgent": _WRITE_LOG | {"iam.serviceAccounts.getAccessToken"} | _ID_TOKEN,
    "roles/logging.viewer": _READ_LOG,
    "roles/logging.privateLogViewer": _READ_LOG,
    "roles/logging.admin": _READ_LOG | _WRITE_LOG,
    "roles/logging.logWriter": _WRITE_LOG,
    "roles/iam.serviceAccountUser": _ACT_AS,
    "roles/iam.serviceAccountTokenCreator": _TOKENS,
    "roles/iam.serviceAccountOpenIdTokenCreator": _ID_TOKEN,
    "roles/iam.workloadIdentityUser": _ID_TOKEN | {"iam.serviceAccounts.getAccessToken"},
    "roles/serviceusage.serviceUsageConsumer": _USE_PROJECT,
    "roles/run.invoker": _INVOKE,
    "roles/run.developer": _SERVICES,
    "roles/run.viewer": _SERVICES,
    "roles/run.admin": _INVOKE | _SERVICES,
    "roles/storage.objectCreator": _WRITE_OBJECTS,
    "roles/storage.objectViewer": _READ_OBJECTS,
    "roles/storage.objectUser": _OBJECTS,
    "roles/storage.admin": _OBJECTS | _BUCKETS,
}


def permissions_of(role: str) -> frozenset[str]:
    """Return the permissions of a role; none if it is unknown.

    Parameters
    ----------
    role : str
        ``roles/cloudtasks.viewer``; or a permission, ``cloudtasks.tasks.create``, for a custom role that has only it.
    """
    return _ROLES.get(role, frozenset()) if "/" in role else frozenset({role})


def check_role(role: str) -> None:
    """Raise InvalidInputError if a role is unknown."""
    if "/" in role and role not in _ROLES:
        raise InvalidInputError(f'"{role}" is unknown to the emulator, which knows {", ".join(_ROLES)}')

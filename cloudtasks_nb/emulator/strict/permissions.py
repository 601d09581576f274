"""The hosts of Google's services, and what the names of resources tell about access to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudtasks_nb.emulator.model.methods import LOGGING, TASKS, Method

__all__ = [
    "ACT_AS",
    "GOOGLE_HOSTS",
    "IAM",
    "IAM_CREDENTIALS",
    "RUN_HOSTS",
    "needed",
    "parents",
    "resources_of",
    "service_accounts",
]

IAM, IAM_CREDENTIALS = "iam.googleapis.com", "iamcredentials.googleapis.com"
#: The hosts whose services a strict emulator has.
GOOGLE_HOSTS = (
    *(TASKS, LOGGING, IAM, IAM_CREDENTIALS),
    *("oauth2.googleapis.com", "sts.googleapis.com", "cloudresourcemanager.googleapis.com", "www.googleapis.com"),
    *("run.googleapis.com", "storage.googleapis.com"),
)
#: The hosts of services of Cloud Run, as certificates name them.
RUN_HOSTS = ("*.run.app", "*.a.run.app", "*.us-central1.run.app")
_FULL_VIEW = 2  # the number of `Task.View.FULL`
ACT_AS = "iam.serviceAccounts.actAs"


def resources_of(method: Method, request: Any) -> list[str]:
    """Return the names of the resources of a request."""
    value = request
    for part in method.resource.split("."):
        value = getattr(value, part)
    return [value] if isinstance(value, str) else list(value)


def needed(method: Method, request: Any) -> Iterator[str]:
    """Yield the permissions that a request needs on its resources."""
    if method.permission:
        yield method.permission
    if getattr(request, "response_view", 0) == _FULL_VIEW:
        yield "cloudtasks.tasks.fullView"


def parents(resource: str) -> list[str]:
    """Return the resources whose roles count for a resource: a task's queue and project, and the resource itself."""
    parts = resource.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -2)]


def service_accounts(target: Any) -> list[str]:
    """Return the service account whose tokens a `HttpRequest` or `HttpTarget` wants, none if it wants no token."""
    kind = target.WhichOneof("authorization_header")
    return [getattr(target, kind).service_account_email] if kind else []

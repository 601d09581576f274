"""Check the store: whether this connection can use it, and whether a deployed service may write to it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from typing import Any

from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.handlers.deploy import Deployment
from cloudtasks_nb.handlers.gcloud import results_folder, results_grant
from cloudtasks_nb.store.store import Store

__all__ = ["check_store"]

_CONTENT = b"a probe of tasks.doctor()"
#: Roles with the permission to write objects: https://cloud.google.com/storage/docs/access-control/iam-roles
_WRITERS = (
    *("roles/storage.objectUser", "roles/storage.objectCreator", "roles/storage.objectAdmin", "roles/storage.admin"),
    *("roles/storage.legacyBucketWriter", "roles/storage.legacyBucketOwner"),
)
#: Whom the policy of a bucket has for the basic roles: https://cloud.google.com/storage/docs/access-control/iam-roles
_GROUPS = {"roles/editor": "projectEditor", "roles/owner": "projectOwner"}
#: A condition by which a role holds for some objects only, as `ct.deploy` writes it.
_BELOW = re.compile(r'resource\.name\.startsWith\("(.*)"\)')


async def check_store(context: CheckContext) -> Finding:
    """Write, read, list and delete an object; ask for the rights of the service that stores results."""
    store = context.connection.store
    await asyncio.to_thread(_use, store)
    deployment = context.target.url
    if not isinstance(deployment, Deployment) or not deployment.store:
        return Finding(ok=True, detail=f"{store.url} can be written, read, listed and cleared")
    if Store(deployment.store).url != store.url:
        return Finding(
            ok=False,
            detail=f"{deployment.name} stores results in {deployment.store}, and this connection reads {store.url}",
            fix=f'ct.connect(…, store="{deployment.store}"), or the same store= in ct.deploy',
        )
    return await _runner(context, deployment)


def _use(store: Store) -> None:
    """Raise `StoreError` if an object cannot be written, read, listed or deleted. Blocks."""
    path = f"doctor-{secrets.token_hex(8)}"
    store.put(path, _CONTENT)
    try:
        store.get(path)
        next(store.pages("results/"), None)
    finally:
        store.delete([path])


async def _runner(context: CheckContext, deployment: Deployment) -> Finding:
    """Look into the policies of the bucket and of the project whether the service may write results."""
    usable = f"{deployment.store} can be written, read, listed and cleared"
    bucket = deployment.store.removeprefix("gs://").partition("/")[0]
    if not deployment.store.startswith("gs://"):
        return Finding(ok=True, detail=usable)
    member = f"serviceAccount:{deployment.runner}"
    try:
        # Without a version, roles with a condition have other names:
        # https://cloud.google.com/iam/docs/troubleshoot-withcond
        policy = await context.google.read("storage", f"storage/v1/b/{bucket}/iam", optionsRequestedPolicyVersion=3)
    except CloudTasksError as error:
        return Finding(ok=True, detail=f"{usable}; whether {deployment.runner} may write is not known: {error.message}")
    bindings, lacks = policy.get("bindings", []), f"has no role on gs://{bucket} by which it may write"
    try:
        of_project = (await context.google.project_policy(deployment.project)).get("bindings", [])
    except CloudTasksError as error:
        of_project, lacks = [], f"{lacks}; whether one on the project lets it is not known: {error.message}"
    roles = {binding["role"] for binding in of_project if member in binding["members"]}
    members = {member, *(f"{_GROUPS[role]}:{deployment.project}" for role in _GROUPS.keys() & roles)}
    folder = results_folder(deployment.store)
    if any(members & {*one["members"]} and _may_write(one, folder) for one in [*bindings, *of_project]):
        return Finding(ok=True, detail=f"{usable}, and {deployment.runner} may write")
    return Finding(
        ok=False,
        detail=f"{deployment.runner}, as which the service runs, {lacks}",
        fix=results_grant(deployment.store, deployment.runner, deployment.project).text,
    )


def _may_write(binding: Mapping[str, Any], folder: str) -> bool:
    """Return whether the members of a binding may write objects in a folder, as far as its condition can be read."""
    below = _BELOW.fullmatch(binding.get("condition", {}).get("expression", ""))
    return binding["role"] in _WRITERS and (below is None or folder.startswith(below[1]))

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
        next(store.pages(path), None)
    finally:
        store.delete([path])


async def _runner(context: CheckContext, deployment: Deployment) -> Finding:
    """Look into the policy of the bucket whether the service may write results."""
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
    folder = results_folder(deployment.store)
    if any(member in binding["members"] and _may_write(binding, folder) for binding in policy.get("bindings", ())):
        return Finding(ok=True, detail=f"{usable}, and {deployment.runner} may write")
    return Finding(
        ok=False,
        detail=f"{deployment.runner}, as which the service runs, has no role on gs://{bucket} by which it may write",
        fix=results_grant(deployment.store, deployment.runner, deployment.project).text,
    )


def _may_write(binding: Mapping[str, Any], folder: str) -> bool:
    """Return whether the members of a binding may write objects in a folder, as far as its condition can be read."""
    below = _BELOW.fullmatch(binding.get("condition", {}).get("expression", ""))
    return binding["role"] in _WRITERS and (below is None or folder.startswith(below[1]))

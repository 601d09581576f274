"""Check the store: whether this connection can use it, who else can, and whether a deployed service may write to it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudtasks_nb import _loop, _settings
from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.handlers.deploy import Deployment
from cloudtasks_nb.handlers.gcloud import results_folder, results_grant
from cloudtasks_nb.store.store import Store

__all__ = ["check_store"]

_MODES = os.name == "posix"  # whether the modes of folders mean anything
_RIGHTS = {"read": 0o5, "written": 0o3}  # what can be done with a folder by those who have these bits
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
    """Write, read, list and delete an object; look who else can, and whether the service that stores results may."""
    store, home = context.connection.store, _settings.home()
    await _loop.to_thread(_use, store)
    if _MODES and len(readers := _allowed(home, _RIGHTS["read"])) > 1:
        detail = f"the home {home} can be read by {' and '.join(readers)}"
        return Finding(ok=False, detail=detail, fix="set CLOUDTASKS_NB_HOME to a folder of your own", blocks=False)
    deployment = context.target.url
    if not isinstance(deployment, Deployment) or not deployment.store:
        usable = f"{store.url} can be written, read, listed and cleared"
        if _MODES and store.appends:
            found = (f"{verb} by {' and '.join(_allowed(Path(store.url), bits))}" for verb, bits in _RIGHTS.items())
            usable += f"; by its mode it can be {', and '.join(found)}"
        return Finding(ok=True, detail=usable)
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


def _allowed(folder: Path, bits: int) -> list[str]:
    """Return who has rights on a folder, by its mode and those of the folders above it; its owner is the first."""
    folder = folder.resolve()
    facts = folder.stat()
    try:
        owner, group = folder.owner(), folder.group()
    except KeyError:  # a container may know numbers only
        owner, group = f"user {facts.st_uid}", str(facts.st_gid)
    needed = [(facts, bits), *((above.stat(), 0o1) for above in folder.parents)]

    def have(gid: int | None) -> bool:
        return all(one.st_mode >> 3 * (one.st_gid == gid) & need == need for one, need in needed)

    others = {f"group {group}": facts.st_gid, "everybody on this machine": None}
    return [owner, *(name for name, gid in others.items() if have(gid))]


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

"""Check what the service allows: the API, the location, the queues and the permissions of the caller."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, QueueNotFoundError
from cloudtasks_nb.fanout.plan.recipe import TaskOptions, check_token
from cloudtasks_nb.service.refusal import role_of

__all__ = ["check_api", "check_location", "check_permissions", "check_queues", "check_service_account"]

#: What the toolkit does with each permission on a queue.
_USES = {
    "cloudtasks.tasks.create": "fan_out, enqueue",
    "cloudtasks.tasks.list": "queue.tasks",
    "cloudtasks.tasks.get": "the state of a task",
    "cloudtasks.tasks.fullView": "bodies of tasks",
    "cloudtasks.tasks.delete": "cancel, delete",
    "cloudtasks.tasks.run": "run",
    "cloudtasks.queues.get": "settings and depth of a queue",
    "cloudtasks.queues.update": "update",
}
_ACT_AS = "iam.serviceAccounts.actAs"
_EDITOR = "roles/cloudtasks.editor"
_MOST_QUEUES = 50  # that are looked at
_MOST_ROLES = 2  # that are advised; more are one larger role
_SHOWN = 5  # names in a text
_RUNNING, _PAUSED = 1, 2  # states of a queue


async def check_api(context: CheckContext) -> Finding:
    """Make the first call: it shows what holds for all calls, such as a disabled API or a project without billing."""
    endpoint = context.endpoint
    if endpoint.local:
        await context.call("ListQueues", parent=endpoint.parent(), page_size=1)
    else:
        pages = context.connection.transport.pages(
            "ListLocations", "locations", limit=None, page_size=100, name=f"projects/{endpoint.project}"
        )
        try:
            context.locations = [location.location_id async for page in pages for location in page]
        except CloudTasksError as error:
            if error.reason != "IAM_PERMISSION_DENIED":
                raise
    return Finding(ok=True, detail=f"{endpoint.target} answers")


async def check_location(context: CheckContext) -> Finding:
    """Look for the location among those of the service."""
    location = context.endpoint.parent().rpartition("/")[2]
    if not context.locations:
        why = "" if context.endpoint.local else ", not checked: the caller lacks cloudtasks.locations.list"
        return Finding(ok=True, detail=location + why)
    if location not in context.locations:
        project = context.endpoint.project
        near = difflib.get_close_matches(location, context.locations, n=3, cutoff=0.6)
        examples = " or ".join(f'ct.connect("{project}", "{one}")' for one in near)
        return Finding(
            ok=False,
            detail=f"{location} is no location of Cloud Tasks",
            fix=examples or f"gcloud tasks locations list --project={project} shows them",
        )
    return Finding(ok=True, detail=location)


async def check_queues(context: CheckContext) -> Finding:
    """Read the queues that this toolkit uses."""
    used = await asyncio.to_thread(context.used_queues)
    if not used:
        return Finding(ok=True, detail="none used yet", fix='tasks.queue("reports", create=True)')
    names = list(used)[:_MOST_QUEUES]
    answers = await asyncio.gather(*(_get(context, name) for name in names))
    context.queues = {
        name: queue for name, queue in zip(names, answers, strict=True) if not isinstance(queue, CloudTasksError)
    }
    errors = {name: error for name, error in zip(names, answers, strict=True) if isinstance(error, CloudTasksError)}
    context.unreadable = [name for name, error in errors.items() if isinstance(error, PermissionDeniedError)]
    missing = [name for name, error in errors.items() if isinstance(error, QueueNotFoundError)]
    new = [name for name in missing if context.connection.transport.is_new(str(name))]
    absent = [name for name in missing if used[name] and name not in new]
    if absent:
        return await _absent(context, absent)
    if failed := [error for name, error in errors.items() if name not in missing]:
        return Finding(ok=False, detail=failed[0].message, fix=failed[0].hint)
    # https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues#State
    if stopped := [name for name, queue in context.queues.items() if queue.state != _RUNNING]:
        verb = "is paused" if context.queues[stopped[0]].state == _PAUSED else "is disabled by its queue.yaml"
        fix = f'tasks.queue("{stopped[0].queue}").resume()'
        return Finding(ok=False, detail=f"{_listed(stopped)} {verb}: its tasks wait", fix=fix, blocks=False)
    found = f"{counted(len(context.queues), 'queues')}: {_listed(context.queues)}" if context.queues else ""
    waiting = f"{_listed(new)} was just made, and can take minutes to become available" if new else ""
    return Finding(ok=True, detail="; ".join(filter(None, [found, waiting])) or "none that is in use exists")


async def check_permissions(context: CheckContext) -> Finding:
    """Ask which permissions the caller has: on each used queue, or on the project while there is none."""
    names = [*context.queues, *context.unreadable]
    answers = dict(zip(names, await asyncio.gather(*(_granted(context, name) for name in names)), strict=True))
    # A queue that cannot be read may not exist: then the answer is empty.
    if asked := [name for name, found in answers.items() if found or name in context.queues]:
        resource = _listed(asked)
        granted = set.intersection(*(answers[name] for name in asked))
    else:
        resource = f"projects/{context.endpoint.project}"
        try:
            granted = await context.google.permissions("cloudresourcemanager", f"v1/{resource}", _USES)
        except CloudTasksError as error:
            await context.call("ListQueues", parent=context.endpoint.parent(), page_size=1)
            return _not_asked(error, "queues can be listed; what else is allowed is checked when there is a queue")
    lacking = [f"{permission} ({use})" for permission, use in _USES.items() if permission not in granted]
    if not lacking:
        return Finding(ok=True, detail=f"all {len(_USES)} that the toolkit uses, on {resource}")
    roles = {role_of(permission) or _EDITOR for permission in _USES if permission not in granted}
    wanted = [_EDITOR] if len(roles) > _MOST_ROLES else sorted(roles)
    short = [name for name in asked if not answers[name].issuperset(_USES)]
    fix = context.grant(wanted, short[:_SHOWN] or [None])
    sends = "; fan_out and enqueue work without them" if "cloudtasks.tasks.create" in granted else ""
    return Finding(ok=False, detail=f"on {resource} the caller lacks {', '.join(lacking)}{sends}", fix=fix)


async def check_service_account(context: CheckContext) -> Finding:
    """Ask whether the caller may let tasks have tokens of the service account."""
    account, _ = check_token(TaskOptions(url=None, service_account=context.target.service_account))
    project = context.endpoint.project
    if not str(account).endswith(".gserviceaccount.com"):
        fix = f"gcloud iam service-accounts list --project={project} shows those that there are"
        return Finding(ok=False, detail=f"{account} is not a service account", fix=fix)
    queue = QueueName(project=str(project), location=str(context.endpoint.location), queue="any")
    context.connection.check_target(queue, None, account)
    path = f"v1/projects/-/serviceAccounts/{account}"
    try:
        granted = await context.google.permissions("iam", path, [_ACT_AS])
    except CloudTasksError as error:
        if error.reason == "SERVICE_DISABLED":  # the API is needed for this question only
            return _not_asked(error, "not checked")
        if error.code != "NOT_FOUND":
            raise
        name = str(account).partition("@")[0]
        create = f"gcloud iam service-accounts create {name} --project={project}"
        return Finding(ok=False, detail=f"there is no service account {account}", fix=create)
    if _ACT_AS not in granted:
        grant = context.grant(["roles/iam.serviceAccountUser"], [account])
        return Finding(ok=False, detail=f"the caller lacks {_ACT_AS} on {account}", fix=grant)
    return Finding(ok=True, detail=f"the caller may act as {account}")


def _not_asked(error: CloudTasksError, known: str) -> Finding:
    """Return the finding for a question that another API of Google does not answer."""
    return Finding(ok=True, detail=f"{known} ({error.message})", fix=error.hint)


async def _get(context: CheckContext, name: QueueName) -> Any:
    """Return a queue, or the error of the call."""
    try:
        return await context.call("GetQueue", name=str(name))
    except CloudTasksError as error:
        return error


async def _absent(context: CheckContext, absent: list[QueueName]) -> Finding:
    """Tell that a queue does not exist, and where one of its name is."""
    name = absent[0]
    others = [
        QueueName(project=name.project, location=location, queue=name.queue)
        for location in context.locations
        if location != name.location
    ]
    answers = await asyncio.gather(*(_get(context, other) for other in others))
    elsewhere = [
        other for other, answer in zip(others, answers, strict=True) if not isinstance(answer, CloudTasksError)
    ]
    detail = "; ".join(f'there is no queue "{one.queue}" in {one.location}' for one in absent[:_SHOWN])
    if elsewhere:
        location = elsewhere[0].location
        return Finding(
            ok=False,
            detail=f"{detail}, but one in {location}",
            fix=f'ct.connect("{name.project}", "{location}")',
        )
    return Finding(ok=False, detail=detail, fix=f'tasks.queue("{name.queue}", create=True)')


async def _granted(context: CheckContext, name: QueueName) -> set[str]:
    answer = await context.call("TestIamPermissions", resource=str(name), permissions=list(_USES))
    return set(answer.permissions)


def _listed(queues: Iterable[QueueName]) -> str:
    names = [name.queue for name in queues]
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")

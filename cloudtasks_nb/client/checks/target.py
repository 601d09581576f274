"""Check the target of tasks: send one to it, and explain its answer."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from cloudtasks_nb._names import TaskName
from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.client.checks.probe import can_probe, with_probe
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.fanout.plan.options import TaskOptions
from cloudtasks_nb.fanout.plan.url import literal_url
from cloudtasks_nb.service.convert import default_audience, http_status
from cloudtasks_nb.service.watch import Pending

__all__ = ["check_target"]

_PATIENCE = 60.0  # seconds to wait for the attempt
_DEADLINE = "15s"  # the shortest that the service allows
_PAUSE = 0.5  # seconds between two looks
#: After its first attempt the task stays in the queue for an hour, so that its status can be read.
_RETRY = {"max_attempts": 2, "min_backoff": "1h", "max_backoff": "1h"}
#: A GET that reaches the target may be refused by it with these: it waits for another method, or for a body.
_REACHED = (400, 405, 415, 422, 501)
_RUN_HOST = re.compile(r"(?P<name>.+?)-(?:\d+\.(?P<region>[a-z0-9-]+)|[a-z0-9]+-[a-z]+\.a)\.run\.app")


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunService:
    """A service of Cloud Run."""

    name: str
    region: str | None

    @classmethod
    def of(cls, url: str) -> _RunService:
        """Read the host of a URL; a placeholder if it does not name a service."""
        found = _RUN_HOST.fullmatch(urlsplit(url).hostname or "")
        return cls(name=found["name"], region=found["region"]) if found else cls(name="SERVICE", region=None)


async def check_target(context: CheckContext) -> Finding:
    """Send a task with a GET request to the target, and explain the answer."""
    target = context.target
    url = await asyncio.to_thread(literal_url, target.url)  # that of a deployed function is asked for
    context.connection.check_reachable(url)
    queue = next((name for name, queue in context.queues.items() if can_probe(queue)), None)
    if queue is None:
        return Finding(
            ok=False,
            detail="not checked: it takes a queue that runs and does not send its tasks to another URL",
            fix='tasks.queue("reports", create=True)',
        )
    options = TaskOptions(
        url=url,
        method="GET",
        service_account=target.service_account,
        audience=target.audience,
        dispatch_deadline=_DEADLINE,
        retry=_RETRY,
    )
    return await with_probe(context, queue, options, lambda task: _wait(context, url, task))


async def _wait(context: CheckContext, url: str, task: TaskName) -> Finding:
    started = time.monotonic()
    while True:
        found = (await context.connection.watcher.lookup(task.queue, [task.task]))[task.task]
        waited = time.monotonic() - started
        if found is None:
            return Finding(ok=True, detail=f"answers; a task reached it after {duration_text(waited)}")
        if found.last_status is not None:
            return _explained(context, url, found)
        if waited > _PATIENCE:
            return Finding(
                ok=False,
                detail=f"no attempt within {duration_text(waited)}: queue {task.queue.queue} may be busy",
                fix=f'tasks.queue("{task.queue.queue}") shows what waits; try again later',
            )
        await asyncio.sleep(_PAUSE)


def _explained(context: CheckContext, url: str, task: Pending) -> Finding:
    """Explain the status of an attempt that has failed."""
    status = http_status(task.last_message)
    if status is None:
        return _not_reached(context, url, task)
    if status in _REACHED:
        return Finding(ok=True, detail=f"is reached, and answers {status} to a GET request")
    cause, fix = _refusal(context, url, status)
    return Finding(ok=False, detail=f"answers {status}: {cause}", fix=fix)


def _refusal(context: CheckContext, url: str, status: int) -> tuple[str, str]:
    """Return why a target answers with an error, and the fix."""
    account, service, project = context.target.service_account, _RunService.of(url), context.endpoint.project
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and account is None:
        return "it wants a token", f'service_account="NAME@{project}.iam.gserviceaccount.com" sends one'
    region = service.region or context.endpoint.location
    if status == HTTPStatus.UNAUTHORIZED:
        audience = context.target.audience or default_audience(url)
        fix = (
            f'audience="…", with the URL that gcloud run services describe {service.name} --region={region} '
            f"--project={project} shows, or the audience that was given to handlers.app"
        )
        return f"the audience of the token, {audience}, is not the one that it expects", fix
    if status == HTTPStatus.FORBIDDEN:
        fix = (
            f"gcloud run services add-iam-policy-binding {service.name} --region={region} "
            f"--project={project} --member=serviceAccount:{account} --role=roles/run.invoker"
        )
        return f"{account} may not invoke it; a new right takes some minutes", fix
    if status == HTTPStatus.NOT_FOUND:
        return "nothing is there for a GET request", "check the path of the URL"
    host = urlsplit(url).hostname
    return "the service fails", f'gcloud logging read "httpRequest.requestUrl:{host}" --limit=5 --project={project}'


def _not_reached(context: CheckContext, url: str, task: Pending) -> Finding:
    """Explain an attempt without an answer of the target."""
    project, host = context.endpoint.project, urlsplit(url).hostname
    if task.last_status in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        agent = (
            f"serviceAccount:service-$(gcloud projects describe {project} --format='value(projectNumber)')"
            "@gcp-sa-cloudtasks.iam.gserviceaccount.com"
        )
        return Finding(
            ok=False,
            detail=f"the service agent of Cloud Tasks cannot get a token of {context.target.service_account}: it does "
            f"not exist, or lacks its role ({task.last_message})",
            fix=f"gcloud beta services identity create --service=cloudtasks.googleapis.com --project={project} && "
            f'gcloud projects add-iam-policy-binding {project} --member="{agent}" --role=roles/cloudtasks.serviceAgent',
        )
    if task.last_status == "DEADLINE_EXCEEDED":
        fix = "does its handler answer a GET request? Is its start quick enough?"
        return Finding(ok=False, detail=f"{host} did not answer within {_DEADLINE}", fix=fix)
    return Finding(
        ok=False,
        detail=f"{host} cannot be reached from Cloud Tasks: {task.last_message}",
        fix="check the host, its certificate, and that it is public; for Cloud Run the ingress",
    )

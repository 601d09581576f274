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
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.plan.recipe import TaskOptions
from cloudtasks_nb.fanout.plan.url import literal_url
from cloudtasks_nb.handlers.admission import closing, opened_to
from cloudtasks_nb.handlers.deploy import Deployment
from cloudtasks_nb.service.absent_handlers import describe_absent
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


_BIND, _UPDATE = "add-iam-policy-binding", "gcloud run services update {service}"
#: Status -> why a target answers with it, and the fix.
_REASONS: dict[int, tuple[str, str]] = {
    401: (
        "the audience of the token, {audience}, is not the one that it expects",
        'audience="…", with the URL that gcloud run services describe {service} shows, or that of handlers.app',
    ),
    403: (
        "{account} may not invoke it; a new right takes some minutes",
        f"gcloud run services {_BIND} {{service}} --member=serviceAccount:{{account}} --role=roles/run.invoker",
    ),
    404: ("nothing is there for a GET request", "check the path of the URL"),
}
#: What is added for a service of Cloud Run: https://cloud.google.com/run/docs/troubleshooting
_RUN_REASONS: dict[int, tuple[str, str]] = {
    401: (
        "; or it wants a signature, which Cloud Run has removed",
        f"; does its log say SIGNATURE_REMOVED_BY_GOOGLE? {_UPDATE} --update-env-vars=CLOUDTASKS_NB_PRIVATE=1",
    ),
    404: (
        ", or the service was deleted, or its ingress does not let Cloud Tasks in",
        f"; gcloud run services describe {{service}} shows the service; {_UPDATE} --ingress=all",
    ),
    429: (
        "no instance is free for the request",
        f"{_UPDATE} --max-instances=100 --concurrency=8; or a lower rate of the queue",
    ),
}
_READ_LOG = 'gcloud logging read "httpRequest.requestUrl:{host}" --limit=5 --project={project}'


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunService:
    """A service of Cloud Run."""

    name: str
    project: str
    region: str

    @classmethod
    def of(cls, context: CheckContext, url: str) -> _RunService | None:
        """Return the service that a deployment or the host of a URL names; its project may be another than it says."""
        target = context.target.url
        if isinstance(target, Deployment):
            return cls(name=target.name, project=target.project, region=target.region)
        found = _RUN_HOST.fullmatch(urlsplit(url).hostname or "")
        endpoint = context.endpoint
        if found is None or endpoint.project is None:
            return None
        return cls(name=found["name"], project=endpoint.project, region=found["region"] or str(endpoint.location))

    @property
    def words(self) -> str:
        """The words of a command that name it."""
        return f"{self.name} --region={self.region} --project={self.project}"

    async def public_because(self, context: CheckContext) -> tuple[str, str] | None:
        """Return why everybody may call it, and what ends it; None if only some may, or this caller may not know."""
        path = f"v2/projects/{self.project}/locations/{self.region}/services/{self.name}"
        try:
            policy = await context.google.read("run", f"{path}:getIamPolicy")
            service = await context.google.read("run", path)
        except CloudTasksError:
            return None
        opened = opened_to(policy)
        if not (opened or service.get("invokerIamDisabled")):
            return None
        members = " and ".join(sorted({member for member, _ in opened}))
        reason = f"{members} may invoke it" if opened else "its check of callers is switched off"
        return reason, closing(opened, self.words)


async def check_target(context: CheckContext) -> Finding:
    """Send a task with a GET request to the target, and explain the answer."""
    target = context.target
    url = await asyncio.to_thread(literal_url, target.url)  # that of a deployed function is asked for
    queue = next((name for name, queue in context.queues.items() if can_probe(queue)), None)
    if queue is None:
        stopped = next(iter(context.queues), None)
        return Finding(
            ok=False,
            detail="not checked: it takes a queue that runs and does not send its tasks to another URL",
            fix=f'tasks.queue("{stopped.queue}").resume()' if stopped else 'tasks.queue("reports", create=True)',
        )
    context.connection.check_target(queue, url, target.service_account)
    options = TaskOptions(
        url=url,
        method="GET",
        service_account=target.service_account,
        audience=target.audience,
        dispatch_deadline=_DEADLINE,
        retry=_RETRY,
    )
    finding = await with_probe(context, queue, options, lambda task: _wait(context, url, task))
    service = _RunService.of(context, url)
    if not finding.ok or service is None or target.service_account is None or context.endpoint.local:
        return finding
    if public := await service.public_because(context):
        reason, fix = public
        return Finding(
            ok=False,
            detail=f"{service.name} is public: {reason}. With CLOUDTASKS_NB_PRIVATE=1 or private=True anybody can call "
            "it with a token that they wrote themselves",
            fix=fix,
        )
    return finding


async def _wait(context: CheckContext, url: str, task: TaskName) -> Finding:
    started, host = time.monotonic(), urlsplit(url).netloc
    while True:
        found = (await context.connection.watcher.lookup(task.queue, [task.task]))[task.task]
        waited = time.monotonic() - started
        if found is None:
            return Finding(ok=True, detail=f"answers; a task reached it after {duration_text(waited)}")
        if found.last_status is not None:
            return await _explained(context, url, found)
        if host in await asyncio.to_thread(context.connection.absent_handlers, str(task.queue)):
            detail, fix = describe_absent(host, url)
            return Finding(ok=False, detail=detail, fix=fix)
        if waited > _PATIENCE:
            return Finding(
                ok=False,
                detail=f"no attempt within {duration_text(waited)}: queue {task.queue.queue} may be busy",
                fix=f'tasks.queue("{task.queue.queue}") shows what waits; try again later',
            )
        await asyncio.sleep(_PAUSE)


async def _explained(context: CheckContext, url: str, task: Pending) -> Finding:
    """Explain the status of an attempt that has failed."""
    status = http_status(task.last_message)
    if status is None:
        other = await context.google.redirect(url)
        return _not_reached(context, url, other, task)
    if status in _REACHED:
        return Finding(ok=True, detail=f"is reached, and answers {status} to a GET request")
    cause, fix = _refusal(context, url, status)
    return Finding(ok=False, detail=f"answers {status}: {cause}", fix=fix)


def _refusal(context: CheckContext, url: str, status: int) -> tuple[str, str]:
    """Return why a target answers with an error, and the fix."""
    account, project, service = context.target.service_account, context.endpoint.project, _RunService.of(context, url)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and account is None:
        return "it wants a token", f'service_account="NAME@{project}.iam.gserviceaccount.com" sends one'
    cause, fix = _REASONS.get(status, ("", ""))
    if service is not None:
        cause, fix = (text + more for text, more in zip((cause, fix), _RUN_REASONS.get(status, ("", "")), strict=True))
    facts = {
        "account": account,
        "audience": context.target.audience or default_audience(url),
        "service": service.words if service else f"SERVICE --region={context.endpoint.location} --project={project}",
        "host": urlsplit(url).hostname,
        "project": project,
    }
    return (cause or "the service fails").format_map(facts), (fix or _READ_LOG).format_map(facts)


def _not_reached(context: CheckContext, url: str, redirect: str | None, task: Pending) -> Finding:
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
            f'gcloud projects add-iam-policy-binding {project} --member="{agent}" --role=roles/cloudtasks.serviceAgent '
            "--condition=None",
        )
    if task.last_status == "DEADLINE_EXCEEDED":
        fix = "does its handler answer a GET request? Is its start quick enough?"
        return Finding(ok=False, detail=f"{host} did not answer within {_DEADLINE}", fix=fix)
    if redirect is not None:
        fix = f'url="{redirect}" if that is right, and check that it can be reached'
        return Finding(ok=False, detail=f"{url} redirects to {redirect}, which fails: {task.last_message}", fix=fix)
    return Finding(
        ok=False,
        detail=f"{host} cannot be reached from Cloud Tasks: {task.last_message}",
        fix="check the host, its certificate, and that it is public; for Cloud Run the ingress",
    )

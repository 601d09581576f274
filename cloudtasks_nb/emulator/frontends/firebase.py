"""The routes of Firebase's own emulator of Cloud Tasks, for firebase-admin and for the functions emulator.

They are those of REST without a version. A queue belongs to the function of its name, which has a URL by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from aiohttp import web
from google.protobuf import json_format

from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.frontends.bodies import json_body
from cloudtasks_nb.emulator.frontends.rest import Rest, parsed
from cloudtasks_nb.emulator.model.apis import v2
from cloudtasks_nb.emulator.model.refusal import invalid_argument

__all__ = ["Firebase"]

_QUEUE = "/projects/{project}/locations/{location}/queues/{queue}"
_CALL = "/google.cloud.tasks.v2.CloudTasks/"
# What a queue gets that firebase-tools deploys: https://firebase.google.com/docs/functions/task-functions
_RETRY = {
    "maxAttempts": 3,
    "maxRetrySeconds": 0,  # no limit
    "minBackoffSeconds": 0.1,
    "maxBackoffSeconds": 3600,
    "maxDoublings": 16,
}
_RATES = {"maxConcurrentDispatches": 1000, "maxDispatchesPerSecond": 500}
_DURATIONS = {
    "maxRetrySeconds": "maxRetryDuration",
    "minBackoffSeconds": "minBackoff",
    "maxBackoffSeconds": "maxBackoff",
}


class Firebase:
    """Answers requests of firebase-admin, and of firebase-tools when it loads functions.

    Parameters
    ----------
    engine : Engine
        The emulator, which keeps the default URLs of queues.
    calls : mapping
        The calls of the API by their full names.
    rest : Rest
        Deletes tasks, and writes answers and errors as JSON.
    """

    def __init__(self, engine: Engine, calls: Mapping[str, Call], rest: Rest) -> None:
        self._engine = engine
        self._calls = calls
        self._rest = rest

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        return [
            web.post(_QUEUE, partial(self._rest.answer, respond=self.set_queue)),
            web.post(f"{_QUEUE}/tasks", partial(self._rest.answer, respond=self.create_task)),
            web.delete("/{path:projects/[^/]+/locations/[^/]+/queues/[^/]+/tasks/[^/]+}", self._rest.execute),
        ]

    async def set_queue(self, request: web.Request) -> dict[str, Any]:
        """Create or change the queue of a function, with the settings of `onTaskDispatched` and the function's URL."""
        given = await json_body(request) or {}
        name, url = _queue(request), given.get("defaultUri") or ""
        if url and not (isinstance(url, str) and url.startswith(("http://", "https://"))):
            raise invalid_argument("defaultUri must start with 'http://' or 'https://'.")
        retry, rates = _settings(given, "retryConfig", _RETRY), _settings(given, "rateLimits", _RATES)
        queue = {"name": name, "rateLimits": rates, "retryConfig": _retry_config(retry)}
        update = {"queue": queue, "updateMask": "rateLimits,retryConfig"}
        await self._calls[_CALL + "UpdateQueue"](json_format.ParseDict(update, v2.UpdateQueueRequest()))
        if url.encode() != self._engine.store.setting(_url_key(name)):
            self._engine.store.set_setting(_url_key(name), url.encode())
            await self._engine.committer.commit()
        config = {"retryConfig": retry, "rateLimits": rates} | ({"defaultUri": url} if url else {})
        return {"taskQueueConfig": config}

    async def create_task(self, request: web.Request) -> dict[str, Any]:
        """Add a task; if its URL is empty, it gets that of the queue's function."""
        name = _queue(request)
        document = (await json_body(request) or {}) | {"parent": name}
        create = parsed(document, v2.CreateTaskRequest)
        if create.task.HasField("http_request") and not create.task.http_request.url:
            create.task.http_request.url = self._function_url(request, name)
        task = v2.Task.FromString(await self._calls[_CALL + "CreateTask"](create))
        # firebase-admin for Python drops the first character of the name, which is a slash in Firebase's emulator.
        return {"task": json_format.MessageToDict(task) | {"name": f"/{task.name}"}}

    def _function_url(self, request: web.Request, name: str) -> str:
        """Return the URL of a queue's function; empty if there is no such queue, which the call will say."""
        if url := self._engine.store.setting(_url_key(name)).decode():
            return url
        if host := self._engine.settings.functions_host:
            return "http://{}/{project}/{location}/{queue}".format(host, **request.match_info)
        if name not in self._engine.store.contents.queues:
            return ""
        raise invalid_argument(
            f"The task has no URL, and neither has the function of {name}: start the emulator with "
            "--functions-host HOST:PORT of the functions emulator, create the queue with defaultUri, or enqueue "
            "with a uri."
        )


def _queue(request: web.Request) -> str:
    return _QUEUE.format(**request.match_info).lstrip("/")


def _url_key(queue: str) -> str:
    return f"firebase-url/{queue}"


def _settings(given: dict[str, Any], key: str, defaults: Mapping[str, float]) -> dict[str, float]:
    """Return the settings below a key; those that are missing or null are the defaults."""
    part = given.get(key) or {}
    if not isinstance(part, dict):
        raise invalid_argument(f"{key} must be an object.")
    settings = {name: default if part.get(name) is None else part[name] for name, default in defaults.items()}
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid_argument(f"{key}.{name} must be a number.")
    return settings


def _retry_config(retry: dict[str, float]) -> dict[str, Any]:
    """Return the `RetryConfig` for Firebase's settings, as JSON."""
    return {
        _DURATIONS.get(name, name): f"{value:.9f}s" if name in _DURATIONS else value for name, value in retry.items()
    }

"""The console: a web page at ``/`` that shows queues, tasks and attempts, and what the page asks the emulator.

Every request of the page is below ``/console/``. Without ``--console-writes`` nothing can be changed there. The flag
protects from clicks, not from programs: whoever reaches the port can use REST, which works as without a console.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web
from aiohttp.typedefs import Handler

from cloudtasks_nb._names import code_name
from cloudtasks_nb.emulator.api.engine import Engine
from cloudtasks_nb.emulator.dispatch.history import EndedAttempt
from cloudtasks_nb.emulator.frontends.bodies import answer_json, error_response
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.store.oplog import Kind, LogRecord
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["Console"]

_MOST_QUEUES = 500
_MOST_ATTEMPTS = 200  # of one answer
_MOST_LOGGED = 4000  # entries of the log that are looked at for one answer
_READS = {"GET", "HEAD"}
_PAGE = "console.html"
_TYPES = {
    _PAGE: "text/html",
    "console.css": "text/css",
    "console.js": "text/javascript",
    "secrets.js": "text/javascript",
}
# The page loads nothing from elsewhere, runs no script of its data, and is shown in no frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}
_READ_ONLY = "The console is read-only. Start the emulator with --console-writes to change queues and tasks there."


class Console:
    """Answers the requests for the console, and those that it sends.

    Parameters
    ----------
    engine : Engine
        The emulator.
    rest : callable
        Answers the REST requests of the page.
    """

    def __init__(self, engine: Engine, rest: Handler) -> None:
        self._engine = engine
        self._rest = rest
        self._process = uuid4().hex
        self._files = {name: Path(__file__).with_name(name).read_bytes() for name in _TYPES}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        return [
            web.get("/", partial(self._file, _PAGE)),
            web.get("/console/queues", answer_json(self.queues)),
            web.get("/console/attempts", answer_json(self.attempts)),
            *(web.get(f"/console/{name}", partial(self._file, name)) for name in _TYPES if name != _PAGE),
            web.route("*", "/console/{api:v2}/{path:.+}", self._call),
        ]

    async def queues(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the queues of all projects with `find` in their names, at most 500, and the totals of all queues."""
        engine, find = self._engine, str(given.get("find", "")).lower()
        now = engine.clock.now()
        every = [queue for queue in engine.store.contents.queues.values() if queue.usable_at <= now]
        ended = [queue.last_minute(now) for queue in every]
        matching = sorted((queue for queue in every if find in queue.name.lower()), key=lambda queue: queue.name)
        return {
            "run": f"{self._process}-{engine.dispatcher.history.clears}",
            "now": now / 1000,
            "writes": engine.settings.console_writes,
            "totals": {
                "queues": len(every),
                "tasks": sum(len(queue.live) for queue in every),
                "running": sum(queue.in_flight for queue in every),
                "attempts": sum(attempts for attempts, _ in ended),
                "failed": sum(failed for _, failed in ended),
            },
            "found": len(matching),
            "queues": [_queue_document(queue, now) for queue in matching[:_MOST_QUEUES]],
        }

    async def attempts(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the newest attempts, at most 200, the newest first.

        `after` is the `newest` of the last answer. `queue` is a name; with `task`, an id, the answer also has the last
        request, and whether the task is in the queue. With `failed` only attempts that failed are returned. Attempts
        that ended before this process has started are read from the operations log, for the first answer only.
        """
        queue, task = str(given.get("queue", "")), str(given.get("task", ""))
        failed, after = str(given.get("failed", "")) in {"1", "true"}, int(given.get("after") or 0)
        if after < 0:
            raise InvalidInputError("after cannot be negative")
        history = self._engine.dispatcher.history
        ended = list(history.ended(after))
        chosen = [
            one for one in ended if queue in ("", one.queue) and task in ("", one.task) and (one.code or not failed)
        ][:_MOST_ATTEMPTS]
        documents = [_attempt_document(one, one.number, one.queue, one.http_status) for one in chosen]
        if not (after or task):
            before = ended[-1].at if ended else self._engine.clock.now() + 1
            documents += islice(self._logged(queue, before, failed=failed), _MOST_ATTEMPTS - len(documents))
        answer: dict[str, Any] = {"attempts": documents, "newest": ended[0].number if ended else after}
        if task:
            state = self._engine.store.contents.queues.get(queue)
            answer["there"] = state is not None and task in state.live
            answer["request"] = _request_document(chosen[0]) if chosen else None
        return answer

    def _logged(self, queue: str, before: int, *, failed: bool) -> Iterator[dict[str, Any]]:
        """Yield the attempts that the operations log has from before an instant, the newest first."""
        names, now = self._engine.store.contents.names, self._engine.clock.now()
        # Every entry is read and looked at here: SQL would scan the whole log for a queue with few entries.
        records = self._engine.store.log.read(0, before - 1, queues=names, kinds=list(Kind), now=now, ascending=False)
        for record in islice(records, _MOST_LOGGED):
            name = names[record.q]
            if record.kind == Kind.RESPONSE and queue in ("", name) and (record.code or not failed):
                yield _attempt_document(record, record.insert_id, name, 0)  # the log has no HTTP statuses

    async def _file(self, name: str, request: web.Request) -> web.Response:
        if name == _PAGE and "text/html" not in request.headers.get("Accept", ""):
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=_TYPES[name], charset="utf-8", headers=_HEADERS)

    async def _call(self, request: web.Request) -> web.StreamResponse:
        if request.method not in _READS and not self._engine.settings.console_writes:
            return error_response(403, _READ_ONLY)
        return await self._rest(request)


def _queue_document(queue: QueueState, now: int) -> dict[str, Any]:
    config, retry = queue.config, queue.config.retry
    attempts, failed = queue.last_minute(now)
    return {
        "name": queue.name,
        "state": queue.state,
        "tasks": len(queue.live),
        "running": queue.in_flight,
        "attempts": attempts,
        "failed": failed,
        "rate": config.rate,
        "burst": config.burst,
        "maxConcurrent": config.max_concurrent,
        "maxAttempts": retry.max_attempts,
        "maxRetryDuration": retry.max_retry_duration / SECOND,
        "minBackoff": retry.min_backoff / SECOND,
        "maxBackoff": retry.max_backoff / SECOND,
        "maxDoublings": retry.max_doublings,
        "logSamplingRatio": config.sampling_ratio,
    }


def _attempt_document(one: EndedAttempt | LogRecord, key: object, queue: str, http_status: int) -> dict[str, Any]:
    """Return an attempt; times are milliseconds since 1970, 0 if there is none, durations seconds."""
    return {
        "key": str(key),
        "queue": queue,
        "task": one.task,
        "attempt": one.dispatches,
        "ended": one.at / 1000,
        "status": code_name(one.code),
        "httpStatus": http_status,
        "cause": one.cause,
        "took": one.duration / SECOND,
        "retry": one.retry_at / 1000,
        "target": one.target,
    }


def _request_document(one: EndedAttempt) -> dict[str, Any]:
    """Return the request of an attempt as it was sent; bodies that are too long are not kept."""
    method, _, url = one.target.partition(" ")
    body = None if one.body is None else base64.b64encode(one.body).decode()
    return {"httpMethod": method, "url": url, "headers": one.headers, "body": body}

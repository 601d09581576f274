"""What comes in as a task: checked, completed, and cut into the pieces that are stored."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cloudtasks_nb.emulator._clock import DAY, SECOND
from cloudtasks_nb.emulator._pb import v2
from cloudtasks_nb.emulator._queues import check_retry, duration, set_duration
from cloudtasks_nb.emulator._refusal import RefusedError, help_link
from cloudtasks_nb.emulator._regions import app_engine_host

__all__ = ["APP_ENGINE_AGENT", "HTTP_AGENT", "METHODS", "NewTask", "take_in"]

#: Names of the `HttpMethod` numbers.
METHODS = ("POST", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")
HTTP_AGENT = "Google-Cloud-Tasks"
APP_ENGINE_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"

_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
_QUEUE_OF = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks/(.*)", re.DOTALL)
_POST, _PUT, _PATCH = 1, 4, 6
_MAX_STORED = 2**20 - 7  # measured against the real service, on the stored form of the task
_MAX_URL = 2083
_MAX_HEADERS = 80 * 1024
_MAX_AHEAD = 30 * DAY
_OUTPUT_ONLY = ("create_time", "dispatch_count", "response_count", "first_attempt", "last_attempt", "view")
# Ids are names, not secrets; the module's generator is three times faster than the system's.
_random = random.Random()  # noqa: S311


class NewTask(NamedTuple):
    """A task ready to be stored."""

    id: str
    due: int  #: microseconds since 1970
    head: bytes  #: the `Task` on the wire without body, schedule time and attempts
    body: bytes
    target: str  #: method and URL, as the operations log shows them
    kind: str  #: ``HTTP`` or ``APP_ENGINE_HTTP``


def take_in(task: Any, queue: str, now: int) -> NewTask:
    """Check a v2 `Task`, which is changed on the way, and return what is to be stored.

    Parameters
    ----------
    task : Task
        As the client sent it.
    queue : str
        Name of the queue that it is for.
    now : int
        Microseconds since 1970.

    Raises
    ------
    RefusedError
        If the task is not valid.
    """
    task_id = _identified(task, queue)
    kind = task.WhichOneof("message_type")
    if kind is None:
        raise RefusedError("INVALID_ARGUMENT", "Task.payload_type is not set.")
    for field in _OUTPUT_ONLY:
        task.ClearField(field)
    due = _scheduled(task, now)
    if task.HasField("retry_config"):
        check_retry(task.retry_config)
    # Stored whole seconds: the API truncates the time of creation.
    task.create_time.seconds = now // SECOND
    target = _complete_http(task) if kind == "http_request" else _complete_app_engine(task, queue)
    request = getattr(task, kind)
    body = request.body
    request.ClearField("body")
    head = task.SerializeToString()
    if len(head) + len(body) > _MAX_HEADERS:
        _check_size(head, body, due, kind)
    return NewTask(task_id, due, head, body, target, "HTTP" if kind == "http_request" else "APP_ENGINE_HTTP")


def _identified(task: Any, queue: str) -> str:
    name = task.name
    if not name:
        task_id = str(_random.randrange(10**18, 10**19))
        task.name = f"{queue}/tasks/{task_id}"
        return task_id
    match = _QUEUE_OF.fullmatch(name)
    if match is None:
        raise RefusedError(
            "INVALID_ARGUMENT",
            'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>'
            '/tasks/<TASK_ID>"',
        )
    named_queue, named_id = match.groups()
    if named_queue != queue:
        raise RefusedError(
            "INVALID_ARGUMENT",
            f"The queue name from request ('{queue}') must be the same as the queue name in the named task "
            f"('{named_queue}').",
        )
    if _ID.fullmatch(named_id) is None:
        raise RefusedError(
            "INVALID_ARGUMENT",
            f'Task ID "{named_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or '
            "underscores (_). Task ID must between 1 and 500 characters.",
            [
                help_link(
                    "Definition of task ID",
                    "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks"
                    "#Task.FIELDS.name",
                )
            ],
        )
    return str(named_id)


def _scheduled(task: Any, now: int) -> int:
    if not task.HasField("schedule_time"):
        return now
    asked = task.schedule_time.seconds * SECOND + task.schedule_time.nanos // 1000
    if asked - now > _MAX_AHEAD:
        raise RefusedError(
            "INVALID_ARGUMENT",
            f"The Task.scheduleTime, {_in_pacific_time(asked)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future.",
        )
    task.ClearField("schedule_time")
    return max(asked, now)


def _in_pacific_time(instant: int) -> str:
    try:
        zone: Any = ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:
        zone = UTC
    try:
        return datetime.fromtimestamp(instant / SECOND, zone).isoformat()
    except (OverflowError, ValueError):
        return f"{instant // SECOND} seconds since 1970"


def _deadline(task: Any, default: int, longest: int, described: str) -> None:
    if task.HasField("dispatch_deadline"):
        asked = duration(task.dispatch_deadline) // 1000 * 1000
        if not 15 * SECOND <= asked <= longest:
            raise RefusedError("INVALID_ARGUMENT", f"Task.dispatchDeadline must be between [15s, {described}].")
        set_duration(task.dispatch_deadline, asked)
    elif default:
        task.dispatch_deadline.seconds = default


def _complete_http(task: Any) -> str:
    request = task.http_request
    url = request.url
    if not url:
        raise RefusedError("INVALID_ARGUMENT", "HttpRequest.url is required.")
    if not url.startswith(("http://", "https://")):
        raise RefusedError("INVALID_ARGUMENT", "HttpTarget.url must start with 'http://' or 'https://'.")
    if len(url) > _MAX_URL:
        raise RefusedError("INVALID_ARGUMENT", f"HttpRequest.url must be at most {_MAX_URL} characters.")
    method = request.http_method or _POST
    if request.body and method not in {_POST, _PUT, _PATCH}:
        raise RefusedError("INVALID_ARGUMENT", f"HttpRequest.body is not allowed with HTTP method {_method(method)}.")
    _deadline(task, 600, 1800 * SECOND, "30m")
    request.http_method = method
    _drop(request.headers, lambda name: name == "user-agent")
    request.headers["User-Agent"] = HTTP_AGENT
    return f"{_method(method)} {url}"


def _complete_app_engine(task: Any, queue: str) -> str:
    request = task.app_engine_http_request
    uri = request.relative_uri or "/"
    if not uri.startswith("/") or " " in uri or len(uri) > _MAX_URL:
        raise RefusedError(
            "INVALID_ARGUMENT",
            "AppEngineHttpRequest.relativeUri must begin with '/', hold no spaces and have at most "
            f"{_MAX_URL} characters.",
        )
    method = request.http_method or _POST
    if request.body and method not in {_POST, _PUT}:
        raise RefusedError(
            "INVALID_ARGUMENT", f"AppEngineHttpRequest.body is not allowed with HTTP method {_method(method)}."
        )
    _deadline(task, 0, (24 * 3600 + 15) * SECOND, "24h15s")
    request.http_method, request.relative_uri = method, uri
    request.app_engine_routing.host = app_engine_host(request.app_engine_routing, queue)
    headers = request.headers
    given = {name.lower(): value for name, value in headers.items()}
    _drop(headers, lambda name: name in {"user-agent", "content-length"})
    agent = given.get("user-agent", "")
    headers["User-Agent"] = agent if APP_ENGINE_AGENT in agent else f"{agent} {APP_ENGINE_AGENT}".strip()
    if request.body:
        headers["Content-Length"] = str(len(request.body))
        if "content-type" not in given:
            headers["Content-Type"] = "application/octet-stream"
    return f"{_method(method)} {request.app_engine_routing.host}{uri}"


def _method(number: int) -> str:
    return METHODS[number] if 0 <= number < len(METHODS) else "POST"


def _drop(headers: Any, unwanted: Callable[[str], bool]) -> None:
    for name in [name for name in headers if unwanted(name.lower())]:
        del headers[name]


def _check_size(head: bytes, body: bytes, due: int, kind: str) -> None:
    task = v2.Task.FromString(head)
    request = getattr(task, kind)
    if sum(len(name) + len(value) for name, value in request.headers.items()) >= _MAX_HEADERS:
        raise RefusedError("INVALID_ARGUMENT", "The size of the headers must be less than 80KB.")
    request.body = body
    task.schedule_time.seconds, micros = divmod(due, SECOND)
    task.schedule_time.nanos = micros * 1000
    if task.ByteSize() > _MAX_STORED:
        raise RefusedError("INVALID_ARGUMENT", "Task size too large")

"""Tasks: checked and completed when they are created, stored in pieces, and put together again for replies."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.emulator.model.apis import beta, new_numbers, v2, well_known
from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.clock import DAY, SECOND
from cloudtasks_nb.emulator.model.protobuf import int_field, len_field, read_varint, retag, timestamp
from cloudtasks_nb.emulator.model.queues import check_duration, check_header_names, check_retry, duration
from cloudtasks_nb.emulator.model.refusal import RefusedError, help_link, invalid_argument
from cloudtasks_nb.emulator.model.regions import app_engine_host

__all__ = [
    "APP_ENGINE_AGENT",
    "FULL",
    "HTTP_AGENT",
    "METHODS",
    "NewTask",
    "accept_task",
    "as_beta",
    "as_v2",
    "is_app_engine",
    "name_wire",
    "target_of",
    "task_wire",
]

#: Names of the `HttpMethod` numbers.
METHODS = ("POST", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")
HTTP_AGENT = "Google-Cloud-Tasks"
APP_ENGINE_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"

_ID_PART = re.compile(r"/tasks/[A-Za-z0-9_-]{1,500}")
_QUEUE_OF = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks/(.*)", re.DOTALL)
_MAX_STORED = 2**20 - 7  # measured against the real service, on the stored form of the task
_MAX_URL = 2083
_SURELY_FITS = _MAX_URL // 12  # percent-encoding makes at most twelve characters of one
_NOT_ENCODED = ":/?#[]@!$&'()*+,;=%"
_MAX_HEADERS = 80 * 1024
_MAX_AHEAD = 30 * DAY
_WITH_BODY = {"POST", "PUT", "PATCH"}
_SERVICE_DEFAULT = well_known.Duration()  # App Engine's own deadline, which depends on its kind of scaling
# Fields of `Task`, and pieces that most tasks have in common.
_APP_ENGINE_FIELD, _HTTP_FIELD = 2, 3
_DEFAULT_DEADLINE = len_field(6, int_field(1, 600))
_HTTP_AGENT_HEADER = len_field(3, len_field(1, b"User-Agent") + len_field(2, HTTP_AGENT.encode()))
_POST_AND_HTTP_AGENT_HEADER = int_field(2, 1) + _HTTP_AGENT_HEADER
# What stands before the tag in the bytes of a request.
_TAG_SIZE = 32
_TAG = len_field(3, len_field(1, TAG_HEADER.encode()) + len_field(2, _TAG_SIZE * b"0"))[:-_TAG_SIZE]
# The results of `_http_field` for the latest requests, cut where the tag stands: in most batches they differ in body
# and tag only.
_cached: dict[bytes, tuple[bytes, bytes, str, str]] = {}
_MAX_CACHED, _MAX_CACHED_SIZE = 64, 4096  # larger requests may be refused for their size, and must not be cached
_ID_BITS = 66  # the service's ids need more than 64 bits too
# Ids are names, not secrets; the module's generator is three times faster than the system's.
_random = random.Random()  # noqa: S311

FULL = 2  #: the value of `Task.View`; all others are BASIC
_BASIC_FIELD, _FULL_FIELD = b"\x58\x01", b"\x58\x02"  # Task.view
_APP_ENGINE_KEY = 0x12  # Task.app_engine_http_request
# The two versions number the fields of Task differently; everything inside them is alike.
_TO_BETA, _TO_V2 = new_numbers(v2.Task, beta.Task), new_numbers(beta.Task, v2.Task)


class NewTask(NamedTuple):
    """A task ready to be stored."""

    id: str
    due: int  #: microseconds since 1970
    head: bytes  #: the serialized `Task` without body, schedule time and attempts
    body: bytes
    target: str  #: method and URL, as the operations log shows them
    kind: str  #: ``HTTP`` or ``APP_ENGINE_HTTP``


def accept_task(task: Any, queue: str, now: int) -> NewTask:
    """Check a v2 `Task` and return it as it is stored; `task` itself is changed.

    Parameters
    ----------
    task : Task
        As the client sent it.
    queue : str
        Name of its queue.
    now : int
        Microseconds since 1970.

    Raises
    ------
    RefusedError
        If the task is not valid.
    """
    name, task_id = _name_and_id(task, queue)
    kind = task.WhichOneof("message_type")
    if kind == "http_request":
        target_type = "HTTP"
        limited = task.HasField("dispatch_deadline")
        deadline = _deadline(task, 1800 * SECOND, "30m") if limited else _DEFAULT_DEADLINE
        request, body, target = _http_wire(task.http_request)
    elif kind is not None:
        target_type = "APP_ENGINE_HTTP"
        limited = task.HasField("dispatch_deadline") and task.dispatch_deadline != _SERVICE_DEFAULT
        deadline = _deadline(task, (24 * 3600 + 15) * SECOND, "24h15s") if limited else b""
        request, body, target = _app_engine_wire(task.app_engine_http_request, queue)
    else:
        raise invalid_argument("Task.payload_type is not set.")
    due = _scheduled(task, now) if task.HasField("schedule_time") else now
    # Only these fields are stored: all others are output only.
    head = b"".join(
        (
            len_field(1, name.encode()),
            request,
            _create_time(now // SECOND),
            deadline,
            _retry(task) if task.HasField("retry_config") else b"",
        )
    )
    if len(head) + len(body) > _MAX_HEADERS:
        _check_size(head, body, due, kind)
    return NewTask(task_id, due, head, body, target, target_type)


def target_of(head: bytes) -> tuple[str, str]:
    """Return `target` and `kind` of a stored task."""
    task = v2.Task.FromString(head)
    if task.WhichOneof("message_type") == "http_request":
        request = task.http_request
        return f"{METHODS[request.http_method]} {request.url}", "HTTP"
    request = task.app_engine_http_request
    host = request.app_engine_routing.host
    return f"{METHODS[request.http_method]} {host}{request.relative_uri}", "APP_ENGINE_HTTP"


def _name_and_id(task: Any, queue: str) -> tuple[str, str]:
    """Return the task's name and short id; they are generated if the client gave none."""
    name = task.name
    if not name:
        number = _random.getrandbits(_ID_BITS)
        generated = f"{number:020d}"[number & 3 :]  # 17 to 20 digits, and some begin with a zero
        return f"{queue}/tasks/{generated}", generated
    if name.startswith(queue) and _ID_PART.fullmatch(name, len(queue)):
        return name, name[len(queue) + len("/tasks/") :]
    raise _wrong_name(name, queue)


def _wrong_name(name: str, queue: str) -> RefusedError:
    match = _QUEUE_OF.fullmatch(name)
    if match is None:
        return invalid_argument(
            'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>'
            '/tasks/<TASK_ID>"',
        )
    if match[1] != queue:
        return invalid_argument(
            f"The queue name from request ('{queue}') must be the same as the queue name in the named task "
            f"('{match[1]}').",
        )
    return invalid_argument(
        f'Task ID "{match[2]}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), or '
        "underscores (_). Task ID must between 1 and 500 characters.",
        [
            help_link(
                "Definition of task ID",
                "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks"
                "#Task.FIELDS.name",
            )
        ],
    )


def _scheduled(task: Any, now: int) -> int:
    requested = task.schedule_time.seconds * SECOND + task.schedule_time.nanos // 1000
    if requested - now > _MAX_AHEAD:
        raise invalid_argument(
            f"The Task.scheduleTime, {_in_pacific_time(requested)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future.",
        )
    return max(requested, now)


def _in_pacific_time(instant: int) -> str:
    try:
        zone: Any = ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:
        zone = UTC
    try:
        return datetime.fromtimestamp(instant / SECOND, zone).isoformat()
    except (OverflowError, ValueError):
        return f"{instant // SECOND} seconds since 1970"


def _deadline(task: Any, longest: int, described: str) -> bytes:
    check_duration(task.dispatch_deadline, "Task.dispatchDeadline")
    requested = duration(task.dispatch_deadline) // 1000 * 1000
    if not 15 * SECOND <= requested <= longest:
        raise invalid_argument(f"Task.dispatchDeadline must be between [15s, {described}].")
    return len_field(6, timestamp(requested))  # a Duration is serialized like a Timestamp


@lru_cache(maxsize=8)
def _create_time(second: int) -> bytes:
    # Whole seconds: the API truncates the time of creation.
    return len_field(5, int_field(1, second))


def _retry(task: Any) -> bytes:
    check_retry(task.retry_config)
    return len_field(12, task.retry_config.SerializeToString())


def _http_wire(request: Any) -> tuple[bytes, bytes, str]:
    """Check an `HttpRequest`; return it as a serialized field without its body, the body, and the target."""
    body = request.body
    if body:
        request.ClearField("body")
    wire = request.SerializeToString()
    before, found, after = wire.rpartition(_TAG)
    tag = after[:_TAG_SIZE] if found else b""
    key = before + found + after[len(tag) :]  # with what stands before a tag: a request without one is another
    cached = _cached.get(key)
    if cached is None:
        field, method, target = _http_field(request, wire)
        if found and TAG_HEADER not in request.headers:  # it stands in the URL
            return field, body, target
        start = field.rfind(_TAG) + len(_TAG) if found else 0
        cached = field[:start], field[start + len(tag) :], method, target
        if len(wire) <= _MAX_CACHED_SIZE:
            if len(_cached) >= _MAX_CACHED:
                _cached.clear()
            _cached[key] = cached
    head, rest, method, target = cached
    if body and method not in _WITH_BODY:
        raise invalid_argument(f"HttpRequest.body is not allowed with HTTP method {method}.")
    return head + tag + rest, body, target


def _http_field(request: Any, wire: bytes) -> tuple[bytes, str, str]:
    """Check an `HttpRequest` without its body; return it as it is stored, its method, and the target."""
    url, number = request.url, request.http_method
    if not url.startswith(("http://", "https://")):
        text = "HttpTarget.url must start with 'http://' or 'https://'." if url else "HttpRequest.url is required."
        raise invalid_argument(text)
    if len(url) > _SURELY_FITS and len(quote(url, safe=_NOT_ENCODED)) > _MAX_URL:
        raise invalid_argument(f"HttpRequest.url must be at most {_MAX_URL} characters.")
    method = _method(number)
    check_header_names(request.headers, "HttpRequest.headers")
    authorization = request.WhichOneof("authorization_header")
    if authorization is not None and not getattr(request, authorization).service_account_email:
        field = request.DESCRIPTOR.fields_by_name[authorization].json_name
        raise invalid_argument(f"HttpRequest.{field} needs a serviceAccountEmail.")
    if b"user-agent" in wire.lower():
        _drop(request.headers, {"user-agent"})
        wire = request.SerializeToString()
    wire += _HTTP_AGENT_HEADER if number else _POST_AND_HTTP_AGENT_HEADER
    return len_field(_HTTP_FIELD, wire), method, f"{method} {url}"


def _app_engine_wire(request: Any, queue: str) -> tuple[bytes, bytes, str]:
    """Check an `AppEngineHttpRequest`; return it as a serialized field without its body, the body, and the target."""
    uri, body, headers = request.relative_uri or "/", request.body, request.headers
    if not uri.startswith("/") or " " in uri or len(uri) > _MAX_URL:
        raise invalid_argument(
            "AppEngineHttpRequest.relativeUri must begin with '/', hold no spaces and have at most "
            f"{_MAX_URL} characters.",
        )
    method = _method(request.http_method)
    if body and method not in {"POST", "PUT"}:
        raise invalid_argument(f"AppEngineHttpRequest.body is not allowed with HTTP method {method}.")
    check_header_names(headers, "AppEngineHttpRequest.headers")
    request.http_method, request.relative_uri = request.http_method or 1, uri
    request.app_engine_routing.host = app_engine_host(request.app_engine_routing, queue)
    given = {name.lower(): value for name, value in headers.items()}
    _drop(headers, {"user-agent", "content-length"})
    agent = given.get("user-agent", "")
    headers["User-Agent"] = agent if APP_ENGINE_AGENT in agent else f"{agent} {APP_ENGINE_AGENT}".strip()
    if body:
        headers["Content-Length"] = str(len(body))
        if "content-type" not in given:
            headers["Content-Type"] = "application/octet-stream"
        request.ClearField("body")
    target = f"{method} {request.app_engine_routing.host}{uri}"
    return len_field(_APP_ENGINE_FIELD, request.SerializeToString()), body, target


def _method(number: int) -> str:
    if 0 <= number < len(METHODS):
        return METHODS[number]
    raise invalid_argument(f"{number} is not a valid HttpMethod.")


def _drop(headers: Any, unwanted: set[str]) -> None:
    for name in [name for name in headers if name.lower() in unwanted]:
        del headers[name]


def _check_size(head: bytes, body: bytes, due: int, kind: str) -> None:
    task = v2.Task.FromString(head)
    request = getattr(task, kind)
    if sum(len(name) + len(value) for name, value in request.headers.items()) >= _MAX_HEADERS:
        raise invalid_argument("The size of the headers must be less than 80KB.")
    if kind == "app_engine_http_request":  # service, version and instance are counted only as parts of the host
        request.app_engine_routing.CopyFrom(v2.AppEngineRouting(host=request.app_engine_routing.host))
    request.body = body
    task.schedule_time.FromMicroseconds(due)
    if task.ByteSize() > _MAX_STORED:
        raise invalid_argument("Task size too large")


def as_beta(task: bytes) -> bytes:
    """Return a serialized v2 `Task` as v2beta3."""
    return retag(task, _TO_BETA)


def as_v2(task: bytes) -> bytes:
    """Return a serialized v2beta3 `Task` as v2; the payload of a pull task is dropped."""
    return retag(task, _TO_V2)


def is_app_engine(head: bytes) -> bool:
    """Return whether a stored task is for App Engine: its target is the field after the name, which comes first."""
    length, at = read_varint(head, 1)
    return head[at + length] == _APP_ENGINE_KEY


def name_wire(head: bytes, view: int) -> bytes:
    """Return a v2 `Task` with nothing but its name and the view."""
    length, at = read_varint(head, 1)
    return head[: at + length] + (_FULL_FIELD if view == FULL else _BASIC_FIELD)


def task_wire(head: bytes, due: int, attempts: Attempts | None, body: bytes, view: int) -> bytes:
    """Return a v2 `Task` as a reply has it: joined from its stored parts, which are not parsed.

    Parameters
    ----------
    head : bytes
        The stored task without its body.
    due : int
        When the first attempt is due, microseconds since 1970.
    attempts : Attempts, optional
        Its attempts so far, with the time of the next one.
    body : bytes
        Part of the FULL view only.
    view : int
        The requested view; BASIC if it is not FULL.
    """
    task = head + _schedule(attempts.due if attempts else due)
    if attempts:
        task += attempts.wire()
    if view != FULL:
        return task + _BASIC_FIELD
    if body:
        task += len_field(2, len_field(5, body)) if is_app_engine(head) else len_field(3, len_field(4, body))
    return task + _FULL_FIELD


@lru_cache(maxsize=256)
def _schedule(due: int) -> bytes:
    return len_field(4, timestamp(due))

"""Convert protobuf messages to plain values and back. Times are microseconds since 1970, durations are seconds."""

from __future__ import annotations

import math
import numbers
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from google.cloud.tasks_v2 import types
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cloudtasks_nb._names import TAG_HEADER, code_name
from cloudtasks_nb._settings import RETRY_SETTINGS, check_names, parse_duration, parse_json, wrong_argument
from cloudtasks_nb.display.secrets import mask_headers, mask_url, mask_value, may_hold_secret
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.store.results import tag_of

__all__ = [
    "HTTP_METHODS",
    "TaskPage",
    "decode_body",
    "default_audience",
    "delete_failures",
    "http_status",
    "http_target",
    "last_attempt",
    "micros",
    "queue_json",
    "queue_message",
    "queue_values",
    "request_values",
    "retry_message",
    "seconds",
    "task_columns",
]

#: HTTP methods by number, as `google.cloud.tasks.v2.HttpMethod` defines them.
HTTP_METHODS = ("", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")

_QUEUE_STATES = ("STATE_UNSPECIFIED", "RUNNING", "PAUSED", "DISABLED")
_HTTP_STATUS = re.compile(r"[A-Z_]+\(\d+\): HTTP status code (?P<status>\d+)")
_MICRO = 1_000_000
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:[^/?#]*@)?(?P<host>\[[^]]*\]|[^/?#:]+)(?P<port>:\d+)?(?P<path>[^?#]*)", re.IGNORECASE
)
_IMPLIED_PORTS = ("https:443", "http:80")

_TAG_SIZE = len(tag_of(b"", ""))
# What stands before the tag in the bytes of a request.
_TAG = types.HttpRequest.pb()(headers={TAG_HEADER: _TAG_SIZE * "0"}).SerializeToString()[:-_TAG_SIZE]

# Columns that most tasks of a queue have in common.
_REQUEST = ("method", "url", "headers", "service_account")
_Request = tuple[str, str, dict[str, str], str | None]

# State of a task; status and message of its last attempt if that has ended, and its start.
_Attempt = tuple[str, str | None, str | None, int | None]
_SCHEDULED: _Attempt = ("scheduled", None, None, None)
_READY: _Attempt = ("ready", None, None, None)


def micros(stamp: Any) -> int:
    """Return a protobuf Timestamp in microseconds since 1970."""
    return stamp.seconds * _MICRO + stamp.nanos // 1000


def seconds(duration: Any) -> float:
    """Return a protobuf Duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def decode_body(body: bytes) -> Any:
    """Decode a body as JSON, else as text, else leave it as bytes; None if it is empty."""
    if not body:
        return None
    try:
        return parse_json(body)
    except ValueError:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def http_status(message: str | None) -> int | None:
    """Return the HTTP status in the message of an attempt; None if it names none, as when the target did not answer.

    Examples
    --------
    >>> http_status("INTERNAL(13): HTTP status code 502")
    502
    """
    found = None if message is None else _HTTP_STATUS.fullmatch(message)
    return None if found is None else int(found["status"]) or None


def task_columns(tasks: Sequence[Any], *, now: int, body: bool = False, secrets: bool = False) -> dict[str, list[Any]]:
    """Convert raw v2 Task messages, or those of a `TaskPage`, to columns.

    Parameters
    ----------
    now : int
        Microseconds since 1970; separates `scheduled` from `ready`.
    body, secrets : bool
        Decode bodies (the tasks must have been read in FULL view); show secrets in URLs, headers and bodies.

    Returns
    -------
    dict
        Column name to one value for each task; times in microseconds or None, durations in seconds or None.
    """
    read = [task if isinstance(task, _Task) else _Task.FromString(task.SerializeToString()) for task in tasks]
    names, due = [task.name for task in read], [_micros(task.schedule_time) for task in read]
    short = [name.rpartition("/tasks/")[2] for name in names]
    heads = [name.removesuffix(task) for name, task in zip(names, short, strict=True)]
    queues = {head: head.removesuffix("/tasks/").rpartition("/")[2] for head in set(heads)}
    tries = [task.dispatch_count for task in read]
    attempts = [
        _attempt(types.Attempt.pb().FromString(_whole_field(task.last_attempt))) if count else _waiting(at, now)
        for task, count, at in zip(read, tries, due, strict=True)
    ]
    requests, headers, bodies = _requests(read, body=body, secrets=secrets)
    return {
        "task": short,
        "queue": [queues[head] for head in heads],
        "state": [state for state, _, _, _ in attempts],
        "schedule_time": due,
        "create_time": [_micros(task.create_time) for task in read],
        "attempts": tries,
        "responses": [task.response_count for task in read],
        "last_status": [status for _, status, _, _ in attempts],
        "last_message": [message for _, _, message, _ in attempts],
        "last_attempt_time": [began for _, _, _, began in attempts],
        "method": [method for method, _, _, _ in requests],
        "url": [url for _, url, _, _ in requests],
        "headers": headers,
        "body": bodies,
        "service_account": [account for _, _, _, account in requests],
        "dispatch_deadline": [
            _seconds(task.dispatch_deadline) if task.HasField("dispatch_deadline") else None for task in read
        ],
        "name": names,
    }


def _shallow_page() -> Any:
    """Return a class that reads a ListTasksResponse, and leaves the messages that are fields of a task as bytes.

    To make an object of each of these, and of each time in them, is most of the work of a listing.
    """
    file = FileDescriptorProto(name="cloudtasks_nb.proto", package="cloudtasks_nb", syntax="proto2")
    for message in (types.Task, types.ListTasksResponse):
        made = file.message_type.add()
        message.pb().DESCRIPTOR.CopyToProto(made)
        for kind in ("nested_type", "enum_type", "oneof_decl", "options"):
            made.ClearField(kind)
        for field in made.field:
            for fact in ("oneof_index", "options", "type_name"):
                field.ClearField(fact)
            if field.name == "tasks":
                field.type_name = f".{file.package}.Task"
            elif field.type == FieldDescriptorProto.TYPE_MESSAGE:
                field.type = FieldDescriptorProto.TYPE_BYTES
                if field.name.endswith(("_request", "_attempt")):  # may come in pieces, which are one when joined
                    field.label = FieldDescriptorProto.LABEL_REPEATED
            elif field.type == FieldDescriptorProto.TYPE_ENUM:
                field.type = FieldDescriptorProto.TYPE_INT32
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.ListTasksResponse"))


#: The answer of ListTasks for `task_columns`.
TaskPage = _shallow_page()
_Task = type(TaskPage().tasks.add())
_HttpRequest, _AppEngineRequest = types.HttpRequest.pb(), types.AppEngineHttpRequest.pb()


def _requests(
    tasks: Sequence[Any], *, body: bool, secrets: bool
) -> tuple[list[_Request], list[dict[str, str]], list[Any]]:
    """Return the requests of tasks of a `TaskPage`, one object for all that are alike, and their headers and bodies.

    Of many objects that are alive the garbage collector makes more work.
    """
    known: dict[Any, _Request] = {}
    requests, headers, bodies = list[_Request](), list[dict[str, str]](), list[Any]()
    for task in tasks:
        kind, raw, content = _HttpRequest, _whole_field(task.http_request), None
        if not raw and task.app_engine_http_request:
            kind, raw = _AppEngineRequest, _whole_field(task.app_engine_http_request)
        if body:
            raw, content = _without_body(kind.FromString(raw), secrets=secrets)
        before, tagged, after = raw.partition(_TAG)
        # Requests of a queue mostly differ only in bodies and tags, and converting one costs more than all the rest.
        key = kind, before, tagged, after[_TAG_SIZE:]
        request = known.get(key)
        if request is None:
            request = known[key] = _request_values(kind.FromString(raw), secrets=secrets)
        shown = request[2].copy()
        if tagged:
            shown[TAG_HEADER] = after[:_TAG_SIZE].decode()
        requests.append(request)
        headers.append(shown)
        bodies.append(content)
    return requests, headers, bodies


def _whole_field(pieces: Sequence[bytes]) -> bytes:
    """Return a message that may have come in pieces."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@lru_cache
def _micros(stamp: bytes) -> int:
    return micros(Timestamp.FromString(stamp))


@lru_cache
def _seconds(duration: bytes) -> float:
    return seconds(Duration.FromString(duration))


def _without_body(request: Any, *, secrets: bool) -> tuple[bytes, Any]:
    """Return a request as bytes without its body, and the body."""
    raw = request.body
    request.ClearField("body")
    shown = decode_body(raw) if secrets or not may_hold_secret(raw) else mask_value(decode_body(raw))
    return request.SerializeToString(), shown


def request_values(task: Any) -> dict[str, Any]:
    """Return the HTTP request of a raw Task with its secrets: the body as bytes; empty for a task of App Engine."""
    if task.HasField("app_engine_http_request"):
        return {}
    request = task.http_request
    audience = request.oidc_token.audience or None
    values = dict(zip(_REQUEST, _request_values(request, secrets=True), strict=True))
    return {**values, "body": request.body, "audience": audience}


def last_attempt(task: Any, now: int) -> _Attempt:
    """Return the state of a raw task; status and message of its last attempt if that has ended, and its start."""
    if task.dispatch_count == 0:
        return _waiting(micros(task.schedule_time), now)
    return _attempt(task.last_attempt)


def _attempt(last: Any) -> _Attempt:
    began, status = micros(last.dispatch_time), last.response_status
    if last.HasField("dispatch_time") and not last.HasField("response_time") and not status.code:
        return "running", None, None, began
    return "retrying", code_name(status.code), status.message or None, began


def _waiting(due: int, now: int) -> _Attempt:
    return _SCHEDULED if due > now else _READY


def _request_values(request: Any, *, secrets: bool) -> _Request:
    """Return method, URL, headers and service account of a request."""
    headers, method = dict(sorted(request.headers.items())), _enum_name(HTTP_METHODS, request.http_method)
    if isinstance(request, _AppEngineRequest):
        url, email = f"appengine:{request.relative_uri}", ""
    else:
        url = request.url
        email = request.oidc_token.service_account_email or request.oauth_token.service_account_email
    shown = (url, headers) if secrets else (mask_url(url), mask_headers(headers))
    return method, *shown, email or None


def _whole(value: Any, name: str) -> int:
    number = _number(value, name)
    if number != int(number) or abs(number) >= 2**31:
        raise wrong_argument(name, value, "is not a whole number", f"use {name}=5")
    return int(number)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise wrong_argument(name, value, "is not a number", f"use {name}=5")
    return float(value)


# The part of a Queue and the field of it that a setting stands in, and what checks a value.
_SETTINGS: dict[str, tuple[str, str, Callable[[Any, str], Any]]] = {
    "rate": ("rate_limits", "max_dispatches_per_second", _number),
    "max_concurrent": ("rate_limits", "max_concurrent_dispatches", _whole),
    "log_sampling_ratio": ("stackdriver_logging_config", "sampling_ratio", _number),
    **{name: ("retry_config", name, parse_duration) for name in RETRY_SETTINGS},
    **{name: ("retry_config", name, _whole) for name in ("max_attempts", "max_doublings")},
}


def retry_message(settings: Mapping[str, Any]) -> Any:
    """Return a raw RetryConfig with the settings `max_attempts`, `max_retry_duration`, `min_backoff` and so on.

    Raises
    ------
    InvalidInputError
        If a name is unknown, a value is not valid, or the shortest wait is longer than the longest.
    """
    check_names(settings, RETRY_SETTINGS, "retry setting")
    return queue_message("", settings)[0].retry_config


def queue_message(name: str, settings: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return a raw v2 Queue with these settings, and the update mask of just these.

    Raises
    ------
    InvalidInputError
        If a value is not valid, or the shortest wait is longer than the longest.
    """
    parts: dict[str, dict[str, Any]] = {"retry_config": {}}
    mask = []
    for setting, value in settings.items():
        part, field, check = _SETTINGS[setting]
        parts.setdefault(part, {})[field] = check(value, setting)
        mask.append(f"{part}.{field}")
    shortest, longest = (parts["retry_config"].get(wait) for wait in ("min_backoff", "max_backoff"))
    if shortest is not None and longest is not None and shortest > longest:
        raise InvalidInputError(
            f"min_backoff={settings['min_backoff']!r} is longer than max_backoff={settings['max_backoff']!r}",
            resource="min_backoff",
            hint="the waits grow from the first to the second",
        )
    return types.Queue.pb()(name=name, **parts), mask


def queue_json(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue with these settings in the JSON form of the REST API."""
    return json_format.MessageToDict(queue_message(name, settings)[0])


def queue_values(queue: Any) -> dict[str, Any]:
    """Convert a raw Queue (v2, or v2beta3 with or without stats); what the endpoint did not send is left out."""
    retry, limits = queue.retry_config, queue.rate_limits
    return {
        "queue": queue.name.rpartition("/")[2],
        "state": _enum_name(_QUEUE_STATES, queue.state),
        **_stats_values(queue),
        "rate": limits.max_dispatches_per_second,
        "burst": limits.max_burst_size,
        "max_concurrent": limits.max_concurrent_dispatches,
        "max_attempts": retry.max_attempts,
        "max_retry_duration": seconds(retry.max_retry_duration),
        "min_backoff": seconds(retry.min_backoff),
        "max_backoff": seconds(retry.max_backoff),
        "max_doublings": retry.max_doublings,
        "log_sampling_ratio": queue.stackdriver_logging_config.sampling_ratio,
        "target": _target_text(queue.http_target) if queue.HasField("http_target") else None,
        "purge_time": micros(queue.purge_time) if queue.HasField("purge_time") else None,
        "name": queue.name,
    }


def _enum_name(names: Sequence[str], number: int) -> str:
    """Return the name of an enum's value; the name of 0 ("unspecified") for a value of a newer service."""
    return names[number] if 0 <= number < len(names) else names[0]


def _stats_values(queue: Any) -> dict[str, Any]:
    """Convert the statistics of a v2beta3 queue; empty if the endpoint sent none."""
    if "stats" not in queue.DESCRIPTOR.fields_by_name or not queue.HasField("stats"):
        return {}
    stats = queue.stats
    due = stats.oldest_estimated_arrival_time if stats.HasField("oldest_estimated_arrival_time") else None
    return {
        "tasks": stats.tasks_count,
        "oldest_due": None if due is None else micros(due),
        "running": stats.concurrent_dispatches_count,
        "done_last_minute": stats.executed_last_minute_count,
        "effective_rate": stats.effective_execution_rate,
    }


def _target_text(target: Any) -> str:
    """Describe a queue-level target as one URL, with stars for the parts that each task keeps."""
    override = target.uri_override
    scheme = ("*", "http", "https")[override.scheme]
    port = f":{override.port}" if override.port else ""
    path = override.path_override.path or "/*"
    query = f"?{override.query_override.query_params}" if override.query_override.query_params else ""
    return mask_url(f"{scheme}://{override.host or '*'}{port}{path}{query}")


def default_audience(url: str) -> str:
    """Return the audience of a token for a URL: its origin; for Cloud Functions the URL without its query.

    So one audience holds for all paths of a service: Cloud Run accepts the URL of the service, Cloud Functions that of
    the function (https://cloud.google.com/run/docs/authenticating/service-to-service). Without an audience Cloud Tasks
    would take the URL of each task.
    """
    found = _ORIGIN.match(url)
    if found is None:
        return ""
    scheme, host, port = found["scheme"].lower(), found["host"].lower(), found["port"] or ""
    port = "" if scheme + port in _IMPLIED_PORTS else port
    path = found["path"] if host.endswith(".cloudfunctions.net") else ""
    return f"{scheme}://{host}{port}{path}"


def http_target(url: str | None, service_account: str | None, audience: str | None) -> Any:
    """Return a raw queue-level HttpTarget that sends every task to `url`, signed as `service_account`.

    A part that the URL leaves out (no path, no query) stays each task's own
    (https://cloud.google.com/tasks/docs/configuring-queues#queue-level).

    Raises
    ------
    InvalidInputError
        If `url` is not an http(s) URL.
    """
    target = types.HttpTarget.pb()()
    if url is not None:
        parts = _parse_url(url)
        override = target.uri_override
        override.scheme = 1 if parts.scheme == "http" else 2
        override.host = parts.hostname or ""
        override.port = parts.port or (80 if parts.scheme == "http" else 443)
        override.uri_override_enforce_mode = 2  # ALWAYS
        if parts.path not in ("", "/"):
            override.path_override.path = parts.path
        if parts.query:
            override.query_override.query_params = parts.query
    if service_account is not None:
        target.oidc_token.service_account_email = service_account
        target.oidc_token.audience = audience or default_audience(url or "")
    return target


def _parse_url(url: str) -> urllib.parse.SplitResult:
    with suppress(ValueError):  # an invalid port or IPv6 address
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    raise InvalidInputError(
        f'"{mask_url(url)}" is not an http(s) URL', resource=url, hint="use a URL like https://service.example.com/run"
    )


def delete_failures(operation: Any) -> dict[int, str]:
    """Return the failures of a finished BatchDeleteTasks: index of the name to the reason."""
    facts = types.BatchDeleteTasksMetadata.pb()()
    operation.metadata.Unpack(facts)
    return {index: status.message or code_name(status.code) for index, status in facts.failed_requests.items()}

"""Protobuf messages to plain values and back. Times are microseconds since 1970 (UTC), durations seconds."""

from __future__ import annotations

import datetime as dt
import math
import numbers
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from google.cloud.tasks_v2 import types
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cloudtasks_nb._names import SECRET_HEADER, code_name
from cloudtasks_nb._settings import RETRY_SETTINGS, check_words, parse_duration
from cloudtasks_nb.errors import InvalidInputError

__all__ = [
    "METHODS",
    "decode_body",
    "delete_failures",
    "http_target",
    "mask_headers",
    "micros",
    "queue_json",
    "queue_message",
    "queue_values",
    "retry_message",
    "seconds",
    "task_columns",
    "task_state",
    "timestamp",
]

#: HTTP methods by number, as `google.cloud.tasks.v2.HttpMethod` defines them.
METHODS = ("", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")

_QUEUE_STATES = ("STATE_UNSPECIFIED", "RUNNING", "PAUSED", "DISABLED")
_TASK_COLUMNS = (
    "task",
    "queue",
    "state",
    "schedule_time",
    "create_time",
    "attempts",
    "responses",
    "last_status",
    "last_message",
    "last_attempt_time",
    "method",
    "url",
    "headers",
    "body",
    "service_account",
    "dispatch_deadline",
    "name",
)
_MASK = "•••"
_MICRO = 1_000_000

# What tasks of a queue mostly have in common: method, URL, headers and service account.
_Target = tuple[str, str, dict[str, str], str | None]


def micros(stamp: Any) -> int:
    """Return a protobuf Timestamp in microseconds since 1970."""
    return stamp.seconds * _MICRO + stamp.nanos // 1000


def seconds(duration: Any) -> float:
    """Return a protobuf Duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def timestamp(moment: dt.datetime) -> Timestamp:
    """Return the protobuf Timestamp of a tz-aware datetime."""
    message = Timestamp()
    message.FromDatetime(moment.astimezone(dt.UTC).replace(tzinfo=None))
    return message


def _duration(value: Any, name: str) -> Duration:
    message = Duration()
    message.FromTimedelta(parse_duration(value, name))
    return message


def mask_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with the values of secret ones replaced by dots."""
    return {key: _MASK if SECRET_HEADER.match(key) else value for key, value in headers.items()}


def decode_body(body: bytes) -> Any:
    """Return the JSON value that a body is, else its text, else the bytes; None when it is empty."""
    if not body:
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def task_state(task: Any, now: int) -> str:
    """Tell in which state a task in the queue is, from the attempts the service has recorded on it."""
    if task.dispatch_count == 0:
        return _waiting(micros(task.schedule_time), now)
    last = task.last_attempt
    in_flight = last.HasField("dispatch_time") and not last.HasField("response_time") and not last.response_status.code
    return "running" if in_flight else "retrying"


def _waiting(due: int, now: int) -> str:
    return "scheduled" if due > now else "ready"


def task_columns(tasks: Iterable[Any], *, now: int, body: bool = False, secrets: bool = False) -> dict[str, list[Any]]:
    """Take raw v2 Task messages apart into columns.

    Parameters
    ----------
    tasks : iterable of google.cloud.tasks.v2.Task (raw protobuf)
    now : int
        Microseconds since 1970, to tell `scheduled` from `ready`.
    body, secrets : bool
        Decode bodies (the tasks must have been asked for in FULL view); show secret headers.

    Returns
    -------
    dict
        Column name to one item a task; times in microseconds or None, durations in seconds or None.
    """
    targets: dict[bytes, _Target] = {}
    rows = [_task_row(task, now, body, secrets, targets) for task in tasks]
    columns = map(list, zip(*rows, strict=True)) if rows else ([] for _ in _TASK_COLUMNS)
    return dict(zip(_TASK_COLUMNS, columns, strict=True))


def _task_row(task: Any, now: int, body: bool, secrets: bool, targets: dict[bytes, _Target]) -> tuple[Any, ...]:  # noqa: FBT001 - internal, hot
    name = task.name
    head, _, short = name.rpartition("/tasks/")
    # Most tasks of a queue have the same request but for its body, and to take it apart costs more than all the rest.
    wire = b"" if body else task.http_request.SerializeToString()
    target = targets.get(wire) if wire else None
    if target is None:
        target = targets[wire] = _target(task, secrets=secrets)
    method, url, headers, email = target
    due, tries = micros(task.schedule_time), task.dispatch_count
    state = task_state(task, now) if tries else _waiting(due, now)
    status, message, at = _last_attempt(task, state) if tries else (None, None, None)
    deadline = seconds(task.dispatch_deadline)
    return (
        short,
        head.rpartition("/")[2],
        state,
        due,
        micros(task.create_time),
        tries,
        task.response_count,
        status,
        message,
        at,
        method,
        url,
        dict(headers),
        decode_body(_request(task).body) if body else None,
        email,
        deadline if deadline or task.HasField("dispatch_deadline") else None,
        name,
    )


def _last_attempt(task: Any, state: str) -> tuple[str | None, str | None, int]:
    """Return status and message of the newest attempt, if it has ended, and when it began."""
    last = task.last_attempt
    began = micros(last.dispatch_time)
    if state == "running":
        return None, None, began
    return code_name(last.response_status.code), last.response_status.message or None, began


def _request(task: Any) -> Any:
    return task.app_engine_http_request if task.HasField("app_engine_http_request") else task.http_request


def _target(task: Any, *, secrets: bool) -> _Target:
    request = _request(task)
    headers = dict(request.headers)
    shown = headers if secrets else mask_headers(headers)
    method = METHODS[request.http_method]
    if task.HasField("app_engine_http_request"):
        return method, f"appengine:{request.relative_uri}", shown, None
    email = request.oidc_token.service_account_email or request.oauth_token.service_account_email
    return method, request.url, shown, email or None


def retry_message(words: Mapping[str, Any]) -> Any:
    """Return a raw RetryConfig of the words `max_attempts`, `max_retry_duration`, `min_backoff` and so on.

    Raises
    ------
    InvalidInputError
        Naming an unknown word or a value that is none.
    """
    check_words(words, RETRY_SETTINGS, "retry setting")
    message = types.RetryConfig.pb()()
    for word, value in words.items():
        if word in ("max_attempts", "max_doublings"):
            setattr(message, word, _whole(value, word))
        else:
            getattr(message, word).CopyFrom(_duration(value, word))
    return message


def _whole(value: Any, word: str) -> int:
    number = _number(value, word)
    if number != int(number) or abs(number) >= 2**31:
        raise InvalidInputError(f"{word}={value!r} is not a whole number", resource=word, hint=f"say {word}=5")
    return int(number)


def _number(value: Any, word: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InvalidInputError(f"{word}={value!r} is not a number", resource=word, hint=f"say {word}=5")
    return float(value)


def queue_message(name: str, words: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return a raw v2 Queue of our words for queue settings, and the update mask that names just these."""
    message = types.Queue.pb()(name=name)
    mask = []
    for word, value in words.items():
        if word == "rate":
            message.rate_limits.max_dispatches_per_second = _number(value, word)
            mask.append("rate_limits.max_dispatches_per_second")
        elif word == "max_concurrent":
            message.rate_limits.max_concurrent_dispatches = _whole(value, word)
            mask.append("rate_limits.max_concurrent_dispatches")
        elif word == "log_sampling_ratio":
            message.stackdriver_logging_config.sampling_ratio = _number(value, word)
            mask.append("stackdriver_logging_config.sampling_ratio")
        else:
            mask.append(f"retry_config.{word}")
    message.retry_config.CopyFrom(retry_message({word: words[word] for word in words if word in RETRY_SETTINGS}))
    return message, mask


def queue_json(name: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue of our words for queue settings as the REST API writes it."""
    return json_format.MessageToDict(queue_message(name, words)[0])


def queue_values(queue: Any) -> dict[str, Any]:
    """Take a raw Queue (v2, or v2beta3 with or without stats) apart; what the endpoint does not tell is left out."""
    retry, limits = queue.retry_config, queue.rate_limits
    return {
        "queue": queue.name.rpartition("/")[2],
        "state": _QUEUE_STATES[queue.state],
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


def _stats_values(queue: Any) -> dict[str, Any]:
    """Take the statistics of a v2beta3 queue apart; empty when the endpoint sent none."""
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
    """Say a queue-level target as one URL with stars for what each task keeps."""
    override = target.uri_override
    scheme = ("*", "http", "https")[override.scheme]
    port = f":{override.port}" if override.port else ""
    path = override.path_override.path or "/*"
    query = f"?{override.query_override.query_params}" if override.query_override.query_params else ""
    return f"{scheme}://{override.host or '*'}{port}{path}{query}"


def http_target(url: str | None, service_account: str | None, audience: str | None) -> Any:
    """Return a raw queue-level HttpTarget that sends every task to `url`, signed as `service_account`.

    A part that the URL leaves out (no path, no query) stays each task's own
    (https://cloud.google.com/tasks/docs/configuring-queues#queue-level).

    Raises
    ------
    InvalidInputError
        If `url` is not an http(s) URL, or there is an `audience` and nobody to sign.
    """
    if audience is not None and service_account is None:
        raise InvalidInputError(
            "audience= says nothing without service_account=",
            resource="audience",
            hint='say service_account="name@project.iam.gserviceaccount.com" too',
        )
    target = types.HttpTarget.pb()()
    if url is not None:
        parts, port = _split(url)
        override = target.uri_override
        override.scheme = 1 if parts.scheme == "http" else 2
        override.host = parts.hostname or ""
        override.port = port or (80 if parts.scheme == "http" else 443)
        override.uri_override_enforce_mode = 2  # ALWAYS
        if parts.path not in ("", "/"):
            override.path_override.path = parts.path
        if parts.query:
            override.query_override.query_params = parts.query
    if service_account is not None:
        target.oidc_token.service_account_email = service_account
        target.oidc_token.audience = audience or url or ""
    return target


def _split(url: str) -> tuple[urllib.parse.SplitResult, int | None]:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:  # a port or an IPv6 address that is none
        parts, port = urllib.parse.urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError(
            f'"{url}" is not an http(s) URL', resource=url, hint="use a URL like https://service.example.com/run"
        )
    return parts, port


def delete_failures(operation: Any) -> dict[int, str]:
    """Return what a finished BatchDeleteTasks could not delete: index of the name to the reason."""
    facts = types.BatchDeleteTasksMetadata.pb()()
    operation.metadata.Unpack(facts)
    return {index: status.message or code_name(status.code) for index, status in facts.failed_requests.items()}

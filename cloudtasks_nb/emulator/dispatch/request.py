"""Builds the HTTP request of an attempt from the task, the queue's overrides and the service's headers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from cloudtasks_nb.emulator.model.apis import v2
from cloudtasks_nb.emulator.model.attempts import NO_ANSWER, RetryPolicy
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.queues import duration, policy
from cloudtasks_nb.emulator.model.regions import app_engine_host
from cloudtasks_nb.emulator.model.tasks import HTTP_AGENT, METHODS
from cloudtasks_nb.emulator.store.state import Claim

__all__ = ["Authorize", "HttpCall", "overridden", "prepare"]

#: Returns the `Authorization` header for the token setting of a message and a URL; None if the message has no setting.
Authorize = Callable[[Any, str], str | None]

#: method, URL, URL as the log shows it, headers and body of a request
_Parts: TypeAlias = tuple[str, str, str, dict[str, str], bytes]

# Numbers of enum values.
_IF_NOT_EXISTS = 1
_HTTP_SCHEME = 1
_GET = 2
# Headers that a task cannot set: by name, and by the beginning of their names.
_COMPUTED = {"host", "content-length", "transfer-encoding", "user-agent"}
_RESERVED = ("x-google-", "x-appengine-", "x-cloudtasks-")
_DEFAULT_DEADLINE = 600 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """A request, ready to be sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    deadline: int  #: microseconds
    retry: RetryPolicy
    app_engine: bool
    target: str  #: method and URL, as the operations log shows them

    @property
    def address(self) -> str:
        """Host and port, as in ``127.0.0.1:8080``; empty if the URL has none."""
        parts = _parts(self.url)
        if parts is None:
            return ""
        return f"{parts.hostname}:{_port(parts) or (443 if parts.scheme == 'https' else 80)}"


def prepare(claim: Claim, authorize: Authorize, app_engine_base: str | None) -> HttpCall:
    """Build the request of a task's next attempt.

    Parameters
    ----------
    claim : Claim
        The task.
    authorize : callable
        Makes the `Authorization` header.
    app_engine_base : str, optional
        URL of the application that receives App Engine tasks, in place of their own host.
    """
    task = v2.Task.FromString(claim.task.head)
    app_engine = task.WhichOneof("message_type") != "http_request"
    method, url, shown, headers, body = (_app_engine if app_engine else _http)(task, claim, authorize, app_engine_base)
    config = claim.queue.config
    return HttpCall(
        method=method,
        url=url,
        headers=headers | _service_headers(claim, app_engine=app_engine),
        body=body,
        deadline=duration(task.dispatch_deadline) or _DEFAULT_DEADLINE,
        retry=policy(task.retry_config, config.retry) if task.HasField("retry_config") else config.retry,
        app_engine=app_engine,
        target=f"{method} {shown}",
    )


def _app_engine(task: Any, claim: Claim, _: Authorize, base: str | None) -> _Parts:
    request, routing = task.app_engine_http_request, claim.queue.config.routing
    host = request.app_engine_routing.host if routing is None else app_engine_host(routing, claim.queue.name)
    headers = {name: value for name, value in request.headers.items() if _allowed(name) or name.lower() == "user-agent"}
    url = (base or f"https://{host}").rstrip("/") + request.relative_uri
    # As the log shows it for the creation: with the task's host, not with `base`.
    return METHODS[request.http_method], url, f"{host}{request.relative_uri}", headers, claim.task.body


def _http(task: Any, claim: Claim, authorize: Authorize, _: str | None) -> _Parts:
    request, target = task.http_request, claim.queue.config.http_target
    url, method, body = request.url, request.http_method, claim.task.body
    headers = {name: value for name, value in request.headers.items() if _allowed(name)}
    token = None
    if target is not None:
        if target.HasField("uri_override"):
            url = overridden(url, target.uri_override)
        method = target.http_method or method
        for override in target.header_overrides:
            _replace(headers, override.header.key, override.header.value)
        token = authorize(target, url)
        body = b"" if target.http_method == _GET else body
    token = token or authorize(request, url)
    if token:
        _replace(headers, "Authorization", token)
    headers["User-Agent"] = HTTP_AGENT
    return METHODS[method], url, url, headers, body


def overridden(url: str, override: Any) -> str:
    """Return a task's URL after the queue's `UriOverride` has replaced its parts, or only added the missing ones."""
    parts = _parts(url)
    if parts is None:
        return url
    always = override.uri_override_enforce_mode != _IF_NOT_EXISTS
    scheme, path, query = parts.scheme, parts.path, parts.query
    host, port = parts.hostname or "", _port(parts)
    if override.HasField("scheme") and always:
        scheme = "http" if override.scheme == _HTTP_SCHEME else "https"
    if override.HasField("host") and (always or not host):
        host = override.host
    if override.HasField("port") and (always or port is None):
        port = override.port or None
    if override.HasField("path_override") and (always or path in {"", "/"}):
        path = override.path_override.path
    if override.HasField("query_override") and (always or not query):
        query = override.query_override.query_params
    if path and not path.startswith("/"):
        path = f"/{path}"
    host = f"[{host}]" if ":" in host else host
    return SplitResult(scheme, host if port is None else f"{host}:{port}", path, query, "").geturl()


def _parts(url: str) -> SplitResult | None:
    with suppress(ValueError):  # an unclosed bracket: tasks with such a URL can be created
        return urlsplit(url)
    return None


def _port(parts: SplitResult) -> int | None:
    with suppress(ValueError):
        return parts.port
    return None


def _allowed(name: str) -> bool:
    """Return whether tasks and queues may set a header."""
    lower = name.lower()
    return lower not in _COMPUTED and not lower.startswith(_RESERVED)


def _replace(headers: dict[str, str], name: str, value: str) -> None:
    """Set a header, if it is allowed, in place of one whose name differs only in case."""
    if not _allowed(name):
        return
    for key in [key for key in headers if key.lower() == name.lower()]:
        del headers[key]
    headers[name] = value


def _service_headers(claim: Claim, *, app_engine: bool) -> dict[str, str]:
    attempts = claim.attempts
    prefix = "X-AppEngine-" if app_engine else "X-CloudTasks-"
    headers = {
        f"{prefix}QueueName": claim.queue.name.rpartition("/")[2],
        f"{prefix}TaskName": claim.task.id,
        f"{prefix}TaskRetryCount": str(attempts.failures),
        f"{prefix}TaskExecutionCount": str(attempts.executions),
        f"{prefix}TaskETA": f"{attempts.due // SECOND}.{attempts.due % SECOND:06d}",
    }
    if attempts.failures:
        headers[f"{prefix}TaskPreviousResponse"] = str(attempts.http_status)
        reason = "Instance Unavailable" if attempts.http_status == NO_ANSWER else "App Error"
        headers[f"{prefix}TaskRetryReason"] = reason if app_engine else ""
    return headers

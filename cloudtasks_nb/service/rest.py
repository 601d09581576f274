"""Make calls over REST, which is HTTP/1.1 with JSON, for networks that do not let gRPC through."""

from __future__ import annotations

import asyncio
import functools
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions
from google.protobuf import json_format

from cloudtasks_nb._names import code_name, code_of
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.service.no_connection import no_connection
from cloudtasks_nb.service.refusal import Refusal
from cloudtasks_nb.service.rpcs import Method

__all__ = ["RefusedCallError", "RestChannel"]

_CONNECTIONS = 16  # calls at the same time; each has a thread
_LONGEST = 60.0  # seconds for a call without a timeout of its own

#: HTTP method, what follows the name of the resource in the path, and the field of the request that is the body (``*``:
#: the whole request): https://cloud.google.com/tasks/docs/reference/rest
_ROUTES: dict[str, tuple[str, str, str]] = {
    "ListQueues": ("GET", "/queues", ""),
    "GetQueue": ("GET", "", ""),
    "CreateQueue": ("POST", "/queues", "queue"),
    "UpdateQueue": ("PATCH", "", "queue"),
    "DeleteQueue": ("DELETE", "", ""),
    "PurgeQueue": ("POST", ":purge", "*"),
    "PauseQueue": ("POST", ":pause", "*"),
    "ResumeQueue": ("POST", ":resume", "*"),
    "TestIamPermissions": ("POST", ":testIamPermissions", "*"),
    "ListTasks": ("GET", "/tasks", ""),
    "GetTask": ("GET", "", ""),
    "CreateTask": ("POST", "/tasks", "*"),
    "DeleteTask": ("DELETE", "", ""),
    "RunTask": ("POST", ":run", "*"),
    "BatchCreateTasks": ("POST", "/tasks:batchCreate", "*"),
    "BatchDeleteTasks": ("POST", "/tasks:batchDelete", "*"),
    "GetOperation": ("GET", "", ""),
    "ListLocations": ("GET", "/locations", ""),
    "ListLogEntries": ("POST", "entries:list", "*"),
}


class RefusedCallError(Exception):
    """The service has refused a call, or gave no answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class RestChannel:
    """The connections to one endpoint. Coroutines run on the background loop, requests on threads.

    Parameters
    ----------
    endpoint : Endpoint
        Its target serves REST.
    credentials : google.auth.credentials.Credentials, optional
        None for an emulator.
    answered : callable
        Called with the headers of each answer, and the seconds that it took.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Any,
        answered: Callable[[Mapping[str, str], float], None],
        *,
        connect_timeout: float,
    ) -> None:
        self._answered = answered
        self._endpoint = endpoint
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="cloudtasks-rest")
        self._session = requests.Session()
        self._session.trust_env = not endpoint.local  # a proxy usually cannot reach an emulator on this machine
        self._session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))

    async def call(self, method: Method, request: Any, *, timeout: float | None) -> Any:
        """Call an RPC once with a raw request message and return the raw response.

        Raises
        ------
        RefusedCallError
            With the answer of the service, or what is known of a lost one.
        EndpointError
            If the call was not sent, because no connection came about.
        """
        seconds = timeout or _LONGEST
        work = functools.partial(self._send, method, request, seconds)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise RefusedCallError(_no_answer(seconds)) from error

    def close(self) -> None:
        """Close the connections; calls in flight end by themselves."""
        self._session.close()
        self._threads.shutdown(wait=False)

    def _send(self, method: Method, request: Any, timeout: float) -> Any:
        verb, path, query, body = _http(method, request)
        host = self._endpoint.log_target if method.resource == "log" else self._endpoint.target
        url = f"{'http' if self._endpoint.local else 'https'}://{host}{path}"
        headers: dict[str, str] = {}
        if self._credentials is not None:
            self._credentials.apply(headers)
        limits = (min(self._connect_timeout, timeout), timeout)
        sent = time.monotonic()
        try:
            answer = self._session.request(verb, url, params=query, json=body, headers=headers, timeout=limits)
        except (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            raise no_connection(self._endpoint, host, str(error)) from error
        except requests.Timeout as error:
            raise RefusedCallError(_no_answer(timeout)) from error
        except requests.RequestException as error:
            if _was_not_sent(error):
                raise no_connection(self._endpoint, host, str(error)) from error
            raise RefusedCallError(Refusal(code="UNAVAILABLE", message=str(error))) from error
        self._answered(answer.headers, time.monotonic() - sent)
        if answer.status_code == HTTPStatus.OK:
            return json_format.Parse(answer.content, method.response(), ignore_unknown_fields=True)
        raise RefusedCallError(_refusal(answer))


def _http(method: Method, request: Any) -> tuple[str, str, dict[str, Any], Any]:
    """Return HTTP method, path, query and body of a call."""
    rpc = method.path.rpartition("/")[2]
    version = "v2beta3" if ".v2beta3." in method.path else "v2"
    verb, suffix, field = _ROUTES[rpc]
    document = json_format.MessageToDict(request)
    resource = _take(document, method.route) if method.route else ""
    if field == "*":
        body, document = document, {}
    else:
        body = document.pop(field, {}) if field else None
    return verb, f"/{version}/{urllib.parse.quote(resource, safe='/:')}{suffix}", dict(_flat(document)), body


def _take(document: dict[str, Any], path: str) -> str:
    """Take the name of the resource, which stands in the path of the URL, out of a request."""
    *parents, last = path.split(".")
    for part in parents:
        document = document[part]
    return str(document.pop(last, ""))


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value).lower() if isinstance(value, bool) else value


def _refusal(answer: requests.Response) -> Refusal:
    """Return the error in an answer; that of a proxy is no JSON."""
    try:
        error = answer.json()["error"]
        return Refusal.of_json(str(error["status"]), str(error["message"]), error.get("details", ()))
    except (ValueError, LookupError, TypeError):
        text = f"HTTP {answer.status_code} {answer.reason}: {answer.text[:200]}".strip()
        gateway = answer.status_code in {HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
        return Refusal(code="UNAVAILABLE" if gateway else code_name(code_of(answer.status_code)), message=text)


def _no_answer(timeout: float) -> Refusal:
    return Refusal(code="DEADLINE_EXCEEDED", message=f"no answer within {timeout:.3g} s")


def _was_not_sent(error: requests.RequestException) -> bool:
    """Return whether a request failed before it was sent: no connection came about."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)

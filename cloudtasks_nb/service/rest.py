"""Make calls over REST, which is HTTP/1.1 with JSON, for networks that do not let gRPC through."""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions
from google.api_core.rest_helpers import flatten_query_params
from google.protobuf import json_format

from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.no_connection import CONNECT_TIMEOUT, no_connection
from cloudtasks_nb.service.refusal import of_answer, of_code
from cloudtasks_nb.service.rpcs import Method

__all__ = ["RestChannel"]

_CONNECTIONS = 16  # calls at the same time; each has a thread

#: HTTP method, what follows the name of the resource in the path, and the field of the request that is the body (``*``:
#: the whole request): https://cloud.google.com/tasks/docs/reference/rest. The others get or delete the resource.
_ROUTES: dict[str, tuple[str, str, str]] = {
    "ListQueues": ("GET", "/queues", ""),
    "CreateQueue": ("POST", "/queues", "queue"),
    "UpdateQueue": ("PATCH", "", "queue"),
    "PurgeQueue": ("POST", ":purge", "*"),
    "PauseQueue": ("POST", ":pause", "*"),
    "ResumeQueue": ("POST", ":resume", "*"),
    "TestIamPermissions": ("POST", ":testIamPermissions", "*"),
    "ListTasks": ("GET", "/tasks", ""),
    "CreateTask": ("POST", "/tasks", "*"),
    "RunTask": ("POST", ":run", "*"),
    "BatchCreateTasks": ("POST", "/tasks:batchCreate", "*"),
    "BatchDeleteTasks": ("POST", "/tasks:batchDelete", "*"),
    "ListLocations": ("GET", "/locations", ""),
    "ListLogEntries": ("POST", "entries:list", "*"),
}


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
        self, endpoint: Endpoint, credentials: Any, answered: Callable[[Mapping[str, str], float], None]
    ) -> None:
        self._answered = answered
        self._endpoint = endpoint
        self._credentials = credentials
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="cloudtasks-rest")
        self._session = requests.Session()
        self._session.trust_env = not endpoint.local  # a proxy usually cannot reach an emulator on this machine
        self._session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))

    async def call(self, method: Method, request: bytes, *, timeout: float) -> bytes:
        """Call an RPC once with a serialized request and return the serialized response.

        Raises
        ------
        GoogleAPICallError
            The refusal of the service, or what is known of a lost answer.
        EndpointError
            If the call was not sent, because no connection came about.
        """
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._send, method, request, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError as error:
            raise of_code("DEADLINE_EXCEEDED", "") from error

    def close(self) -> None:
        """Close the connections; calls in flight end by themselves."""
        self._session.close()
        self._threads.shutdown(wait=False)

    def _send(self, method: Method, request: bytes, timeout: float) -> bytes:
        verb, path, query, body = _http(method, method.request.FromString(request))
        host = self._endpoint.log_target if method.resource == "log" else self._endpoint.target
        url = f"{'http' if self._endpoint.local else 'https'}://{host}{path}"
        headers = dict(self._endpoint.metadata)
        if self._credentials is not None:
            self._credentials.apply(headers)
        limits = (min(CONNECT_TIMEOUT, timeout), timeout)
        sent = time.monotonic()
        try:
            answer = self._session.request(verb, url, params=query, json=body, headers=headers, timeout=limits)
        except requests.RequestException as error:
            if _was_not_sent(error):
                raise no_connection(self._endpoint, host, str(error)) from error
            late = isinstance(error, requests.Timeout)
            raise of_code("DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error)) from error
        self._answered(answer.headers, time.monotonic() - sent)
        if answer.status_code == HTTPStatus.OK:
            message = json_format.Parse(answer.content, method.response(), ignore_unknown_fields=True)
            return bytes(message.SerializeToString())
        raise of_answer(answer)


def _http(method: Method, request: Any) -> tuple[str, str, list[tuple[str, Any]], Any]:
    """Return HTTP method, path, query and body of a call."""
    rpc = method.path.rpartition("/")[2]
    version = "v2beta3" if ".v2beta3." in method.path else "v2"
    verb, suffix, field = _ROUTES.get(rpc, ("DELETE" if rpc.startswith("Delete") else "GET", "", ""))
    document = json_format.MessageToDict(request)
    resource = _take(document, method.route) if method.route else ""
    if field == "*":
        body, document = document, {}
    else:
        body = document.pop(field, {}) if field else None
    path = f"/{version}/{urllib.parse.quote(resource, safe='/:')}{suffix}"
    return verb, path, flatten_query_params(document, strict=True), body


def _take(document: dict[str, Any], path: str) -> str:
    """Take the name of the resource, which stands in the path of the URL, out of a request."""
    *parents, last = path.split(".")
    for part in parents:
        document = document[part]
    return str(document.pop(last, ""))


def _was_not_sent(error: requests.RequestException) -> bool:
    """Return whether a request failed before it was sent: no connection came about."""
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError)

"""Call Google's other APIs over REST, with the credentials of a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from google.auth.transport.requests import AuthorizedSession

from cloudtasks_nb.errors import EndpointError
from cloudtasks_nb.service.refusal import of_answer
from cloudtasks_nb.service.rpcs import METHODS
from cloudtasks_nb.service.transport import Transport

__all__ = ["GoogleApis"]

_TIMEOUT = 10.0  # seconds a call may take
_TEST = replace(METHODS["TestIamPermissions"], resource="policy")


class GoogleApis:
    """The APIs beside Cloud Tasks and its log; a custom endpoint serves them itself."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def permissions(self, service: str, path: str, permissions: Iterable[str]) -> set[str]:
        """Return those of the permissions that the caller has on a resource.

        Parameters
        ----------
        service : str
            First part of the API's host: ``iam``.
        path : str
            Of the resource: ``v1/projects/-/serviceAccounts/EMAIL``.

        Raises
        ------
        CloudTasksError
            If the API refuses the question, or does not answer.
        """
        asked = {"permissions": list(permissions)}
        answer = await self._call("POST", service, f"{path}:testIamPermissions", json=asked)
        return set(answer.get("permissions", ()))

    async def read(self, service: str, path: str, **query: object) -> dict[str, Any]:
        """Return a resource, or its policy.

        Raises
        ------
        CloudTasksError
            If the API refuses the question, or does not answer.
        """
        return await self._call("GET", service, path, params=query)

    async def project_policy(self, project: str) -> dict[str, Any]:
        """Return who has which roles on a project.

        Raises
        ------
        CloudTasksError
            If the API refuses the question, or does not answer.
        """
        options = {"options": {"requestedPolicyVersion": 3}}
        return await self._call("POST", "cloudresourcemanager", f"v1/projects/{project}:getIamPolicy", json=options)

    async def redirect(self, url: str) -> str | None:
        """Return where a URL redirects to; None if it does not, or nothing answers here."""
        try:
            answer = await asyncio.to_thread(_request, requests.Session(), url, "GET", allow_redirects=False)
        except EndpointError:
            return None
        return urljoin(url, answer.headers["Location"]) if answer.is_redirect else None

    async def ask_time(self) -> None:
        """Have the clock of the connection learn from an answer that needs no credentials.

        Raises
        ------
        EndpointError
            If there is no answer.
        """
        url = await self._base("cloudtasks")
        sent = time.monotonic()
        answer = await asyncio.to_thread(_request, requests.Session(), url, "HEAD")
        self._transport.service_clock.learn(answer.headers, time.monotonic() - sent)

    async def _call(self, verb: str, service: str, path: str, **options: Any) -> dict[str, Any]:
        base = await self._base(service)
        session = AuthorizedSession(self._transport.auth.credentials())
        answer = await asyncio.to_thread(_request, session, f"{base}/{path}", verb, **options)
        if answer.status_code == HTTPStatus.OK:
            return dict(answer.json())
        raise self._transport.error(of_answer(answer), _TEST, path.partition(":")[0].partition("/")[2])

    async def _base(self, service: str) -> str:
        universe = self._transport.endpoint.universe
        return f"https://{service}.{universe}" if universe else str(await self._transport.http())


def _request(session: requests.Session, url: str, method: str, **options: Any) -> requests.Response:
    """Send a request, and close the session. Blocks.

    Raises
    ------
    EndpointError
        If nothing answers.
    """
    with session:
        try:
            return session.request(method, url, timeout=_TIMEOUT, **options)
        except requests.RequestException as error:
            host = urlsplit(url).netloc
            raise EndpointError(
                f"{host} does not answer: {error}", resource=host, hint="check the network and the proxy"
            ) from error

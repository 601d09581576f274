"""Send one request to a handler or another target, as Cloud Tasks would, and return its answer."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace

import aiohttp

from cloudtasks_nb import _loop
from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.serving import served_at

__all__ = ["send"]

_BUNDLE = "REQUESTS_CA_BUNDLE"  #: variable with the file of the authorities that are trusted, as for requests
_LARGEST = 10_000_000  # bytes of an answer that are read


def send(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Answer:
    """Send a request without the name of a task, so that nothing is stored, and wait for the answer.

    Parameters
    ----------
    timeout : float
        Seconds.

    Returns
    -------
    Answer
        Of a function of this process the very answer, with its traceback; of another target what it sent. Its status
        is 0 if there was none.
    """
    began, since = time.perf_counter(), dt.datetime.now(dt.UTC)
    try:
        status, content = _loop.run(_request(method, url, headers, body, timeout))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = f"{url} did not answer: {str(error) or type(error).__name__}"
        return Answer(status=0, error=reason, message=reason, duration=time.perf_counter() - began)
    duration = time.perf_counter() - began
    handler = served_at(url)
    found = None if handler is None else handler.answer_to(body, since)
    if found is not None:
        return found
    answer = Answer(status=status, result=content, duration=duration)
    text = content.decode(errors="replace") or "the answer is empty"
    return answer if answer.ok else replace(answer, result=None, error=text, message=text)


async def _request(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> tuple[int, bytes]:
    # The service sends this name, follows no redirect, and calls a body without a type a stream of bytes.
    own = {"User-Agent": "Google-Cloud-Tasks", **headers}
    limit, tls = aiohttp.ClientTimeout(total=timeout), url.startswith("https://")
    # aiohttp's own context is made when it is imported, from the variables of that time.
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=os.environ.get(_BUNDLE)) if tls else True)
    async with (
        # A proxy of the environment cannot reach this machine, whose handlers have no TLS.
        aiohttp.ClientSession(timeout=limit, connector=connector, trust_env=tls) as session,
        session.request(method, url, data=body or None, headers=own, allow_redirects=False) as response,
    ):
        content = bytearray()
        async for part in response.content.iter_any():
            content += part
            if len(content) >= _LARGEST:
                break
        return response.status, bytes(content[:_LARGEST])

"""The bodies of HTTP: those of requests, decompressed and parsed as JSON, and those of answers and errors, as JSON.

Errors have the JSON of Google's REST APIs, also where aiohttp itself refuses a request.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web
from google.protobuf import json_format

from cloudtasks_nb._names import CODES, HTTP_CODES, code_name, code_of
from cloudtasks_nb.emulator.model.apis import POOL
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument
from cloudtasks_nb.errors import CloudTasksError

__all__ = [
    "JsonErrorRunner",
    "answer_in_json",
    "answer_json",
    "error_document",
    "error_response",
    "json_body",
    "json_response",
    "read_body",
]

_Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

# Bytes of a decompressed body: a small request may not take all memory. Only a batch of tasks is larger.
_MOST = 8 << 20
_BATCH = ":batchCreate"
_ZLIB_OR_GZIP = zlib.MAX_WBITS + 32
# Those of calls; a status stands for other codes when a target answers it.
_HTTP_STATUS = {code: status for status, code in HTTP_CODES.items()}
_HTTP_STATUS |= {"ALREADY_EXISTS": 409, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400}
_INVALID = {400, 413, 415}  # Google's canonical code for a request that can never be right
_JSON = "application/json"
_STATUS = {"NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429}


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request, decompressed.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` for an encoding other than gzip and deflate, and for a body that is not in its encoding.
    aiohttp.web.HTTPRequestEntityTooLarge
        If it is too large.
    """
    encoding = request.headers.get("Content-Encoding", "").lower()
    if encoding not in {"", "identity", "gzip", "deflate"}:
        raise invalid_argument("The Content-Encoding of a request must be gzip, deflate or identity.")
    raw = await request.read()
    if encoding in {"", "identity"} or not raw:
        return raw
    most = request.client_max_size if request.path.endswith(_BATCH) else _MOST
    return await asyncio.to_thread(_decompressed, raw, most)


async def json_body(request: web.Request) -> dict[str, Any] | None:
    """Return the body of a request, a JSON object; None if it is empty.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` for anything else.
    """
    raw = await read_body(request)
    if not raw:
        return None
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid_argument(f"Invalid JSON payload received. {error}") from error
    if not isinstance(body, dict):
        raise invalid_argument("Invalid JSON payload received. Root element must be a message.")
    return body


def _decompressed(raw: bytes, most: int) -> bytes:
    decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        body = decoder.decompress(raw, most)
    except zlib.error as error:
        raise invalid_argument(f"The body cannot be read. {error}") from error
    if decoder.unconsumed_tail:
        raise web.HTTPRequestEntityTooLarge(most, most + 1)
    if not decoder.eof or decoder.unused_data:
        raise invalid_argument("The body cannot be read. Its compressed data are cut, or something follows them.")
    return body


def answer_json(handler: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that takes query and body as one dictionary, and answers errors as JSON."""

    async def respond(request: web.Request) -> web.Response:
        try:
            return json_response(200, await handler({**request.query, **(await json_body(request) or {})}))
        except RefusedError as error:
            return json_response(_STATUS.get(str(error.code), 400), {"error": error.message})
        except (CloudTasksError, ValueError, TypeError, OverflowError, json_format.ParseError) as error:
            return json_response(400, {"error": str(error)})

    return respond


def json_response(status: int, content: dict[str, Any]) -> web.Response:
    """Return an answer with a JSON object."""
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


def error_document(error: RefusedError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status of a refusal, and the JSON that Google's REST APIs answer."""
    code = CODES[error.number]
    status = _HTTP_STATUS.get(code, 500)
    fields: dict[str, Any] = {"code": status, "message": error.message, "status": code}
    if error.details:
        fields["details"] = json_format.MessageToDict(error.status(), descriptor_pool=POOL)["details"]
    return status, {"error": fields}


def error_response(status: int, message: str) -> web.Response:
    """Return the answer to a request that HTTP itself refuses; its code is the one that belongs to the status."""
    return web.Response(status=status, body=_body(status, message), content_type=_JSON)


async def answer_in_json(request: web.Request, answer: web.StreamResponse) -> None:
    """Give an error that aiohttp has raised a body in JSON: no such path, no such method, too large a body."""
    if isinstance(answer, web.HTTPError):
        message = answer.text or answer.reason
        if isinstance(answer, web.HTTPNotFound):
            message = f"The requested URL {request.path} was not found on this server."
        elif isinstance(answer, web.HTTPMethodNotAllowed):
            allowed = ", ".join(sorted(answer.allowed_methods))
            message = f"The method {request.method} is not allowed for the URL {request.path}: it takes {allowed}."
        answer.body = body = _body(answer.status, message)
        answer.headers.update({"Content-Type": _JSON, "Content-Length": str(len(body))})


class JsonErrorRunner(web.AppRunner):
    """Runs an application whose server answers in JSON also to bytes that are no request of HTTP."""

    __slots__ = ()

    @property
    def server(self) -> Any:
        """What makes the protocol of each connection; aiohttp has no option for its class."""
        server: Any = super().server
        return server and partial(_RequestHandler, server, loop=server._loop, **server._kwargs)  # noqa: SLF001 - as it does


class _RequestHandler(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs it
        if status == HTTPStatus.INTERNAL_SERVER_ERROR or not message:
            message = "Internal error encountered."
        answer = error_response(status, " ".join(message.removesuffix("^").split()))
        answer.force_close()
        return answer


def _body(status: int, message: str) -> bytes:
    code = "INVALID_ARGUMENT" if status in _INVALID else code_name(code_of(status))
    # The message may quote a header with bytes that are not UTF-8.
    text = message.encode(errors="replace").decode()
    error = {"error": {"code": status, "message": text, "status": code}}
    return orjson.dumps(error, option=orjson.OPT_INDENT_2)

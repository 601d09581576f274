"""The answers to refused HTTP requests: JSON as Google's REST APIs have it, also where aiohttp itself refuses."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web
from google.protobuf import json_format

from cloudtasks_nb._names import CODES, HTTP_CODES, code_name, code_of
from cloudtasks_nb.emulator.model.apis import POOL
from cloudtasks_nb.emulator.model.refusal import RefusedError

__all__ = ["JsonErrorRunner", "answer_in_json", "error_document", "error_response"]

# Those of calls; a status stands for other codes when a target answers it.
_HTTP_STATUS = {code: status for status, code in HTTP_CODES.items()}
_HTTP_STATUS |= {"ALREADY_EXISTS": 409, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400}
_INVALID = {400, 413, 415}  # Google's canonical code for a request that can never be right
_JSON = "application/json"


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

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # aiohttp has no option for the class of its servers
        return server


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


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

"""The REST interface: JSON for the same RPCs, for ``transport="rest"``, curl and languages without gRPC."""

from __future__ import annotations

import json
import logging
import re
import string
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from typing import Any

import orjson
from aiohttp import web
from google.protobuf import json_format

from cloudtasks_nb._names import CLOCK_AHEAD_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from cloudtasks_nb.emulator.api.engine import Call, Engine
from cloudtasks_nb.emulator.dispatch.request import overridden
from cloudtasks_nb.emulator.frontends.bodies import error_document, json_body, read_body
from cloudtasks_nb.emulator.frontends.fields import fields_of, parse_fields, select_fields
from cloudtasks_nb.emulator.model.apis import POOL, beta, v2, well_known
from cloudtasks_nb.emulator.model.methods import Method, find_method
from cloudtasks_nb.emulator.model.refusal import RefusedError, bad_request, invalid_argument

__all__ = ["Rest", "parsed"]

_log = logging.getLogger(__name__)
# The query parameters of every REST API of Google (https://cloud.google.com/apis/docs/system-parameters).
_STANDARD = {
    "access_token",
    "alt",
    "callback",
    "fields",
    "key",
    "oauth_token",
    "prettyPrint",
    "quotaUser",
    "uploadType",
    "upload_protocol",
}
_BASE64 = f"{string.ascii_letters}{string.digits}+/-_=".encode()  # both alphabets
_BUFFER = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/]+)/tasks(?:/([^/:]+))?:buffer")


class Rest:
    """Answers REST requests.

    Parameters
    ----------
    engine : Engine
        The emulator, for `BufferTask`, which exists in REST only.
    calls : mapping
        The calls of the API by their full names.
    instance : str
        The emulator's id, a header of every answer.
    """

    def __init__(self, engine: Engine, calls: Mapping[str, Call], instance: str) -> None:
        self._engine = engine
        self._calls = calls
        immediate = "true" if engine.store.log.immediate else "false"
        self._headers = {INSTANCE_METADATA: instance, LOG_IMMEDIATE_METADATA: immediate}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        return [
            web.route("*", "/{api:v2|v2beta3}/{path:.+}", self.execute),
            # Clients that go by google/cloud/location/locations.proto, such as Google's for Node, ask here.
            web.get(r"/{api:v1}/{path:projects/[^/]+/locations(?:/[^/]+)?}", self.execute),
        ]

    async def execute(self, request: web.Request) -> web.Response:
        """Execute the call of a request, whose route gives the version as `api`, v2 if not, and the rest as `path`."""
        return await self.answer(request, self._respond)

    async def answer(self, request: web.Request, respond: Callable[[web.Request], Awaitable[Any]]) -> web.Response:
        """Answer with the JSON document that `respond` returns, or with the error that it raises."""
        try:
            return self._json(request, 200, await respond(request))
        except RefusedError as error:
            refused = error
        except json_format.ParseError as error:
            refused = invalid_argument(f"Invalid JSON payload received. {error}")
        except web.RequestPayloadError as error:
            text = " ".join(str(error).rpartition("message:")[2].split())
            refused = invalid_argument(f"The body cannot be read. {text}")
        except UnicodeEncodeError:  # a message or an answer would have a text of a header
            refused = invalid_argument("A header of the request is not UTF-8.")
        except web.HTTPException as error:  # aiohttp raises it for a body that is too large
            error.headers.update(self._headers)
            raise
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - clients expect every error as JSON
            _log.exception("%s %s", request.method, request.path)
            refused = RefusedError("INTERNAL", f"Unexpected {type(error).__name__}: {error}")
        return self._json(request, *error_document(refused))

    async def _respond(self, request: web.Request) -> Any:
        """Return the response as JSON, with the fields of it that the request asks for."""
        enums_as_numbers = _enums_as_numbers(request)
        api, path = request.match_info.get("api", "v2"), request.match_info["path"]
        mask = _system_parameter(request, "fields") or request.headers.get("X-Goog-FieldMask", "")
        if request.method == "POST" and (buffer := _BUFFER.fullmatch(path)):
            fields = parse_fields(mask, v2.CreateTaskRequest.DESCRIPTOR)
            message = await self._buffer_task(request, api, buffer[1], buffer[2])
        elif found := find_method(request.method, api, path):
            method, resource = found
            fields = parse_fields(mask, method.response.DESCRIPTOR)
            given = parsed(await _document(request, method, resource), method.request)
            message = method.response.FromString(await self._calls[method.path](given))
        else:
            raise RefusedError("NOT_FOUND", f"The requested URL {request.path} was not found on this server.")
        document = json_format.MessageToDict(message, use_integers_for_enums=enums_as_numbers, descriptor_pool=POOL)
        return select_fields(document, fields)

    async def _buffer_task(self, request: web.Request, api: str, name: str, task_id: str | None) -> Any:
        queue = self._engine.store.queue(name)
        target = queue.config.http_target
        if target is None or not target.uri_override.host:
            raise RefusedError("FAILED_PRECONDITION", "BufferTask needs a queue whose http_target overrides the host.")
        messages = v2 if api == "v2" else beta
        create = messages.CreateTaskRequest(parent=name)
        if task_id:
            create.task.name = f"{name}/tasks/{task_id}"
        create.task.http_request.url = overridden("https://buffered", target.uri_override)
        create.task.http_request.body = await read_body(request)
        if "Content-Type" in request.headers:
            create.task.http_request.headers["Content-Type"] = request.headers["Content-Type"]
        rpc = f"/google.cloud.tasks.{api}.CloudTasks/CreateTask"
        reply = await self._calls[rpc](create)
        # Google's packages have no BufferTaskResponse; CreateTaskRequest has a field of the same name and JSON.
        return messages.CreateTaskRequest(task=messages.Task.FromString(reply))

    def _json(self, request: web.Request, status: int, content: Any) -> web.Response:
        is_compact = _system_parameter(request, "prettyPrint") == "false"
        ahead = self._engine.clock.advanced
        return web.Response(
            status=status,
            body=orjson.dumps(content, option=0 if is_compact else orjson.OPT_INDENT_2),
            content_type="application/json",
            headers=self._headers | ({CLOCK_AHEAD_METADATA: str(ahead)} if ahead else {}),
        )


def _system_parameter(request: web.Request, name: str) -> str:
    """Return a parameter that every REST API of Google takes, with or without ``$`` before its name."""
    return request.query.get(f"${name}") or request.query.get(name, "")


def _enums_as_numbers(request: web.Request) -> bool:
    """Return whether the answer is to have numbers for enums; refuse other formats than JSON."""
    form, *options = _system_parameter(request, "alt").split(";")
    if form not in {"", "json"}:
        raise invalid_argument(f'The emulator answers in JSON only: leave "alt={form}" out, or send "alt=json".')
    return "enum-encoding=int" in options


async def _document(request: web.Request, method: Method, resource: str) -> dict[str, Any]:
    """Return the request message as JSON, merged from body, query and path."""
    document: dict[str, Any] = {}
    if method.body is not None and (body := await json_body(request)) is not None:
        document = body if method.body == "*" else {method.body: body}
    for key in request.query:
        if not key.startswith("$") and key not in _STANDARD:
            value, field = request.query[key], _query_field(method.request.DESCRIPTOR, key)
            if field.message_type is well_known.FieldMask.DESCRIPTOR:  # its paths may be in snake case
                value = re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), value)
            _set(document, key, value)
    if resource:
        _set(document, method.resource, resource)
    return document


def parsed(document: dict[str, Any], kind: Any) -> Any:
    """Return a request message.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT``, as Google has it, for names that the message does not have, and for bytes that are not
        base64.
    """
    values = list(_values(document, kind.DESCRIPTOR))
    wrong = [
        (path, f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for {json.dumps(value[:100])}")
        for path, _, field, value in values
        if field is not None and field.type == field.TYPE_BYTES and _is_not_base64(value)
    ]
    if wrong:
        raise _bad_request(*wrong)
    try:
        return json_format.ParseDict(document, kind())
    except json_format.ParseError as error:
        names = [
            (path, f'Unknown name "{name}"{f" at {path!r}" if path else ""}: Cannot find field.')
            for path, name, field, _ in values
            if field is None
        ]
        raise _bad_request(*names or [("", str(error))]) from error


def _values(value: Any, descriptor: Any, path: str = "") -> Iterator[tuple[str, str, Any, Any]]:
    """Yield all values in a message's JSON, each with its path, its name, and its field.

    A name that the message does not have has no field, and the path of what it stands in.
    """
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _values(item, descriptor, f"{path}[{number}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            field = fields_of(descriptor).get(name)
            if field is None:
                yield path, name, None, inner
                continue
            at = f"{path}.{field.name}".lstrip(".")
            yield at, name, field, inner
            if field.message_type is not None and not _has_json_of_its_own(field.message_type):
                yield from _values(inner, field.message_type, at)


def _is_not_base64(value: Any) -> bool:
    """Return whether a text has characters that base64 lacks, which protobuf skips."""
    return isinstance(value, str) and bool(value.encode().translate(None, _BASE64))


@cache
def _has_json_of_its_own(descriptor: Any) -> bool:
    return descriptor.GetOptions().map_entry or descriptor.full_name.startswith("google.protobuf.")


def _bad_request(*violations: tuple[str, str]) -> RefusedError:
    """Return the refusal of JSON that is no request; a violation has a path, and what is wrong there."""
    complete = [(path, f"Invalid JSON payload received. {text}") for path, text in violations]
    return bad_request("\n".join(text for _, text in complete), complete)


def _query_field(descriptor: Any, key: str) -> Any:
    """Return the field of a request message that a query parameter names."""
    field = None
    for part in key.split("."):
        field = fields_of(descriptor).get(part) if descriptor is not None else None
        if field is None:
            reason = f"Cannot bind query parameter. Field '{part}' could not be found in request message."
            raise _bad_request(("", f'Unknown name "{key}": {reason}'))
        descriptor = field.message_type
    return field


def _set(document: dict[str, Any], path: str, value: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            raise invalid_argument(f'Invalid JSON payload received. "{part}" must be a message.')
    document[last] = value

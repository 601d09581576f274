"""The bodies of HTTP requests: decompressed up to a limit, and parsed as JSON."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import orjson
from aiohttp import web

from cloudtasks_nb.emulator.model.refusal import invalid_argument

__all__ = ["json_body", "read_body"]

# Bytes of a decompressed body: a small request may not take all memory. Only a batch of tasks is larger.
_MOST = 8 << 20
_BATCH = ":batchCreate"
_ZLIB_OR_GZIP = zlib.MAX_WBITS + 32


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

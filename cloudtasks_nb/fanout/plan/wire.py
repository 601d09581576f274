"""Task messages on the wire, spliced: what is the same for all rows is serialized once, a row adds its own bytes.

Building a protobuf message a row costs more than everything else that a row needs. The layout is that of
`google.cloud.tasks.v2.Task` (https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2#task); the tests
hold the result equal to what protobuf itself writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

__all__ = ["Envelope", "header", "requests", "stamp", "tasks"]

# Tags: a field's number times eight, plus 2 for bytes that follow their length, plus 0 for a varint.
_URL, _HEADER, _BODY = b"\x0a", b"\x1a", b"\x22"  # HttpRequest 1, 3, 4
_KEY, _VALUE = b"\x0a", b"\x12"  # an entry of a map: 1, 2
_REQUEST, _SCHEDULE = b"\x1a", b"\x22"  # Task 3, 4
_SECONDS, _NANOS = b"\x08", b"\x10"  # Timestamp 1, 2

_MASK = 2**64 - 1  # negative numbers are written as their two's complement


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all tasks of a plan share."""

    method: bytes  #: the field `http_method` of HttpRequest
    token: bytes  #: the field `oidc_token` of HttpRequest
    settings: bytes  #: the fields `dispatch_deadline` and `retry_config` of Task


def _varint(number: int) -> bytes:
    number &= _MASK
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


#: Lengths of nearly all URLs and bodies, ready made.
_SMALL = tuple(_varint(number) for number in range(4_096))


def _length(number: int) -> bytes:
    return _SMALL[number] if number < len(_SMALL) else _varint(number)


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + _length(len(payload)) + payload


def header(name: str, value: str) -> bytes:
    """Return one entry of the field `headers`."""
    return _field(_HEADER, _field(_KEY, name.encode()) + _field(_VALUE, value.encode()))


def stamp(micros: int) -> bytes:
    """Return the field `schedule_time` of a point in time, in microseconds since 1970."""
    seconds, rest = divmod(micros, 1_000_000)
    payload = _SECONDS + _varint(seconds) if seconds else b""
    if rest:
        payload += _NANOS + _varint(rest * 1_000)
    return _field(_SCHEDULE, payload)


def requests(urls: Sequence[str], heads: Iterable[bytes], bodies: Sequence[bytes]) -> list[bytes]:
    """Return the HttpRequest of each row, without its token.

    Parameters
    ----------
    urls : sequence of str
    heads : iterable of bytes
        Method and headers of each row; may be endless.
    bodies : sequence of bytes
        Empty: no body.
    """
    out = []
    for url, head, body in zip(urls, heads, bodies, strict=False):
        raw = url.encode()
        part = _URL + _length(len(raw)) + raw + head
        if body:
            part += _BODY + _length(len(body)) + body
        out.append(part)
    return out


def tasks(made: Sequence[bytes], envelope: Envelope, stamps: Sequence[bytes] | bytes) -> list[bytes]:
    """Return the Task of each request; `stamps` is one `schedule_time` for all, or one a row."""
    token, settings = envelope.token, envelope.settings
    extra = len(token)
    each = repeat(stamps, len(made)) if isinstance(stamps, bytes) else stamps
    return [
        _REQUEST + _length(len(request) + extra) + request + token + due + settings
        for request, due in zip(made, each, strict=True)
    ]

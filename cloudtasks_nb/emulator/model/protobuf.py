"""Protocol buffers: functions that encode bytes where building messages costs more than the rest of a call.

Parsers merge repeated submessages and take fields in any order
(https://protobuf.dev/programming-guides/encoding/#last-one-wins), so stored bytes can be completed by appending.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudtasks_nb.emulator.model.clock import SECOND

__all__ = ["any_message", "int_field", "len_field", "read_varint", "retag", "timestamp", "varint"]

_VARINT, _FIXED64, _LENGTH = 0, 1, 2
_MORE = 0x80  # set in every byte of a varint but the last
# The numbers that take one or two bytes: nearly every length and tag is among them.
_SHORT = tuple(bytes([n]) if n < _MORE else bytes([n & 127 | _MORE, n >> 7]) for n in range(1 << 14))


def varint(number: int) -> bytes:
    """Encode a number of 0 or more."""
    if number < len(_SHORT):
        return _SHORT[number]
    out = bytearray()
    while number >= _MORE:
        out.append(number & 127 | _MORE)
        number >>= 7
    out.append(number)
    return bytes(out)


def len_field(number: int, payload: bytes) -> bytes:
    """Encode a string, bytes or submessage field."""
    return varint(number << 3 | _LENGTH) + varint(len(payload)) + payload


def int_field(number: int, value: int) -> bytes:
    """Encode a non-negative integer or enum field; nothing for zero, as proto3 does."""
    return varint(number << 3) + varint(value) if value else b""


def timestamp(instant: int) -> bytes:
    """Encode microseconds since 1970 as a `google.protobuf.Timestamp`."""
    seconds, micros = divmod(instant, SECOND)
    return int_field(1, seconds) + int_field(2, micros * 1000)


def retag(wire: bytes, numbers: Mapping[int, int]) -> bytes:
    """Renumber the top-level fields of a valid message; those without a new number are dropped."""
    fields, at = [], 0
    while at < len(wire):
        key, start = read_varint(wire, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = read_varint(wire, start)
        elif kind == _LENGTH:
            size, at = read_varint(wire, start)
            at += size
        else:
            at = start + (8 if kind == _FIXED64 else 4)
        if number in numbers:
            fields.append(varint(numbers[number] << 3 | kind) + wire[start:at])
    return b"".join(fields)


def read_varint(wire: bytes, at: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = wire[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < _MORE:
            return value, at
        shift += 7


def any_message(name: str, value: bytes) -> bytes:
    """Encode a `google.protobuf.Any` that holds the message with the full name `name`."""
    return len_field(1, f"type.googleapis.com/{name}".encode()) + len_field(2, value)

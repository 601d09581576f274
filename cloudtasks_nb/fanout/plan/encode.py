"""The only JSON encoder: convert values of any pandas dtype to JSON types.

What has no form of its own in JSON is written like this:

=========================  ====================================================================================
missing (NaN, NA, NaT)     ``null``
float column of integers   integers, if it is a missing value that made the column float
Timestamp, datetime        ISO 8601; with its offset if it has a zone, else without
date, time                 ISO 8601
Timedelta                  ISO 8601 duration: ``"P0DT0H10M0S"``
Decimal                    text, so that no digit is lost: ``"1.10"``
category                   its value
Interval                   ``{"left": 0, "right": 1, "closed": "right"}``
Period, UUID               text
array, tuple, Series       list
bytes, set, infinity       refused: `NotSerializableError`
=========================  ====================================================================================
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import orjson
import pandas as pd

from cloudtasks_nb.errors import NotSerializableError

__all__ = ["json_text", "plain", "to_json"]


def to_json(value: Any) -> bytes:
    """Return a value as JSON.

    Raises
    ------
    NotSerializableError
        If the value, or one inside it, has no form in JSON.
    """
    try:
        return orjson.dumps(plain(value))
    except (RecursionError, orjson.JSONEncodeError) as error:  # holds itself, or has over 254 levels
        raise NotSerializableError(
            f"{type(value).__name__} is nested too deeply for JSON",
            hint="a value in it holds itself, or has over 254 levels: send its parts under names of their own",
        ) from error


def json_text(value: Any) -> str:
    """Return a JSON-able value as it stands in a URL or inside a text: as in JSON, but text without its quotes."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@singledispatch
def plain(value: Any) -> Any:
    """Return a value with everything in it converted to JSON types.

    Raises
    ------
    NotSerializableError
        If the value, or one inside it, has no form in JSON.
    """
    raise _refusal(value, "convert it first, to text or to numbers")


def _refusal(value: object, hint: str) -> NotSerializableError:
    name = type(value).__name__
    return NotSerializableError(f"{name} cannot be written as JSON", resource=name, hint=hint)


@plain.register(type(None))
@plain.register(type(pd.NA))
@plain.register(type(pd.NaT))
def _(_value: object) -> None:
    return None


@plain.register(bool)
def _(value: bool) -> bool:  # noqa: FBT001 - singledispatch passes the value alone
    return value


@plain.register
def _(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise NotSerializableError(
                "text with half a surrogate pair cannot be written as JSON",
                hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
            ) from error
    return str.__str__(value)  # an enum that is text has another idea of str()


@plain.register
def _(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return int(value)
    try:
        return orjson.Fragment(int.__repr__(value))  # orjson writes integers of up to 64 bits
    except ValueError as error:
        raise NotSerializableError(
            "an integer of more than 4,300 digits cannot be written as JSON",
            resource="int",
            hint="send it as hex(value)",
        ) from error


@plain.register
def _(value: float) -> float | None:
    if math.isinf(value):
        raise NotSerializableError(
            "infinity cannot be written as JSON", resource="float", hint="replace it: df.replace([inf, -inf], None)"
        )
    return None if math.isnan(value) else float(value)


@plain.register
def _(value: decimal.Decimal) -> str | None:
    if value.is_infinite():
        raise NotSerializableError("infinity cannot be written as JSON", resource="Decimal", hint="replace it")
    return None if value.is_nan() else str(value)


@plain.register(np.generic)
def _(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return plain(pd.Timestamp(value))
    if isinstance(value, np.timedelta64):
        return plain(pd.Timedelta(value))
    found = value.item()
    if isinstance(found, np.generic):  # long double: numpy has no Python type for it
        return plain(float(value)) if isinstance(value, np.floating) else plain.dispatch(object)(value)
    return plain(found)


@plain.register(dt.date)
@plain.register(dt.time)
def _(value: dt.date | dt.time) -> str:
    return value.isoformat()


@plain.register
def _(value: dt.timedelta) -> str:
    return pd.Timedelta(value).isoformat()


@plain.register(uuid.UUID)
@plain.register(pd.Period)
def _(value: object) -> str:
    return str(value)


@plain.register(pd.Interval)
def _(value: Any) -> dict[str, Any]:
    return {"left": plain(value.left), "right": plain(value.right), "closed": value.closed}


@plain.register
def _(value: enum.Enum) -> Any:
    return plain(value.value)


@plain.register(list)
@plain.register(tuple)
@plain.register(pd.Series)
@plain.register(pd.Index)
def _(value: Any) -> list[Any]:
    return [plain(item) for item in value]


@plain.register(np.ndarray)
def _(value: Any) -> Any:
    return [plain(item) for item in value] if value.ndim else plain(value[()])


@plain.register(Mapping)
def _(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {json_text(plain(key)): plain(item) for key, item in value.items()}


@plain.register(set)
@plain.register(frozenset)
def _(value: object) -> Any:
    raise _refusal(value, "sets have no order: send sorted(value)")


@plain.register(bytes)
@plain.register(bytearray)
@plain.register(memoryview)
def _(value: object) -> Any:
    raise _refusal(value, "send text: base64.b64encode(value).decode()")

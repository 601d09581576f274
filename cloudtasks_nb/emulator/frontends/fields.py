"""Partial responses: the fields of an answer that a REST request asks for.

Each REST API of Google takes the parameter ``fields``, or the header ``X-Goog-FieldMask``:
https://cloud.google.com/apis/docs/system-parameters
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from cloudtasks_nb.emulator.model.refusal import RefusedError, bad_request

__all__ = ["FieldPath", "fields_of", "parse_fields", "select_fields"]

#: The JSON names of a field and of those that it is in, the outermost first; ``*`` stands for all fields.
FieldPath = tuple[str, ...]

_TOKEN = re.compile(r"[\w*]+|[(),./]")
_ALL = "*"
_DEEPEST = 50  # names in a path
# What these hold has no fields that a message declares.
_OPEN = {"google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.Value"}


@cache
def fields_of(descriptor: Any) -> dict[str, Any]:
    """Return the fields of a message by their names, in camel case and in snake case."""
    return {name: field for field in descriptor.fields for name in (field.name, field.json_name)}


def parse_fields(mask: str, descriptor: Any) -> list[FieldPath]:
    """Return the fields that a mask selects; none, which stands for all, for an empty mask.

    Parameters
    ----------
    mask : str
        Paths with commas between them: ``name,rateLimits/maxBurstSize,tasks(name,httpRequest.url)``. Names may be in
        camel case or snake case; ``*`` stands for all fields.
    descriptor : Descriptor
        The type of the answer.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if the mask is malformed, or names a field that the answer does not have.
    """
    tokens = _TOKEN.findall(mask)[::-1]  # the next one is the last
    if "".join(tokens[::-1]) != "".join(mask.split()):
        raise _refused(mask, "The parameter has characters that no path has.")
    paths = list(_paths(mask, tokens, ())) if mask else []
    if tokens:
        raise _refused(mask, f"'{tokens[-1]}' is not expected here.")
    return [_checked(mask, path, descriptor) for path in paths]


def select_fields(value: Any, paths: list[FieldPath]) -> Any:
    """Return the selected part of an answer's JSON, of a list that of each item; without paths all of it."""
    if isinstance(value, list):
        return [select_fields(item, paths) for item in value]
    if not paths or () in paths or not isinstance(value, dict):
        return value
    below = {name: [path[1:] for path in paths if path[0] in {name, _ALL}] for name in value}
    return {name: select_fields(value[name], inner) for name, inner in below.items() if inner}


def _paths(mask: str, tokens: list[str], parents: FieldPath) -> Iterator[FieldPath]:
    """Read paths with commas between them."""
    more = True
    while more:
        path = (*parents, _name(mask, tokens))
        while _takes(tokens, "/") or _takes(tokens, "."):
            path = (*path, _name(mask, tokens))
        if len(path) > _DEEPEST:
            raise _refused(mask, "A path is too long.")
        if not _takes(tokens, "("):
            yield path
        else:
            yield from _paths(mask, tokens, path)
            if not _takes(tokens, ")"):
                raise _refused(mask, "A parenthesis is not closed.")
        more = _takes(tokens, ",")


def _name(mask: str, tokens: list[str]) -> str:
    name = tokens.pop() if tokens else ""
    if not re.fullmatch(r"\w+|\*", name):
        raise _refused(mask, f"'{name}' stands where a path is expected.")
    return name


def _takes(tokens: list[str], token: str) -> bool:
    if tokens[-1:] != [token]:
        return False
    tokens.pop()
    return True


def _checked(mask: str, path: FieldPath, descriptor: Any) -> FieldPath:
    """Return the JSON names of a path whose fields are all there."""
    known: dict[str, Any] | None = fields_of(descriptor)  # None: anything can be there
    names = []
    for depth, name in enumerate(path, 1):
        if known is None or name == _ALL:
            names.append(name)
            known = None
            continue
        if name not in known:
            raise _refused(mask, f"Cannot find matching fields for path '{'.'.join(path[:depth])}'.")
        names.append(known[name].json_name)
        below = known[name].message_type
        is_open = below is not None and (below.full_name in _OPEN or below.GetOptions().map_entry)
        known = None if is_open else fields_of(below) if below is not None else {}
    return tuple(names)


def _refused(mask: str, reason: str) -> RefusedError:
    violation = (mask, f"Error expanding 'fields' parameter. {reason}")
    return bad_request("Request contains an invalid argument.", [violation])

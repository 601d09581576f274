"""Partial responses: the fields of an answer that a REST request asks for.

Each REST API of Google takes the parameter ``fields``, or the header ``X-Goog-FieldMask``:
https://cloud.google.com/apis/docs/system-parameters
"""

from __future__ import annotations

import re
from typing import Any

from cloudtasks_nb.emulator.model.apis import google_rpc
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument

__all__ = ["Fields", "parse_fields", "select_fields"]

#: The selected fields by their JSON names, each with those selected below it; empty stands for all.
Fields = dict[str, "Fields"]

_TOKEN = re.compile(r"[\w*]+|[(),./]")
_ALL = "*"
_DEEPEST = 50  # names in a path
# What these hold has no fields that a message declares.
_OPEN = {"google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.Value"}


def parse_fields(mask: str, descriptor: Any) -> Fields:
    """Return the fields that a mask selects.

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
    tokens = _TOKEN.findall(mask)
    if "".join(tokens) != "".join(mask.split()):
        raise _refused(mask, "The parameter has characters that no path has.")
    parser = _Parser(mask, tokens)
    selected = parser.list_of(descriptor, ())
    if parser.tokens:
        raise _refused(mask, f"'{parser.tokens[-1]}' is not expected here.")
    return selected


def select_fields(value: Any, fields: Fields) -> Any:
    """Return the selected part of an answer's JSON; of a list, the selected part of each item."""
    if isinstance(value, list):
        return [select_fields(item, fields) for item in value]
    if not fields or fields.get(_ALL) == {} or not isinstance(value, dict):
        return value
    below = {name: fields.get(name, fields.get(_ALL)) for name in value}
    return {name: select_fields(value[name], found) for name, found in below.items() if found is not None}


class _Parser:
    def __init__(self, mask: str, tokens: list[str]) -> None:
        self.mask = mask
        self.tokens = tokens[::-1]  # the next one is the last

    def list_of(self, descriptor: Any, parents: tuple[str, ...]) -> Fields:
        """Read paths with commas between them."""
        selected: Fields = {}
        while True:
            _merge(selected, self._path(descriptor, parents))
            if not self._takes(","):
                return selected

    def _path(self, descriptor: Any, parents: tuple[str, ...]) -> Fields:
        name = self.tokens.pop() if self.tokens else ""
        if not re.fullmatch(r"\w+|\*", name):
            raise _refused(self.mask, f"'{name}' stands where a path is expected.")
        if len(parents) == _DEEPEST:
            raise _refused(self.mask, "A path is too long.")
        path = (*parents, name)
        name, below = self._field(descriptor, path)
        if self._takes("/") or self._takes("."):
            return {name: self._path(below, path)}
        if not self._takes("("):
            return {name: {}}
        selected = self.list_of(below, path)
        if not self._takes(")"):
            raise _refused(self.mask, "A parenthesis is not closed.")
        return {name: selected}

    def _field(self, descriptor: Any, path: tuple[str, ...]) -> tuple[str, Any]:
        """Return the JSON name of the field at a path, and the type of what it holds; None if anything can be in it."""
        name = path[-1]
        if descriptor is None or name == _ALL:
            return name, None
        for field in descriptor.fields:
            if name in {field.name, field.json_name}:
                below = field.message_type
                is_open = below is not None and (below.full_name in _OPEN or below.GetOptions().map_entry)
                return field.json_name, None if is_open else below or _NO_FIELDS
        raise _refused(self.mask, f"Cannot find matching fields for path '{'.'.join(path)}'.")

    def _takes(self, token: str) -> bool:
        if self.tokens[-1:] != [token]:
            return False
        self.tokens.pop()
        return True


class _NoFields:
    """The type of a value that is no message."""

    fields = ()


_NO_FIELDS = _NoFields()


def _merge(selected: Fields, more: Fields) -> None:
    """Add fields to those selected; a field that is selected as a whole stays so."""
    for name, below in more.items():
        if not below:
            selected[name] = {}
        elif name not in selected:
            selected[name] = below
        elif selected[name]:
            _merge(selected[name], below)


def _refused(mask: str, reason: str) -> RefusedError:
    violation = google_rpc.BadRequest.FieldViolation(
        field=mask, description=f"Error expanding 'fields' parameter. {reason}"
    )
    return invalid_argument(
        "Request contains an invalid argument.", [google_rpc.BadRequest(field_violations=[violation])]
    )

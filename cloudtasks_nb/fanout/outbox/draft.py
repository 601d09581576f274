"""A fan-out on its way into the outbox: what was asked for, and the rows that were planned so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.plan.identity import Place

__all__ = ["INCOMING", "Draft", "Refs", "Seen", "Target"]

#: Temporary tables, on the spool's own connection, for the rows that were planned. `digest` is 0 for a row that is no
#: valid task.
INCOMING = (
    """CREATE TEMP TABLE incoming (
        ref INTEGER PRIMARY KEY, row INTEGER, k1 INTEGER, k2 INTEGER, digest INTEGER, state INTEGER)""",
    "CREATE TEMP TABLE reasons (ref INTEGER PRIMARY KEY, reason TEXT)",
    "CREATE TEMP TABLE known (ref INTEGER PRIMARY KEY, theirs INTEGER)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is asked for, besides the rows."""

    place: Place
    name: str | None
    recipe: bytes  #: what the requests are made of, digested: templates, key, options
    description: Mapping[str, Any]
    skip: bool  #: leave duplicates out instead of raising


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The batch that a name or the rows lead to."""

    num: int
    id: str
    label: str  #: how to say it: by its name, if it has one


class Refs:
    """A set of references to rows, a bit each: a batch may have ten million."""

    def __init__(self) -> None:
        self._parts: dict[int, bytearray] = {}

    def add(self, ref: int) -> None:
        """Put one in."""
        byte, bit = divmod(ref & 0xFFFFFFFF, 8)
        bits = self._parts.setdefault(ref >> 32, bytearray())
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits) + len(bits) // 8))
        bits[byte] |= 1 << bit

    def has(self, ref: int) -> bool:
        """Tell whether one is in."""
        byte, bit = divmod(ref & 0xFFFFFFFF, 8)
        bits = self._parts.get(ref >> 32, b"")
        return byte < len(bits) and bool(bits[byte] >> bit & 1)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was met while the rows were spooled."""

    part: int
    rows: int = 0  #: planned
    total: int = 0  #: `row_sum` of those that are in `incoming`
    target: Target | None = None  #: against which known rows were left out already
    known: int = 0  #: so many
    met: Refs = field(default_factory=Refs)  #: rows of the target that these are
    left: dict[State, int] = field(default_factory=dict)  #: in these states
    conflicts: list[int] = field(default_factory=list)  #: first rows whose key is known with another request
    conflicting: int = 0

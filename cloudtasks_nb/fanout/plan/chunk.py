"""What flows from the plan to the outbox: a slice of rendered rows, or of a dry run what it asks, and the answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Asked", "Chunk", "Forecast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Up to 100 rows of the input, rendered; all sequences have one item a row, in input order."""

    rows: Sequence[int]  #: position of each row in the whole input
    keys: Sequence[bytes]  #: 16 bytes that identify the row in its batch (what ``key=`` names, digested)
    digests: Sequence[bytes]  #: 16 bytes over method, url, headers and body: equal ones send the same request
    tasks: Sequence[bytes]  #: `google.cloud.tasks.v2.Task` on the wire, without its name; empty for a rejected row
    shown: bytes  #: the columns of the input that `batch.tasks()` shows, encoded by `_plan`; opaque elsewhere
    rejected: Mapping[int, str] = field(default_factory=dict)  #: index in this chunk -> why the row is no task


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All rows of a dry run that can be tasks, in input order."""

    rows: Sequence[int]  #: position of each in the whole input
    read: int  #: how many rows that has
    keys: bytes  #: 16 a row
    digests: bytes  #: the first 8 of each row's, in the machine's own order of bytes
    again: Collection[int]  #: which of them have the key of an earlier one
    shown: int  #: so many, the first ones, are told one by one
    total: int | None  #: `row_sum` of all rows that would be sent; None: their plan alone forbids it


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would become of them."""

    tasks: Sequence[str | None]  #: ids, of those that are shown; None: it cannot be known, or there would be none
    known: Mapping[str, int] = field(default_factory=dict)  #: where or in which state -> how many are there already
    problems: Mapping[int, str] = field(default_factory=dict)  #: which of those that are shown are in the way, and why
    left_out: int = 0  #: how many would not be sent
    refusal: str = ""  #: why none would be, as the error says it; empty: they would

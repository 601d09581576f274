"""What the plan gives to the outbox, rendered rows, and what a dry run gets back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Chunk", "Forecast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Up to 2,000 rows of a frame of the input, rendered; all sequences have one item a row, in input order."""

    rows: Sequence[int]  #: position of each row in the whole input
    keys: Sequence[bytes]  #: 16 bytes that identify the row in its batch (what ``key=`` names, digested)
    #: 16 bytes over method, url, headers and body, of which 8 count: equal ones send the same request; zeros for a
    #: rejected row
    digests: Sequence[bytes]
    #: `google.cloud.tasks.v2.Task` on the wire, without its name; empty for a row that is rejected, or of another home
    tasks: Sequence[bytes]
    shown: bytes  #: the columns of the input that `batch.tasks()` shows, encoded by `Preview`; opaque elsewhere
    labels: bytes = b""  #: those of the index, encoded by `Preview`; opaque elsewhere, empty if they are not known
    rejected: Mapping[int, str] = field(default_factory=dict)  #: index in this chunk -> why the row is no task


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What spooling the rows of a dry run would do; sequences and indexes are about the first rows of the input."""

    tasks: Sequence[str | None]  #: ids; None: it cannot be known, or there would be none
    problems: Mapping[int, str]  #: why a row would not be sent
    sendable: int  #: how many of all rows would be sent
    duplicates: int  #: how many of all rows have the key of an earlier row
    states: Sequence[str] = ()  #: "new", or the state of the row that the batch has
    known: Mapping[str, int] = field(default_factory=dict)  #: where or in which state -> how many are there already
    new: str | None = None  #: id of the batch, if this home does not have it
    refusal: str = ""  #: text of the error for which no row would be sent; empty: they would be sent

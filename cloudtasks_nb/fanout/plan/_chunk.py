"""What flows from the plan to the outbox: a slice of rendered rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Chunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Up to 100 rows of the input, rendered; all sequences have one item a row, in input order."""

    rows: Sequence[int]  #: position of each row in the whole input
    keys: Sequence[bytes]  #: 16 bytes that identify the row in its batch (what ``key=`` names, digested)
    digests: Sequence[bytes]  #: 16 bytes over method, url, headers and body: equal ones send the same request
    tasks: Sequence[bytes]  #: `google.cloud.tasks.v2.Task` on the wire, without its name; empty for a rejected row
    shown: bytes  #: the columns of the input that `batch.tasks()` shows, encoded by `_plan`; opaque elsewhere
    rejected: Mapping[int, str] = field(default_factory=dict)  #: index in this chunk -> why the row is no task

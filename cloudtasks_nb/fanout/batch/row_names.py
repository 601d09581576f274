"""Name rows of batches by the values of their key, body and URL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cloudtasks_nb._frames import is_missing
from cloudtasks_nb.display.secrets import MASK, is_secret, mask_text
from cloudtasks_nb.fanout.batch.table import ReadRows, places
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope
from cloudtasks_nb.fanout.plan.identity import batch_of

__all__ = ["RowName", "row_names", "row_texts"]

_LONGEST = 200  # characters of a value


@dataclass(frozen=True, slots=True, kw_only=True)
class RowName:
    """The row of a batch, as people recognise it."""

    batch: str  #: its name, else its id
    text: str  #: ``order_id=4711 · day=2013-01-01``; without secrets


def row_names(outbox: Outbox, tasks: Iterable[str]) -> dict[str, RowName]:
    """Return the rows that tasks belong to, by task id; tasks of no batch of this outbox are left out."""
    found: dict[str, RowName] = {}
    for batch, group in groupby(sorted(tasks, key=_batch), _batch):
        ids = list(group)
        for record in outbox.batches.find(batch=batch):
            refs = outbox.rows.locate(batch, ids, any_try=True)
            texts = row_texts(outbox, record, record.whole, set(refs.values()))
            name = record.name or record.id
            for task, ref in refs.items():
                position, text = texts[ref]
                found[task] = RowName(batch=name, text=text or f"row={position}")
    return found


def _batch(task: str) -> str:
    return batch_of(task) or ""


def row_texts(
    outbox: Outbox, record: BatchRecord, rows: Scope, refs: Collection[int], most: int | None = None
) -> dict[int, tuple[int, str]]:
    """Return the positions of rows of a batch in the input of `rows`, and their values, by their refs.

    The columns of the key come first, or the label of the period, then those of body, URL and headers; `most` is how
    many there are at most. The text of a row without columns is empty.
    """
    read = ReadRows(outbox.rows.pages_of(record.id, refs))
    values = read.stored.columns()
    key: Any = record.description.get("key")
    if "backfill" in record.description and "partition" in values:
        key = ["partition"]
        values = values.drop(columns=["start", "end"], errors="ignore")  # the label of the period says both
    first = [name for name in (key if isinstance(key, list) else ()) if name in values]
    names = list(dict.fromkeys([*first, *values.columns]))[:most]
    cells = values[names].to_numpy(dtype=object)
    texts = (" · ".join(filter(None, map(_pair, names, row))) for row in cells)
    found = places(outbox.rows, rows, read.refs, read.positions)
    return dict(zip(read.refs, zip(found, texts, strict=True), strict=True))


def _pair(name: str, value: Any) -> str:
    """Return a field as ``name=value``; empty if the value is missing."""
    if is_missing(value):
        return ""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        value = value.date()
    return f"{name}={MASK if is_secret(name) else mask_text(str(value))[:_LONGEST]}"

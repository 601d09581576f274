"""A batch as bytes that another outbox can read: its record, and its rows in blocks."""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
import zlib
from collections.abc import Collection, Iterator
from hashlib import blake2b
from itertools import accumulate, pairwise

import orjson

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.blocks import StoredBlock, inflate
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchRecord
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.plan.preview import shown_rows
from cloudtasks_nb.fanout.states import State

__all__ = ["alike_digest", "block_keys", "pack_blocks", "pack_record", "shared_spec", "unpack_block", "unpack_record"]

_FORMAT = 1
_WORD = 4
_ID = re.compile("[0-9a-f]{8}")
# What the bytes of another home raise if they are damaged.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, sqlite3.Error, zlib.error)


def pack_record(record: BatchRecord, earlier: BatchRecord | None = None) -> bytes:
    """Return the record of a batch as bytes.

    Parameters
    ----------
    earlier : BatchRecord, optional
        The record that another home has written: it says who made the batch, and when.
    """
    first = earlier or record
    return orjson.dumps(
        {
            "format": _FORMAT,
            "id": record.id,
            "identity": record.identity.hex(),
            "place": record.place,
            "name": record.name,
            "recipe": record.recipe.hex(),
            "description": {name: value for name, value in first.description.items() if name != IMPORTED},
            "created": first.created.timestamp(),
            "rows": record.total,
        }
    )


def unpack_record(data: bytes) -> BatchRecord:
    """Read what `pack_record` returned in another home, as the record of a batch of which nothing is known here.

    Raises
    ------
    OutboxError
        If it is damaged, or was written by a newer version.
    """
    try:
        found = orjson.loads(data)
        if found["format"] > _FORMAT:
            raise OutboxError(
                f"the batch {found['id']} was stored by a newer cloudtasks_nb", hint="pip install -U cloudtasks-nb"
            )
        if _ID.fullmatch(found["id"]) is None:  # it becomes part of paths and of filters of the log
            raise ValueError(f"{found['id']!r} is not the id of a batch")
        created = dt.datetime.fromtimestamp(found["created"], dt.UTC)
        return BatchRecord(
            id=found["id"],
            identity=bytes.fromhex(found["identity"]),
            place=Place(**found["place"]),
            name=found["name"],
            recipe=bytes.fromhex(found["recipe"]),
            description={**found["description"], IMPORTED: True},
            created=created,
            changed=created,
            counts={State.UNSENT: int(found["rows"])},
            round=1,
        )
    except _DAMAGE as error:
        raise OutboxError(f"the stored record of a batch is damaged: {error!r}") from error


def shared_spec(record: BatchRecord) -> BatchSpec:
    """Return the request for a batch that another home has made, by the record from there."""
    return BatchSpec(
        place=record.place,
        recipe=record.recipe,
        name=record.name,
        description=record.description,
        skip=True,
        origin=record,
    )


def pack_blocks(rows: Rows, batch: str, known: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each block of a batch, without those that are known, in input order.

    A block has the same name in every outbox; names sort as the rows of the input.
    """
    for block, found in rows.blocks(batch):
        name = f"{found[0][1] if found else 0:09d}-{blake2b(block.packed_keys, digest_size=8).hexdigest()}"
        if not found or name in known:
            continue
        parts, digests = (block.packed_keys, block.packed_tasks, block.packed_shown), rows.digests(batch, block)
        head = {
            # Index in the block, position in the input, digest, and why the row was never a task.
            "rows": [
                (ref - block.first, row, digests.get(ref, 0) if attempt else 0, None if attempt else reason or "")
                for ref, row, attempt, *_, reason in found
            ],
            "lengths": list(map(len, parts)),
        }
        packed = zlib.compress(orjson.dumps(head), 1)
        yield name, b"".join((len(packed).to_bytes(_WORD, "big"), packed, *parts))


def alike_digest(place: Place, recipe: bytes) -> str:
    """Return the name under which batches without a name are indexed: of one place and one recipe."""
    return blake2b(orjson.dumps(place) + recipe, digest_size=16).hexdigest()


def block_keys(data: bytes) -> bytes:
    """Return the keys of the rows of a block, one behind the other.

    Raises
    ------
    OutboxError
        If it is damaged.
    """
    try:
        at = _WORD + int.from_bytes(data[:_WORD], "big")
        block = StoredBlock(0, data[at : at + orjson.loads(inflate(data[_WORD:at]))["lengths"][0]])
        return block.keys(range(block.n))
    except _DAMAGE as error:
        raise OutboxError(f"stored rows of a batch are damaged: {error!r}") from error


def unpack_block(data: bytes) -> Chunk:
    """Return the rows of a block that `pack_blocks` returned, to be spooled.

    Raises
    ------
    OutboxError
        If it is damaged.
    """
    try:
        at = _WORD + int.from_bytes(data[:_WORD], "big")
        head = orjson.loads(inflate(data[_WORD:at]))
        parts = [data[at + start : at + end] for start, end in pairwise([0, *accumulate(head["lengths"])])]
        block = StoredBlock(0, *parts)
        found = {index: rest for index, *rest in head["rows"]}
        places = sorted(found)
        return Chunk(
            rows=[found[place][0] for place in places],
            keys=[block.key(place) for place in places],
            digests=[found[place][1].to_bytes(8, "big", signed=True) + bytes(8) for place in places],
            tasks=block.tasks(places),
            shown=block.shown if len(places) == block.n else shown_rows(block.shown, places),
            rejected={n: found[place][2] for n, place in enumerate(places) if found[place][2] is not None},
        )
    except _DAMAGE as error:
        raise OutboxError(f"stored rows of a batch are damaged: {error!r}") from error

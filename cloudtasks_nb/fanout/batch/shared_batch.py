"""A batch as bytes that another outbox can read: its record, and its rows in blocks."""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
import zlib
from collections.abc import Collection, Iterator
from hashlib import blake2b
from itertools import accumulate, islice, pairwise

import orjson

from cloudtasks_nb.errors import InvalidInputError, OutboxError
from cloudtasks_nb.fanout.outbox.blocks import StoredBlock, inflate
from cloudtasks_nb.fanout.outbox.facts import LastingOptions, facts_from
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchRecord
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.foreign import foreign_reader
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, Place, batch_ids, named_identity
from cloudtasks_nb.fanout.plan.preview import shown_rows
from cloudtasks_nb.fanout.states import State

__all__ = ["alike_digest", "block_keys", "pack_blocks", "pack_record", "shared_spec", "unpack_block", "unpack_record"]

_FORMAT = 1
_WORD = 4
_ID = re.compile("[0-9a-f]{8}")
_FAR = 1 << 62  # more than any position in an input
_LONGEST = 100  # characters of who says to have made rows
_IDS = 100  # ids that a batch may have, if others had the first ones
# What the bytes of another home raise if they are damaged.
_DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError),
    *(sqlite3.Error, zlib.error),
)


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
            "options": first.facts.options,
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
        place, name, identity = Place(**found["place"]), found["name"], bytes.fromhex(found["identity"])
        known = name is None or identity == named_identity(place, name)
        given = found["id"] if identity == named_identity(place, found["id"]) else None  # the name was an id
        if not known or found["id"] not in islice(batch_ids(identity, given), _IDS):
            raise ValueError("its id is not that of its name and place")
        options = {name: found["options"].get(name) for name in LastingOptions.__annotations__}
        return BatchRecord(
            id=found["id"],
            identity=identity,
            place=place,
            name=name,
            recipe=bytes.fromhex(found["recipe"]),
            description={**found["description"], IMPORTED: True},
            created=created,
            changed=created,
            counts={State.UNSENT: int(found["rows"])},
            round=1,
            facts=facts_from({"options": options}),
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
        facts=record.facts,
        skip=True,
        origin=record,
    )


def pack_blocks(rows: Rows, batch: str, known: Collection[str] = (), maker: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each block of a batch, without those that are known, in input order.

    A block has the same name in every outbox; names sort as the rows of the input. `maker` is who has rendered it:
    rows of others that nobody trusts are left out.
    """
    for block, found in rows.blocks(batch, 0, "maker IS NULL"):
        name = f"{found[0][1] if found else 0:09d}-{blake2b(block.packed_keys, digest_size=8).hexdigest()}"
        if not found or name in known:
            continue
        parts = (block.packed_keys, block.packed_tasks, block.packed_shown)
        head = {
            # Index in the block, position in the input, and why the row was never a task.
            "rows": [
                (ref - block.first, row, None if attempt else reason or "") for ref, row, attempt, *_, reason in found
            ],
            "lengths": list(map(len, parts)),
            "maker": maker,
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


def unpack_block(data: bytes, record: BatchRecord) -> Chunk:
    """Return the rows of a block that `pack_blocks` returned, to be spooled.

    Whoever can write to the store can have made it. So a row is identified by what is computed from its task; only the
    key of a row that was given by ``key=`` is taken as it is stored.

    Parameters
    ----------
    record : BatchRecord
        Of the batch, from the same store.

    Raises
    ------
    OutboxError
        If it is damaged, or a task has what this package does not write.
    """
    try:
        at = _WORD + int.from_bytes(data[:_WORD], "big")
        head = orjson.loads(inflate(data[_WORD:at]))
        parts = [data[at + start : at + end] for start, end in pairwise([0, *accumulate(head["lengths"])])]
        block = StoredBlock(0, *parts)
        found = {index: rest for index, *rest in head["rows"]}
        places = sorted(found)
        if not all(0 <= place < block.n and 0 <= found[place][0] < _FAR for place in places):
            raise ValueError("a row is at no place of its block, or of the input")
        keys, rejected = [block.key(place) for place in places], [found[place][1] for place in places]
        read, keyed = foreign_reader(record.description), record.description.get("key")
        tasks, digests = list[bytes](), list[bytes]()
        for index, (wire, reason) in enumerate(zip(block.tasks(places), rejected, strict=True)):
            task, digest = read(wire) if reason is None else (b"", bytes(KEY_SIZE))
            tasks.append(task)
            digests.append(digest)
            if reason is None and not keyed:
                keys[index] = digest
        return Chunk(
            rows=[found[place][0] for place in places],
            keys=keys,
            digests=digests,
            tasks=tasks,
            shown=block.shown if len(places) == block.n else shown_rows(block.shown, places),
            rejected={index: str(reason) for index, reason in enumerate(rejected) if reason is not None},
            maker=str(head["maker"])[:_LONGEST],
        )
    except InvalidInputError as error:
        raise OutboxError(f"the stored record of batch {record.id} is damaged: {error.message}") from error
    except _DAMAGE as error:
        why = f"{type(error).__name__}: {error}"
        raise OutboxError(f"stored rows of batch {record.id} are damaged or forged: {why}") from error

"""Write a batch as bytes that another outbox can read: its record, and its rows in blocks."""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, pairwise
from struct import unpack
from typing import Any

import orjson

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.blocks import StoredBlock, inflate, unpack_previews
from cloudtasks_nb.fanout.outbox.database import Repository, reading
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec, Origin
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchRecord, State
from cloudtasks_nb.fanout.outbox.tallies import as_json, number, number_of, ranges
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.plan.preview import shown_rows

__all__ = ["SharedRecord", "Transfers", "read_block"]

_FORMAT = 1
_WORD = 4
_ID = re.compile("[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRecord:
    """The record of a batch, as another home wrote it."""

    spec: BatchSpec  #: with its origin
    origin: Origin
    rows: int  #: when it was written

    @property
    def record(self) -> BatchRecord:
        """The record as that of a batch of which nothing is known here."""
        created = dt.datetime.fromtimestamp(self.origin.created, dt.UTC)
        return BatchRecord(
            id=self.origin.id,
            place=self.spec.place,
            name=self.spec.name,
            description=self.spec.description,
            created=created,
            changed=created,
            counts={State.UNSENT: self.rows},
            round=1,
            snapshot_at=None,
        )

    @classmethod
    def read(cls, data: bytes) -> SharedRecord:
        """Read what `Transfers.record` returned.

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
            origin = _origin(found)
            spec = BatchSpec(
                place=Place(**found["place"]),
                recipe=bytes.fromhex(found["recipe"]),
                name=found["name"],
                description={**found["description"], IMPORTED: True},
                skip=True,
                origin=origin,
            )
            return cls(spec=spec, origin=origin, rows=int(found["rows"]))
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise OutboxError(f"the stored record of a batch is damaged: {error!r}") from error


class Transfers(Repository):
    """The batches of an outbox as bytes."""

    @reading
    def record(self, connection: sqlite3.Connection, batch: str, earlier: SharedRecord | None = None) -> bytes:
        """Return the record of a batch.

        Parameters
        ----------
        earlier : SharedRecord, optional
            The record that another home has written: it says who made the batch, and when.
        """
        identity, *place, name, recipe, description, created, rows = connection.execute(
            """SELECT identity, endpoint, project, location, queue, name, recipe, description, created,
               (SELECT total(n) FROM parts p JOIN tallies USING (part) WHERE p.num = b.num)
               FROM batches b WHERE num = ?""",
            (number_of(connection, batch),),
        ).fetchone()
        described = orjson.loads(description) if earlier is None else dict(earlier.spec.description)
        described.pop(IMPORTED, None)
        return orjson.dumps(
            {
                "format": _FORMAT,
                "id": batch,
                "identity": identity.hex(),
                "place": dict(zip(("endpoint", "project", "location", "queue"), place, strict=True)),
                "name": name,
                "recipe": recipe.hex(),
                "description": described,
                "created": created if earlier is None else earlier.origin.created,
                "rows": round(rows),
            }
        )

    @reading
    def newest_part(self, connection: sqlite3.Connection, batch: str) -> int:
        """Return a number that grows whenever rows are added to a batch."""
        query = "SELECT coalesce(max(part), 0) FROM parts WHERE num = ? AND phase = 1"
        return number(connection, query, number_of(connection, batch))

    def blocks(self, batch: str, known: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of each block of a batch, without those that are known, in input order.

        A block has the same name in every outbox; names sort as the rows of the input.
        """
        for first, last in self._database.read(lambda connection: ranges(connection, number_of(connection, batch))):
            at = first - 1
            while found := self._database.read(_block, batch, at, last, known):
                at, *block = found
                if block:
                    yield block[0]


def _block(
    connection: sqlite3.Connection, batch: str, after: int, last: int, known: Collection[str]
) -> tuple[int] | tuple[int, tuple[str, bytes]] | None:
    """Return the last ref of the next block, and its name and content unless it is known; None if there is none."""
    found = connection.execute(
        "SELECT first, keys, tasks, shown FROM blocks WHERE first > ? AND first <= ? ORDER BY first LIMIT 1",
        (after, last),
    ).fetchone()
    if found is None:
        return None
    first, keys, tasks, shown = found
    block = StoredBlock(first, keys, tasks)
    rows = connection.execute(
        "SELECT ref, pos, try, reason FROM rows WHERE ref BETWEEN ? AND ? ORDER BY ref", (first, block.last)
    ).fetchall()
    name = f"{rows[0][1] if rows else 0:09d}-{blake2b(keys, digest_size=8).hexdigest()}"
    if not rows or name in known:
        return (block.last,)
    digests = _digests(connection, number_of(connection, batch), block)
    return block.last, (name, _pack(block, rows, digests, keys, tasks, shown))


def read_block(data: bytes) -> Iterator[Chunk]:
    """Yield the rows of a block that `Transfers.blocks` returned, to be spooled.

    Raises
    ------
    OutboxError
        If it is damaged.
    """
    try:
        at = _WORD + int.from_bytes(data[:_WORD], "big")
        head = orjson.loads(inflate(data[_WORD:at]))
        keys, tasks, shown = (data[at + start : at + end] for start, end in pairwise([0, *accumulate(head["lengths"])]))
        block = StoredBlock(0, keys, tasks)
        found = {index: rest for index, *rest in head["rows"]}
        start = 0
        for preview in unpack_previews(shown):
            places = [place for place in range(start, start + preview.n) if place in found]
            whole = len(places) == preview.n
            yield Chunk(
                rows=[found[place][0] for place in places],
                keys=[block.key(place) for place in places],
                digests=[found[place][1].to_bytes(8, "big", signed=True) + bytes(8) for place in places],
                tasks=block.tasks(places),
                shown=preview.shown if whole else shown_rows(preview.shown, [place - start for place in places]),
                rejected={n: found[place][2] for n, place in enumerate(places) if found[place][2] is not None},
            )
            start += preview.n
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        zlib.error,
        sqlite3.DatabaseError,
    ) as error:
        raise OutboxError(f"stored rows of a batch are damaged: {error!r}") from error


def _origin(found: Mapping[str, Any]) -> Origin:
    """Return the origin in a record that another home wrote, of which nothing is certain."""
    if _ID.fullmatch(found["id"]) is None:  # it becomes part of paths and of filters of the log
        raise ValueError(f"{found['id']!r} is not the id of a batch")
    dt.datetime.fromtimestamp(found["created"], dt.UTC)
    return Origin(id=found["id"], identity=bytes.fromhex(found["identity"]), created=found["created"])


def _digests(connection: sqlite3.Connection, num: int, block: StoredBlock) -> dict[int, int]:
    """Return the digests of the requests of a block's rows, by ref."""
    halves = unpack(f">{2 * block.n}q", block.keys(range(block.first, block.last + 1)))
    found = connection.execute(
        """SELECT k.ref, k.digest FROM json_each(?) j CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value
           WHERE k.ref BETWEEN ? AND ?""",
        (as_json(set(halves[::2])), num, block.first, block.last),
    )
    return dict(found.fetchall())


def _pack(block: StoredBlock, rows: Sequence[tuple[Any, ...]], digests: Mapping[int, int], *parts: bytes) -> bytes:
    head = {
        # Index in the block, position in the input, digest, and why the row was never a task.
        "rows": [
            (ref - block.first, row, digests.get(ref, 0) if attempt else 0, None if attempt else reason or "")
            for ref, row, attempt, reason in rows
        ],
        "lengths": list(map(len, parts)),
    }
    packed = zlib.compress(orjson.dumps(head), 1)
    return b"".join((len(packed).to_bytes(_WORD, "big"), packed, *parts))

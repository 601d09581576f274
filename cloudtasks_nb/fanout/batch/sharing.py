"""Share batches through a store: write those of this home there, and bring those of other homes here.

A batch is there as bytes that another outbox can read: its record, and its rows in blocks.
"""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate, islice, pairwise
from typing import Any, TypeVar

import orjson

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import user
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import BatchExistsError, InvalidInputError, OutboxError, StoreError
from cloudtasks_nb.fanout.batch.stored_results import check_recipe
from cloudtasks_nb.fanout.outbox.database import StoredBlock, inflate
from cloudtasks_nb.fanout.outbox.facts import BatchFacts, LastingOptions, Published, facts_from
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchRecord
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.foreign import foreign_reader
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, Place, batch_ids, first_id, named_identity
from cloudtasks_nb.fanout.plan.preview import shown_rows
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.batches import (
    block_names,
    index_unnamed,
    read_blocks,
    read_record,
    read_records,
    unnamed,
    write_batch,
)
from cloudtasks_nb.store.store import Store, answer_of

__all__ = [
    "Sharing",
    "alike_digest",
    "block_keys",
    "has_others",
    "made_elsewhere",
    "other_record",
    "pack_blocks",
    "pack_record",
    "shared_spec",
    "unpack_block",
    "unpack_record",
]

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
        refs, positions, attempts, reasons = *found[:3], found[-1]
        name = f"{positions[0] if refs else 0:09d}-{blake2b(block.packed_keys, digest_size=8).hexdigest()}"
        if not refs or name in known:
            continue
        parts = (block.packed_keys, block.packed_tasks, block.packed_shown)
        head = {
            # Index in the block, position in the input, and why the row was never a task.
            "rows": [
                (ref - block.first, row, None if attempt else reason or "")
                for ref, row, attempt, reason in zip(refs, positions, attempts, reasons, strict=True)
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


_PATIENCE = 5.0  # seconds to wait for the list of batches

T = TypeVar("T")


class Sharing:
    """The batches in the store of a connection.

    Parameters
    ----------
    store : Store
        Nothing is shared through the store in the outbox's own home.
    """

    def __init__(self, outbox: Outbox, store: Store) -> None:
        self._outbox = outbox
        self._store = store
        self._records: dict[str, BatchRecord | None] = {}  # None: it cannot be read
        self.active = store.url != Store(outbox.path.parent / "store").url  #: whether homes may share the store

    def check(self, spec: BatchSpec) -> None:
        """Refuse rows of a batch that this home does not have, and another has made of other templates.

        Raises
        ------
        BatchExistsError
            If so; nothing is stored then. Where the store does not answer, the sending of the batch tells it.
        """
        if not self.active or spec.name is None:
            return
        batch = first_id(spec.place, spec.name)
        if not self._outbox.batches.find(batch=batch):
            with suppress(StoreError):
                self._ask(check_recipe, self._store, batch, spec.name, spec.recipe)

    def publish(self, batch: str) -> None:
        """Write the rows of a batch that the store does not have; say so if that fails."""
        parts, (published, known) = self._parts(batch), self._known(batch)
        if not self.active or published == parts:
            return
        try:
            data, mine = read_record(self._store, batch), self._outbox.batches.get(batch)
            theirs = None if data is None else _read(data)
            if theirs is not None and theirs.recipe != mine.recipe:
                return  # it is another batch, as its sending tells
            gone = set[str]() if theirs else known  # another home may have deleted it
            record, blocks = pack_record(mine, theirs), pack_blocks(self._outbox.rows, batch, known - gone, user())
            written = set(write_batch(self._store, batch, record, blocks))
            if mine.name is None:
                index_unnamed(self._store, alike_digest(mine.place, mine.recipe), batch)
        except StoreError as error:
            notify(f'others cannot see batch {batch} yet: {error.message}\n  → tasks.batch("{batch}") writes it again')
            return
        self._remember(batch, written, parts, gone - written)

    def find_alike(
        self, found: Callable[[str], None], spec: BatchSpec, own: str, has_any: Callable[[bytes], bool]
    ) -> None:
        """Find batches that other homes have made without a name, at the same place and of the same templates.

        Parameters
        ----------
        found : callable
            Called with each batch that has some of the rows, of those that this home does not have.
        own : str
            The id of a new batch of the rows: what others have sent of it is found without its rows.
        has_any : callable
            Whether some keys are among those of the rows.
        """
        if not self.active:
            return
        try:
            for batch in self._ask(unnamed, self._store, alike_digest(spec.place, spec.recipe)):
                blocks = () if batch == own else self._new_blocks(batch)
                if any(has_any(block_keys(data)) for data in read_blocks(self._store, batch, blocks)):
                    found(batch)
        except (OutboxError, StoreError) as error:
            notify(f"whether other homes have sent some of these rows in another batch is not known: {error.message}")

    def made_elsewhere(self, batch: str) -> bool:
        """Return whether another home has made a batch first."""
        return self.active and made_elsewhere(self._store, self._outbox.batches.get(batch))

    def records(self) -> Sequence[BatchRecord]:
        """Return the records of the batches in the store; those known so far, and a note, if it does not answer."""
        if not self.active:
            return ()
        try:
            found = self._ask(read_records, self._store, tuple(self._records))
        except StoreError as error:
            notify(f"batches that others have made may be missing: {error.message}")
        else:
            self._records = {
                batch: self._records[batch] if data is None else _read(data) for batch, data in found.items()
            }
        return [record for record in self._records.values() if record is not None]

    def update(self, batch: str) -> None:
        """Fetch what was added to a batch since; say so if that fails."""
        if not self.active:
            return
        try:
            if self._ask(self._new_blocks, batch):
                self.fetch(batch)
        except (BatchExistsError, OutboxError, StoreError) as error:
            notify(f"rows that others have added to batch {batch} may be missing: {error.message}")

    def fetch(self, batch: str) -> None:
        """Bring the rows of a batch here that other homes have written; they are unsent, and nobody trusts them.

        Raises
        ------
        CloudTasksError
            If they cannot be read or stored.
        """
        found = self._outbox.batches.find(batch=batch)
        parts = self._known(batch)[0] if found else None
        published = not found or parts == self._parts(batch)
        names = self._new_blocks(batch)
        data = read_record(self._store, batch)
        if data is None or not names:
            return
        record = unpack_record(data)
        if record.id != batch:
            raise OutboxError(f"the stored record of batch {batch} is that of batch {record.id}", resource=batch)
        with self._outbox.spool(shared_spec(record)) as spool, Bar("reading", None) as bar:
            for data in read_blocks(self._store, batch, names):
                chunk = unpack_block(data, record)
                spool.add(chunk)
                bar.add(len(chunk.rows))
            added = spool.commit().added
        if added:
            self._outbox.batches.change(  # these rows were not known when the log was read
                batch, lambda facts: replace(facts, foreign_rows=facts.foreign_rows + added, log_read=None)
            )
        # Rows of this home that could not be written before are not in the store now either.
        self._remember(batch, set(names), self._parts(batch) if published else parts)

    def _ask(self, function: Callable[..., T], *args: Any) -> T:
        """Return what a function reads from the store; a StoreError if that takes long."""
        return _loop.run(answer_of(self._store, _PATIENCE, function, *args))

    def _parts(self, batch: str) -> int:
        """Return how often rows were added to a batch."""
        return len(self._outbox.rows.parts(batch))

    def _new_blocks(self, batch: str) -> list[str]:
        """Return the names of the blocks of a batch in the store that this home does not have."""
        known = self._known(batch)[1] if self._outbox.batches.find(batch=batch) else ()
        return [name for name in block_names(self._store, batch) if name not in known]

    def _known(self, batch: str) -> tuple[int | None, set[str]]:
        """Return how many parts of a batch are in the store, and the names of its blocks there."""
        found = self._published(self._outbox.batches.facts(batch))
        return found.parts, set(found.blocks)

    def _remember(self, batch: str, names: set[str], parts: int | None, gone: Collection[str] = ()) -> None:
        """Store that blocks are in the store, and that others are gone; another kernel may have added some."""

        def change(facts: BatchFacts) -> BatchFacts:
            blocks = names.union(self._published(facts).blocks).difference(gone)
            published = Published(store=self._store.url, parts=parts, blocks=tuple(sorted(blocks)))
            return replace(facts, published=published)

        self._outbox.batches.change(batch, change)

    def _published(self, facts: BatchFacts) -> Published:
        """Return what of a batch is known to be in this store."""
        same = facts.published.store == self._store.url
        return facts.published if same else Published(store=self._store.url)


def has_others(record: BatchRecord) -> bool:
    """Return whether this home has rows of a batch that another one has made."""
    return record.imported or record.facts.foreign_rows > 0


def made_elsewhere(store: Store, record: BatchRecord) -> bool:
    """Return whether another home has made a batch, by the record in the store; True if this cannot be read."""
    try:
        return other_record(store, record) is not None
    except (OutboxError, StoreError):
        return True


def other_record(store: Store, record: BatchRecord) -> BatchRecord | None:
    """Return the record by the home that has made a batch, if that is another one than this home.

    Raises
    ------
    StoreError
        If the store cannot be read.
    OutboxError
        If the record is damaged.
    """
    data = None if record.imported else read_record(store, record.id)
    found = record if data is None else unpack_record(data)
    return found if record.imported or found.created != record.created else None


def _read(data: bytes) -> BatchRecord | None:
    try:
        return unpack_record(data)
    except OutboxError as error:
        notify(error.message)
        return None

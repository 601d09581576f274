"""Share batches through a store: write those of this home there, and bring those of other homes here.

A batch is there as bytes that another outbox can read: its record, and its rows in blocks.
"""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate, islice, pairwise
from typing import Any, TypeVar

import orjson

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import BatchExistsError, OutboxError, PreconditionError, StoreError
from cloudtasks_nb.fanout.batch.owner import BatchOwner, probe_once
from cloudtasks_nb.fanout.batch.stored_results import check_recipe
from cloudtasks_nb.fanout.outbox.database import StoredBlock, inflate
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchFacts, BatchRecord, LastingOptions, Published
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, Place, batch_ids, named_identity
from cloudtasks_nb.fanout.plan.preview import shown_rows
from cloudtasks_nb.fanout.plan.render import Chunk
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.batches import block_names, read_blocks, read_record, read_records, write_batch
from cloudtasks_nb.store.owners import OwnerObjects
from cloudtasks_nb.store.ownership import Look, Owner, Purpose
from cloudtasks_nb.store.store import Store, answer_of

__all__ = ["Sharing", "has_others", "pack_blocks", "pack_record", "shared_spec", "unpack_block", "unpack_record"]

_FORMAT = 2
_WORD = 4
_ID = re.compile("[0-9a-f]{8}")
#: What is stored of the URL of a batch: the name of a handler, or scheme and host, without a user and a password.
_ORIGIN = re.compile(r"handler:.*|https?://(?![^/?#]*@)[^/?#{}]*")
_FAR = 1 << 62  # more than any position in an input
_IDS = 100  # ids that a batch may have, if others had the first ones
# What the bytes of another home raise if they are damaged.
_DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError),
    *(sqlite3.Error, zlib.error),
)


def pack_record(record: BatchRecord, earlier: BatchRecord | None = None, *, complete: bool = True) -> bytes:
    """Return the record of a batch as bytes.

    Parameters
    ----------
    earlier : BatchRecord, optional
        The record that another home has written: it says who made the batch, and when.
    complete : bool
        Whether all rows are in the store; else they are being stored.
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
            "description": _without_request(first.description),
            "options": first.facts.options,
            "created": first.created.timestamp(),
            "rows": record.total,
            "complete": complete,
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
            facts=BatchFacts.of({"options": options}),
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


def pack_blocks(
    rows: Rows, record: BatchRecord, known: Collection[str] = (), after: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each block of a batch behind a ref, without those that are known, in input order.

    A block has the same name in every outbox; names sort as the rows of the input. It has the keys of its rows, and
    what is shown of them, but no requests. Rows that only another home has rendered are left out.
    """
    for block, found in rows.blocks(record.id, after, "elsewhere IS NULL"):
        refs, positions, attempts, reasons = *found[:3], found[-1]
        name = f"{positions[0] if refs else 0:09d}-{blake2b(block.packed_keys, digest_size=8).hexdigest()}"
        if not refs or name in known:
            continue
        keys = block.keys(range(block.first, block.last + 1))
        digests = rows.digests(record.id, keys) if record.description.get("key") else b""  # else they are the keys
        parts = (block.packed_keys, digests, block.packed_shown)
        head = {
            # Index in the block, position in the input, and why the row was never a task.
            "rows": [
                (ref - block.first, row, None if attempt else reason or "")
                for ref, row, attempt, reason in zip(refs, positions, attempts, reasons, strict=True)
            ],
            "lengths": list(map(len, parts)),
        }
        packed = zlib.compress(orjson.dumps(head), 1)
        yield name, b"".join((len(packed).to_bytes(_WORD, "big"), packed, *parts))


def unpack_block(data: bytes, record: BatchRecord) -> Chunk:
    """Return the rows of a block that `pack_blocks` returned, to be spooled without their tasks.

    Parameters
    ----------
    record : BatchRecord
        Of the batch, from the same store.

    Raises
    ------
    OutboxError
        If it is damaged.
    """
    try:
        at = _WORD + int.from_bytes(data[:_WORD], "big")
        head = orjson.loads(inflate(data[_WORD:at]))
        parts = [data[at + start : at + end] for start, end in pairwise([0, *accumulate(head["lengths"])])]
        packed_keys, digests, packed_shown = parts
        block = StoredBlock(0, packed_keys, shown=packed_shown)
        found = {index: rest for index, *rest in head["rows"]}
        places = sorted(found)
        if not all(0 <= place < block.n and 0 <= found[place][0] < _FAR for place in places):
            raise ValueError("a row is at no place of its block, or of the input")
        keys, rejected = [block.key(place) for place in places], [found[place][1] for place in places]
        size = KEY_SIZE // 2
        known = [digests[size * place :][:size] for place in places] if record.description.get("key") else keys
        if any(len(digest) < size for digest in known):
            raise ValueError("the digest of a row is missing")
        return Chunk(
            rows=[found[place][0] for place in places],
            keys=keys,
            digests=[bytes(size) if reason is not None else one for one, reason in zip(known, rejected, strict=True)],
            tasks=[b""] * len(places),
            shown=block.shown if len(places) == block.n else shown_rows(block.shown, places),
            rejected={index: str(reason) for index, reason in enumerate(rejected) if reason is not None},
        )
    except _DAMAGE as error:
        why = f"{type(error).__name__}: {error}"
        raise OutboxError(f"stored rows of batch {record.id} are damaged: {why}") from error


_AT_ONCE = 8  # batches whose owners are read at the same time
_PATIENCE = 5.0  # seconds to wait for the list of batches
_STORING, _LOOK = 30.0, 0.5  # seconds for which a cell waits for rows that another home stores, and between two looks

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
        self._owners: dict[str, Owner] = {}  # as they were read last
        self.looks: dict[str, Look | None] = {}  #: what a cell has read of the owners of its batch
        self.active = store.url != Store(outbox.path.parent / "store").url  #: whether homes may share the store

    def check(self, spec: BatchSpec) -> None:
        """Refuse rows of a batch that this home does not have, and another has made of other templates.

        Raises
        ------
        BatchExistsError
            If so; nothing is stored then. Where the store does not answer, the sending of the batch tells it.
        StoreError, PreconditionError
            If the store cannot be shared, or not be written.
        """
        if self.active:
            self._ask(probe_once, self._outbox, self._store)
        if not self.active or spec.name is None:
            return
        batch = next(batch_ids(named_identity(spec.place, spec.name), spec.name))
        if not self._outbox.batches.find(batch=batch):
            with suppress(StoreError):
                self._ask(check_recipe, self._store, batch, spec.name, spec.recipe)
        self.update(batch)  # before rows of this home, so that they come first in every home

    def publish(self, batch: str, *, again: bool = False) -> None:
        """Write the rows of a batch that the store does not have; say so if that fails.

        With `again` also if it had all: another home may have deleted the batch.
        """
        parts, (published, known) = self._outbox.rows.parts(batch), self._known(batch)
        if not self.active or (published == len(parts) and not again):
            return
        try:
            data, mine = read_record(self._store, batch), self._outbox.batches.get(batch)
            if data is not None and published == len(parts):
                return
            theirs = None if data is None else _read(data)
            if theirs is not None and theirs.recipe != mine.recipe:
                return  # it is another batch, as its sending tells
            gone = set[str]() if theirs else known  # another home may have deleted it
            after = parts[published - 1][1] if published and theirs else 0
            if theirs is not None:  # who has these rows too waits for them
                write_batch(self._store, batch, pack_record(mine, theirs, complete=False), ())
            record, blocks = pack_record(mine, theirs), pack_blocks(self._outbox.rows, mine, known - gone, after)
            written = set(write_batch(self._store, batch, record, blocks))
        except StoreError as error:
            notify(f'others cannot see batch {batch} yet: {error.message}\n  → tasks.batch("{batch}") writes it again')
            return
        self._remember(batch, written, len(parts), gone - written)

    def join(self, batch: str, owner: BatchOwner | None, check: Callable[[int], None]) -> Callable[[int], None]:
        """Bring rows of a batch here that other homes have added; return a check of how many others a cell would add.

        It refuses them while another home owns the batch and lives.

        Parameters
        ----------
        owner : BatchOwner, optional
            This process as the owner of the batch, if it has opened it.
        check : callable
            What refuses a number of rows besides.

        Raises
        ------
        PreconditionError
            If the store does not answer.
        """
        if not self.active:
            return check
        owner = owner or BatchOwner(self._outbox, self._store, batch)
        refusal = _loop.run(owner.living())
        self.looks[batch] = look = owner.looked
        other = look.newest.owner if refusal and look and look.newest else None
        if other is not None:
            with suppress(StoreError):
                self._wait_for_rows(batch, other)
        self.update(batch)

        def refuse(added: int) -> None:
            check(added)
            if other is not None and added:
                raise PreconditionError(
                    f"{other.person} {other.purpose} this batch, without {added:,} of these rows",
                    resource=batch,
                    hint=f'batch = tasks.batch("{batch}") and batch.take_over() continue it here, or name="…" makes a '
                    "batch of your own",
                )

        return refuse

    def _wait_for_rows(self, batch: str, owner: Owner) -> None:
        """Wait until all rows are in the store that another home has, for some time."""
        until, said = time.monotonic() + _STORING, False
        while time.monotonic() < until and not _is_complete(self._ask(read_record, self._store, batch)):
            if not said:
                notify(f"waiting for the rows of batch {batch}, which {owner.person} stores")
            said = True
            time.sleep(_LOOK)  # a store tells nobody when an object changes

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

    def forget(self, batch: str) -> None:
        """Read the record of a batch anew, which this home has deleted."""
        self._records.pop(batch, None)

    def owners(self, batches: Sequence[str]) -> Mapping[str, str]:
        """Return who owns batches in the store, by their ids; a note says so if it does not answer."""
        if not self.active:
            return {}
        new = [batch for batch in batches if (known := self._owners.get(batch)) is None or not known.ended]
        looks = [
            _loop.in_thread(self._look_for_owners, new[first::_AT_ONCE]) for first in range(min(_AT_ONCE, len(new)))
        ]
        try:
            self._ask(lambda: [look.result() for look in looks])
        except StoreError as error:
            notify(f"who owns batches may be missing: {error.message}")
        there = {batch: self._owners[batch] for batch in batches if batch in self._owners}
        return {batch: owner.person for batch, owner in there.items() if owner.purpose is not Purpose.DELETED}

    def owner(self, batch: str) -> BatchOwner | None:
        """Return this process as the owner of a batch; None: no other home can send it."""
        return BatchOwner(self._outbox, self._store, batch) if self.active else None

    def sweep(self) -> None:
        """Delete what is left of batches that were deleted in the store long ago; say so if that fails."""
        if not self.active:
            return
        self.records()
        try:
            left = {*self._ask(self._store.children, "batches/").folders} - self._records.keys()
            owners = [BatchOwner(self._outbox, self._store, batch) for batch in left]
            _loop.run(_loop.gather(owner.clear() for owner in owners))
        except StoreError as error:
            notify(f"what is left of deleted batches stays in the store: {error.message}")

    def _look_for_owners(self, batches: Sequence[str]) -> None:
        for batch in batches:
            objects = OwnerObjects(self._store, batch)
            numbers = objects.numbers()
            if numbers and (found := objects.read(max(numbers))) is not None:
                self._owners[batch] = Owner.unpack(found.data)

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
        """Bring the rows of a batch here that other homes have written; they are unsent, and without their requests.

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

    def blocks(self, batch: str) -> list[str]:
        """Return the names of the blocks in the store whose rows this home has."""
        return sorted(self._known(batch)[1])

    def added(self, batch: str, blocks: Collection[str]) -> Iterator[bytes]:
        """Yield the keys of the rows of a batch that are in other blocks, one behind the other, in pieces.

        Raises
        ------
        CloudTasksError
            If they cannot be read.
        """
        names = [name for name in block_names(self._store, batch) if name not in blocks]
        record = read_record(self._store, batch) if names else None
        if record is not None:
            for data in read_blocks(self._store, batch, names):
                yield b"".join(unpack_block(data, unpack_record(record)).keys)

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


def _without_request(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the description of a batch other homes may know: how its rows are identified, and by whom."""
    names = {name for name in description if name in {"key", "backfill"} or name.startswith("_")} - {IMPORTED}
    origin = _ORIGIN.match(str(description.get("url") or ""))
    return {name: description[name] for name in names} | {"url": origin[0] if origin else ""}


def _is_complete(data: bytes | None) -> bool:
    """Return whether a record says that all rows of its batch are in the store."""
    try:
        return data is not None and orjson.loads(data)["complete"] is True
    except _DAMAGE:
        return False


def _read(data: bytes) -> BatchRecord | None:
    try:
        return unpack_record(data)
    except OutboxError as error:
        notify(error.message)
        return None

"""Share batches through a store: write those of this home there, and bring those of other homes here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import user
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import BatchExistsError, OutboxError, StoreError
from cloudtasks_nb.fanout.batch.claims import check_recipe
from cloudtasks_nb.fanout.batch.shared_batch import (
    alike_digest,
    block_keys,
    pack_blocks,
    pack_record,
    shared_spec,
    unpack_block,
    unpack_record,
)
from cloudtasks_nb.fanout.outbox.facts import BatchFacts, Published
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.plan.identity import first_id
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

__all__ = ["Sharing", "has_others", "made_elsewhere", "other_record"]

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

"""Claims of batches: who is the first to send a batch makes its key in the store, and every home takes that.

By the key each task gets a tag (`tag_of`), which its handler writes beside the result. So a result counts only if it is
of a task that was sent with the key of its batch.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import replace

import orjson

from cloudtasks_nb.errors import BatchExistsError, StoreError
from cloudtasks_nb.fanout.outbox.facts import BatchFacts
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.store.batches import claim_batch, read_claim
from cloudtasks_nb.store.store import Store

__all__ = ["batch_keys", "check_recipe", "claim", "is_claimed", "own_key"]

_KEY_SIZE = 16  # bytes


def own_key(outbox: Outbox, batch: str) -> bytes:
    """Return the key for new tasks of a batch, which is made if there is none."""
    new = (secrets.token_hex(_KEY_SIZE),)
    _, facts = outbox.batches.change(batch, lambda facts: replace(facts, keys=facts.keys or new))
    return bytes.fromhex(facts.keys[0])


def claim(outbox: Outbox, store: Store, batch: str) -> None:
    """Claim a batch in a store before it is sent, or take the key of the home that has claimed it.

    Another home may have deleted the batch, and its claim, since this one has sent rows.

    Raises
    ------
    StoreError
        If the store cannot be used, or its claim is damaged.
    BatchExistsError
        If another home has claimed a batch with this id that is made of other templates.
    """
    record, key = outbox.batches.get(batch), own_key(outbox, batch)
    mine = orjson.dumps({"recipe": record.recipe.hex(), "key": key.hex()})
    _take(outbox, store, record, claim_batch(store, batch, mine))


def is_claimed(outbox: Outbox, store: Store, batch: str) -> bool:
    """Return whether this home knows the claim of a batch in a store."""
    return outbox.batches.facts(batch).claimed_in == store.url


def batch_keys(outbox: Outbox, store: Store, batch: str, *, again: bool = False) -> tuple[bytes, ...]:
    """Return the keys whose results count; the claim is read if this home does not know it yet.

    Parameters
    ----------
    again : bool
        Read the claim in any case: results have another key, as when another home has deleted the batch and sent it
        again.

    Raises
    ------
    StoreError
        If the store cannot be read, or its claim is damaged.
    BatchNotFoundError
        If the home does not have the batch.
    """
    if again or not is_claimed(outbox, store, batch):
        record, found = outbox.batches.get(batch), read_claim(store, batch)
        with suppress(BatchExistsError):  # these results are not of this batch; its sending tells it
            if found is not None:
                _take(outbox, store, record, found)
            elif record.facts.keys:  # it was sent while the store did not answer
                with suppress(StoreError):  # this home may only read: the results count here
                    claim(outbox, store, batch)
    return tuple(map(bytes.fromhex, outbox.batches.facts(batch).keys))


def check_recipe(store: Store, batch: str, label: str, recipe: bytes) -> None:
    """Refuse rows of other templates than those of the batch that another home has claimed.

    Raises
    ------
    BatchExistsError
        If the batch with this id is made of other templates there.
    StoreError
        If the store cannot be read, or its claim is damaged.
    """
    if (found := read_claim(store, batch)) is not None:
        _read(store, batch, label, recipe, found)


def _take(outbox: Outbox, store: Store, record: BatchRecord, found: bytes) -> None:
    """Use the key of a claim for new tasks; keep those that tasks were sent with before."""
    key = _read(store, record.id, record.name or record.id, record.recipe, found).hex()

    def take(facts: BatchFacts) -> BatchFacts:
        keys = (key, *(one for one in facts.keys if one != key))
        by_other = facts.claimed_by_other or key not in facts.keys
        return replace(facts, keys=keys, claimed_in=store.url, claimed_by_other=by_other)

    before, _ = outbox.batches.change(record.id, take)
    if key not in before.keys:
        outbox.results.reread(record.id)  # what did not count may count by this key


def _read(store: Store, batch: str, label: str, recipe: bytes, found: bytes) -> bytes:
    """Return the key of a claim, if that is of the same templates."""
    try:
        fields = orjson.loads(found)
        theirs, key = bytes.fromhex(fields["recipe"]), bytes.fromhex(fields["key"])
    except (KeyError, TypeError, ValueError):
        theirs = key = b""
    if len(key) != _KEY_SIZE:
        raise StoreError(
            f"the claim of batch {batch} is damaged",
            resource=store.url,
            hint="batch.delete(others=True) removes it, and the rows of other homes; any new name sends all",
        )
    if theirs != recipe:
        raise BatchExistsError(
            f"the batch {label} was made of other templates in another home that shares {store.url}",
            resource=batch,
            hint="no row was sent from here; any new name sends all",
        )
    return key

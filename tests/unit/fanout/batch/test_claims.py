"""The claim of a batch: all homes have the key of the one that has sent it first."""

from typing import Any

import orjson
import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch import stored_results
from cloudtasks_nb.fanout.batch.stored_results import batch_keys, claim, own_key
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.store.batches import claim_batch, delete_batch, read_claim
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.unit.fanout.conftest import chunks, spool


def add(outbox: Outbox, recipe: bytes = b"recipe") -> str:
    """Bring a batch into a home."""
    return spool(outbox, chunks(range(3)), name="nightly", recipe=recipe).batch


@pytest.fixture
def batch(outbox: Outbox, theirs: Outbox) -> str:
    """Bring a batch into two homes."""
    add(theirs)
    return add(outbox)


def test_the_key_of_the_first_counts_everywhere(outbox: Outbox, theirs: Outbox, store: Store, batch: str) -> None:
    """Who claims the batch makes it, who comes later takes it; the claim has nothing but the recipe and the key."""
    assert batch_keys(theirs, store, batch) == ()  # nobody has sent anything
    claim(outbox, store, batch)
    key = own_key(outbox, batch)
    assert batch_keys(outbox, store, batch) == batch_keys(theirs, store, batch) == (key,)
    claim(theirs, store, batch)
    assert own_key(theirs, batch) == key
    assert orjson.loads(read_claim(store, batch) or b"") == {"recipe": b"recipe".hex(), "key": key.hex()}


def test_who_reads_asks_the_store_once(
    outbox: Outbox, theirs: Outbox, store: Store, batch: str, monkeypatch: Any
) -> None:
    """Later readings know the key; in another store the batch is claimed with it again, and where that was deleted."""
    claim(outbox, store, batch)
    batch_keys(theirs, store, batch)
    other = Store(f"{store.url}-other")
    with monkeypatch.context() as patched:
        patched.delattr(stored_results, "read_claim")
        for home in (outbox, theirs):
            assert batch_keys(home, store, batch) == (own_key(outbox, batch),)
    claim(outbox, other, batch)
    before = read_claim(store, batch)
    delete_batch(store, batch)
    claim(theirs, store, batch)
    assert read_claim(other, batch) == read_claim(store, batch) == before


def test_what_was_sent_without_a_claim_is_claimed_when_results_are_read(
    outbox: Outbox, theirs: Outbox, store: Store, batch: str
) -> None:
    """So other homes count the results, though nothing is sent any more."""
    key = own_key(outbox, batch)
    assert batch_keys(outbox, store, batch) == batch_keys(theirs, store, batch) == (key,)


class ReadOnly(Store):
    """A store in which this home may write nothing."""

    def claim(self, path: str, data: bytes) -> bool:
        """Refuse a claim."""
        raise StoreError(f"{path} cannot be written, with {len(data)} bytes")


def test_a_store_that_may_only_be_read(outbox: Outbox, theirs: Outbox, store: Store, batch: str) -> None:
    """The results of the own tasks count in this home; a claim of another home is taken as elsewhere."""
    mine = ReadOnly(store.url)
    key = own_key(outbox, batch)
    with pytest.raises(StoreError, match="cannot be written"):
        claim(outbox, mine, batch)
    assert batch_keys(outbox, mine, batch) == (key,)
    claim(theirs, store, batch)
    claim(outbox, mine, batch)
    assert batch_keys(outbox, mine, batch) == (own_key(theirs, batch), key)


@cases(b"", b"[]", b"{}", b'{"recipe": "00", "key": ""}', b'{"recipe": "0", "key": "00"}', b'{"recipe": 1, "key": 2}')
def test_a_damaged_claim_is_an_error_of_the_store(outbox: Outbox, store: Store, batch: str, damaged: bytes) -> None:
    """Whoever can write there may have damaged it; an empty key is none."""
    claim_batch(store, batch, damaged)
    for use in (claim, batch_keys):
        with pytest.raises(StoreError, match=f"the claim of batch {batch} is damaged"):
            use(outbox, store, batch)

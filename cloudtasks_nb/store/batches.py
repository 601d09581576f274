"""Batches in a folder or a bucket: ``batches/<batch>/`` has ``record.json``, and the rows in blocks in ``rows/``.

Beside them is ``claim``, which the first home makes that sends the batch, also in a store that nobody shares. Each
cancel is ``cancels/<name>``; of a part, ``cancelled/<name>/`` has the keys of its rows. ``cancel`` is the name of the
last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future

from cloudtasks_nb import _loop
from cloudtasks_nb.store.store import Dated, Store

__all__ = [
    "block_names",
    "claim_batch",
    "delete_batch",
    "last_cancel",
    "new_cancels",
    "put_cancel",
    "read_blocks",
    "read_cancelled",
    "read_claim",
    "read_record",
    "read_records",
    "write_batch",
]

_CONCURRENT = 8  # blocks of about a megabyte


def claim_batch(store: Store, batch: str, claim: bytes, *, new: bool = False) -> bytes:
    """Store the claim of a batch if it has none; return the claim that it has. One that seems `new` has none.

    Raises
    ------
    StoreError
        If the store cannot be used.
    """
    while new or (found := read_claim(store, batch)) is None:  # at first, for homes that may not write
        new = False
        if store.claim(_claim(batch), claim):
            return claim
    return found


def read_claim(store: Store, batch: str) -> bytes | None:
    """Return the claim of a batch; None if nobody has claimed it.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    return store.get(_claim(batch))


def put_cancel(store: Store, batch: str, name: str, cancel: bytes, keys: Iterable[bytes] = ()) -> None:
    """Store who has cancelled a batch, and when; for a part of it also the keys of its rows, in pieces.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    for number, piece in enumerate(keys):
        store.put(f"{_cancelled(batch, name)}{number:06d}", piece)
    store.put(_cancels(batch) + name, cancel)
    store.put(_cancel(batch), name.encode())  # last, so that who sees it finds all


def last_cancel(store: Store, batch: str) -> Dated | None:
    """Return the name of a cancel, and when it was written: another one than before tells that there is a new cancel.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    return store.dated(_cancel(batch))


def new_cancels(store: Store, batch: str, known: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the cancels of a batch that are not known, sorted by name.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    for name in _last_parts(store, _cancels(batch)):
        if name not in known:
            yield name, store.get(_cancels(batch) + name) or b""


def read_cancelled(store: Store, batch: str, name: str) -> Iterator[bytes]:
    """Yield the keys of the rows of a cancelled part, in pieces.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    for piece in _last_parts(store, _cancelled(batch, name)):
        yield store.get(_cancelled(batch, name) + piece) or b""


def write_batch(store: Store, batch: str, record: bytes, blocks: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write the blocks of a batch, then its record; return the names of the blocks.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    names = []
    waiting: deque[Future[None]] = deque()
    for name, data in blocks:
        if len(waiting) == _CONCURRENT:
            waiting.popleft().result()
        waiting.append(_loop.in_thread(store.put, _block(batch, name), data))
        names.append(name)
    while waiting:
        waiting.popleft().result()
    # Last, so that nobody finds a batch without its rows.
    store.put(_record(batch), record)
    return names


def read_records(store: Store, known: Collection[str] = ()) -> dict[str, bytes | None]:
    """Return the records of the batches of a store by their ids; None for those that are known.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    batches = store.children("batches/").folders
    new = [batch for batch in batches if batch not in known]
    read = dict(zip(new, store.get_many([_record(batch) for batch in new]), strict=True))
    # A batch that was deleted, or is not written yet, has no record.
    return {batch: read.get(batch) for batch in batches if batch in known or read[batch] is not None}


def read_record(store: Store, batch: str) -> bytes | None:
    """Return the record of a batch; None if the store does not have it.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    return store.get(_record(batch))


def block_names(store: Store, batch: str) -> list[str]:
    """Return the names of the blocks of a batch, in the order of its rows.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    return _last_parts(store, f"batches/{batch}/rows/")


def read_blocks(store: Store, batch: str, names: Iterable[str]) -> Iterator[bytes]:
    """Yield the contents of blocks of a batch, without those that do not exist.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    for name in names:
        data = store.get(_block(batch, name))
        if data is not None:
            yield data


def delete_batch(store: Store, batch: str) -> None:
    """Delete a batch with the results of its tasks.

    Raises
    ------
    StoreError
        If the store cannot be used; the same call later deletes the rest.
    """
    # First, so that nobody finds a batch without its rows, and who sends it again meanwhile makes a new key, by which
    # no result counts that is left of it.
    store.delete([_record(batch), _claim(batch), _cancel(batch)])
    for folder in (f"batches/{batch}/rows/", _cancels(batch), f"batches/{batch}/cancelled/", f"results/{batch}/"):
        store.delete_all(folder)


def _record(batch: str) -> str:
    return f"batches/{batch}/record.json"


def _claim(batch: str) -> str:
    return f"batches/{batch}/claim"


def _cancel(batch: str) -> str:
    return f"batches/{batch}/cancel"


def _cancels(batch: str) -> str:
    return f"batches/{batch}/cancels/"


def _cancelled(batch: str, name: str) -> str:
    return f"batches/{batch}/cancelled/{name}/"


def _block(batch: str, name: str) -> str:
    return f"batches/{batch}/rows/{name}"


def _last_parts(store: Store, folder: str) -> list[str]:
    """Return the names of the objects in a folder, sorted."""
    return sorted(path.rpartition("/")[2] for page in store.pages(folder) for path in page)

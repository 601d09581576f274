"""Blocks, in which the outbox stores the rows of one chunk of the plan: keys, compressed tasks and preview columns."""

from __future__ import annotations

import sqlite3
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate

from cloudtasks_nb.fanout.outbox.database import sqlite_error
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE

__all__ = ["BLOCK_ROWS", "StoredBlock", "inflate", "keys_of", "pack_keys", "pack_shown", "pack_tasks", "read_block"]

#: Most rows in a block: those of a chunk.
BLOCK_ROWS = 2_000

_LEVEL = 1  # the quickest: bodies of one batch are much alike, so it halves and halves again even so
_WORD = 4
#: Bytes of a decompressed part of a block, several times what is written: a part may come from somebody else's home.
_LARGEST = 1 << 28


def pack_keys(keys: Sequence[bytes]) -> bytes:
    """Join keys, with their checksum behind them: a row with another key would be sent again, under another name."""
    joined = b"".join(keys)
    return joined + zlib.crc32(joined).to_bytes(_WORD, "big")


def pack_tasks(tasks: Sequence[bytes]) -> bytes:
    """Compress tasks, with their lengths in front."""
    return zlib.compress(array("I", map(len, tasks)).tobytes() + b"".join(tasks), _LEVEL)


def pack_shown(shown: bytes) -> bytes:
    """Compress the preview columns of a block's rows."""
    return zlib.compress(shown, _LEVEL)


class StoredBlock:
    """A block that is read from the outbox.

    Parameters
    ----------
    first : int
        Ref of its first row.
    keys : bytes
        What `pack_keys` made.
    tasks : bytes, optional
        What `pack_tasks` made.
    shown : bytes, optional
        What `pack_shown` made.

    Raises
    ------
    sqlite3.DatabaseError
        As for any damage to the file, if a checksum does not fit; so do the methods that decompress.
    """

    def __init__(self, first: int, keys: bytes, tasks: bytes = b"", shown: bytes = b"") -> None:
        self.first = first
        self.n = len(keys) // KEY_SIZE
        if zlib.crc32(keys[:-_WORD]) != int.from_bytes(keys[-_WORD:], "big"):
            raise _damaged("the checksum of its keys does not fit")
        self.packed_keys = keys
        self.packed_tasks = tasks
        self.packed_shown = shown

    @property
    def last(self) -> int:
        """Ref of the last row."""
        return self.first + self.n - 1

    def key(self, ref: int) -> bytes:
        """Return the key of a row."""
        at = (ref - self.first) * KEY_SIZE
        return self.packed_keys[at : at + KEY_SIZE]

    def keys(self, refs: Sequence[int]) -> bytes:
        """Return the keys of some rows, one behind the other."""
        if refs and len(refs) == refs[-1] - refs[0] + 1:  # without gaps
            return self.packed_keys[(refs[0] - self.first) * KEY_SIZE : (refs[-1] - self.first + 1) * KEY_SIZE]
        return b"".join(map(self.key, refs))

    def tasks(self, refs: Sequence[int]) -> list[bytes]:
        """Return the tasks of some rows, without their names."""
        raw, ends = self._unpacked
        first = self.first
        return [raw[ends[ref - first] : ends[ref - first + 1]] for ref in refs]

    @cached_property
    def shown(self) -> bytes:
        """The preview columns of its rows, as the plan gave them."""
        return inflate(self.packed_shown)

    @cached_property
    def _unpacked(self) -> tuple[bytes, list[int]]:
        raw = inflate(self.packed_tasks)
        head = self.n * _WORD
        lengths = array("I", raw[:head])
        return raw, list(accumulate(lengths, initial=head))


def read_block(connection: sqlite3.Connection, ref: int, columns: str) -> StoredBlock:
    """Return the block that has a row, with some of its columns: `keys`, or more."""
    query = f"SELECT first, {columns} FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1"
    return StoredBlock(*connection.execute(query, (ref,)).fetchone())


def keys_of(connection: sqlite3.Connection, refs: Iterable[int]) -> Iterator[bytes]:
    """Yield the keys of rows, which are given by their refs in ascending order."""
    block = StoredBlock(0, b"")
    for ref in refs:
        if ref > block.last:
            block = read_block(connection, ref, "keys")
        yield block.key(ref)


def inflate(packed: bytes) -> bytes:
    """Decompress, within the memory that a block may need.

    Raises
    ------
    sqlite3.DatabaseError
        If it is damaged, or larger.
    """
    whole = zlib.decompressobj()
    try:
        raw = whole.decompress(packed, _LARGEST)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if not whole.eof:
        raise _damaged(f"it has more than {_LARGEST:,} bytes, or its end is missing")
    return raw


def _damaged(why: str) -> sqlite3.Error:
    return sqlite_error(sqlite3.SQLITE_CORRUPT, f"a block is damaged: {why}")

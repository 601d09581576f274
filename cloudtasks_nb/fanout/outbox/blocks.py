"""Blocks of about a megabyte, in which the outbox stores tasks and preview columns, compressed together."""

from __future__ import annotations

import sqlite3
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import orjson

from cloudtasks_nb.fanout.plan.identity import KEY_SIZE

__all__ = [
    "BLOCK_ROWS",
    "ChunkPreview",
    "StoredBlock",
    "inflate",
    "pack_keys",
    "pack_previews",
    "pack_tasks",
    "unpack_previews",
]

#: Most rows in a block; a multiple of the 100 tasks of a request.
BLOCK_ROWS = 2_000

_LEVEL = 1  # the quickest: bodies of one batch are much alike, so it halves and halves again even so
_WORD = 4
#: Bytes of a decompressed part of a block, several times what is written: a part may come from somebody else's home.
_LARGEST = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPreview:
    """The preview columns of the rows of one chunk that are in a block."""

    n: int  #: rows
    shown: bytes


def pack_keys(keys: Sequence[bytes]) -> bytes:
    """Join keys, with their checksum behind them: a row with another key would be sent again, under another name."""
    joined = b"".join(keys)
    return joined + zlib.crc32(joined).to_bytes(_WORD, "big")


def pack_tasks(tasks: Sequence[bytes]) -> bytes:
    """Compress tasks, with their lengths in front."""
    return zlib.compress(array("I", map(len, tasks)).tobytes() + b"".join(tasks), _LEVEL)


def pack_previews(previews: Sequence[ChunkPreview]) -> bytes:
    """Compress the preview columns of a block's rows, with a table of contents in front."""
    contents = orjson.dumps([(preview.n, len(preview.shown)) for preview in previews])
    head = len(contents).to_bytes(_WORD, "big")
    return zlib.compress(head + contents + b"".join(preview.shown for preview in previews), _LEVEL)


def unpack_previews(packed: bytes) -> Iterator[ChunkPreview]:
    """Yield what `pack_previews` was given."""
    raw = _decompress(packed)
    at = _WORD + int.from_bytes(raw[:_WORD], "big")
    for n, length in orjson.loads(raw[_WORD:at]):
        yield ChunkPreview(n=n, shown=raw[at : at + length])
        at += length


class StoredBlock:
    """A block that is read from the outbox.

    Parameters
    ----------
    first : int
        Ref of its first row.
    keys : bytes
        What `pack_keys` made.
    tasks : bytes
        What `pack_tasks` made.

    Raises
    ------
    sqlite3.DatabaseError
        As for any damage to the file, if a checksum does not fit; so do the methods that decompress.
    """

    def __init__(self, first: int, keys: bytes, tasks: bytes) -> None:
        self.first = first
        self.n = len(keys) // KEY_SIZE
        if zlib.crc32(keys[:-_WORD]) != int.from_bytes(keys[-_WORD:], "big"):
            raise _damaged("the checksum of its keys does not fit")
        self.packed_keys = keys
        self.packed_tasks = tasks

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

    def weight(self, refs: Sequence[int]) -> int:
        """Return how many bytes the tasks of some rows have."""
        return sum(map(len, self.tasks(refs)))

    def tasks(self, refs: Sequence[int]) -> list[bytes]:
        """Return the tasks of some rows, without their names."""
        raw, ends = self._unpacked
        first = self.first
        return [raw[ends[ref - first] : ends[ref - first + 1]] for ref in refs]

    def cut(self, refs: Sequence[int], size: int, weight: int) -> Iterator[Sequence[int]]:
        """Cut rows into groups of at most `size` rows and `weight` bytes of tasks; a row alone may weigh more."""
        raw, ends = self._unpacked
        if len(raw) <= weight:
            yield from (refs[at : at + size] for at in range(0, len(refs), size))
            return
        start, total = 0, 0
        for at, ref in enumerate(refs):
            own = ends[ref - self.first + 1] - ends[ref - self.first]
            if at > start and (at - start == size or total + own > weight):
                yield refs[start:at]
                start, total = at, 0
            total += own
        if start < len(refs):
            yield refs[start:]

    @cached_property
    def _unpacked(self) -> tuple[bytes, list[int]]:
        raw = _decompress(self.packed_tasks)
        head = self.n * _WORD
        lengths = array("I", raw[:head])
        return raw, list(accumulate(lengths, initial=head))


def inflate(packed: bytes) -> bytes:
    """Decompress, within the memory that a block may need.

    Raises
    ------
    zlib.error
        If it is damaged, or larger.
    """
    whole = zlib.decompressobj()
    raw = whole.decompress(packed, _LARGEST)
    if not whole.eof:
        raise zlib.error(f"it has more than {_LARGEST:,} bytes, or its end is missing")
    return raw


def _decompress(packed: bytes) -> bytes:
    try:
        return inflate(packed)
    except zlib.error as error:
        raise _damaged(str(error)) from error


def _damaged(why: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(f"a block is damaged: {why}")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error

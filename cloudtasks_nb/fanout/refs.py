"""A set of rows of the outbox."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["Refs"]


class Refs:
    """A set of refs with one bit each, because a batch may have ten million rows."""

    def __init__(self, refs: Iterable[int] = ()) -> None:
        self._parts: dict[int, bytearray] = {}
        for ref in refs:
            self.add(ref)

    def __len__(self) -> int:
        return sum(int.from_bytes(bits).bit_count() for bits in self._parts.values())

    def __iter__(self) -> Iterator[int]:
        """Yield the refs in ascending order."""
        for part, bits in sorted(self._parts.items()):
            for byte, value in enumerate(bits):
                if value:
                    first = part << 32 | byte << 3
                    yield from (first + bit for bit in range(8) if value >> bit & 1)

    def add(self, ref: int) -> None:
        """Add a ref."""
        byte, bit = divmod(ref & 0xFFFFFFFF, 8)
        bits = self._parts.setdefault(ref >> 32, bytearray())
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits) + len(bits) // 8))
        bits[byte] |= 1 << bit

    def discard(self, ref: int) -> None:
        """Remove a ref, if it is in the set."""
        if self.has(ref):
            self._parts[ref >> 32][(ref & 0xFFFFFFFF) // 8] &= ~(1 << ref % 8)

    def has(self, ref: int) -> bool:
        """Return whether a ref is in the set."""
        byte, bit = divmod(ref & 0xFFFFFFFF, 8)
        bits = self._parts.get(ref >> 32, b"")
        return byte < len(bits) and bool(bits[byte] >> bit & 1)

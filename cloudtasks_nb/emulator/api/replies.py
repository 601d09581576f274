"""Large replies that clients have not read yet: their memory is bounded, however many clients do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cloudtasks_nb.emulator.model.refusal import RefusedError

__all__ = ["LARGE", "UnreadReplies"]

#: Bytes of a reply from which on it is counted.
LARGE = 64 << 10
_MOST = 64 << 20
_PATIENCE = 10.0  # seconds


class UnreadReplies:
    """Counts the bytes of large replies until they are sent."""

    def __init__(self) -> None:
        self._held = 0
        self._released = asyncio.Event()

    async def room(self) -> None:
        """Wait until the unread replies leave room for another one; called before a list is made.

        Raises
        ------
        RefusedError
            ``RESOURCE_EXHAUSTED`` if clients do not read theirs.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._held >= _MOST:
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError as error:
            text = f"Clients do not read {self._held >> 20} MiB of replies. Let them read or stop them, and try again."
            raise RefusedError("RESOURCE_EXHAUSTED", text) from error

    def hold(self, size: int) -> Callable[[], None]:
        """Count a reply; call the result when it was sent, or never will be."""
        self._held += size

        def release() -> None:
            self._held -= size
            self._released.set()

        return release

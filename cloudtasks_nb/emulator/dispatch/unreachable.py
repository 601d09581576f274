"""Keep the addresses on this machine that refuse connections, and probe each once a second until it accepts one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

__all__ = ["UnreachableTargets", "cancel_all"]

_PROBE_EVERY = 1.0  # seconds


class UnreachableTargets:
    """The addresses that refused a connection.

    Parameters
    ----------
    reachable : callable
        Called with each address that accepts connections again.
    """

    def __init__(self, reachable: Callable[[str], None]) -> None:
        self._reachable = reachable
        self.probes: dict[str, asyncio.Task[None]] = {}  #: by address

    def add(self, address: str) -> None:
        """Probe an address until it accepts connections."""
        if address not in self.probes:
            self.probes[address] = asyncio.get_running_loop().create_task(self._probe(address))

    async def close(self) -> None:
        """Stop all probes."""
        probes, self.probes = self.probes, {}
        await cancel_all(probes.values())

    async def _probe(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        while True:
            await asyncio.sleep(_PROBE_EVERY)
            try:
                async with asyncio.timeout(_PROBE_EVERY):
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            except (OSError, TimeoutError):
                continue
            writer.close()
            self.probes.pop(address, None)
            self._reachable(address)
            return


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks of the event loop, and return when they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)

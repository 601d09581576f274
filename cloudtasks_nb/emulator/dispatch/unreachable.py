"""Keep the addresses on this machine that refuse connections, and probe each once a second until it accepts one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["UnreachableTargets"]

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
        self._probes: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, address: str) -> bool:
        return address in self._probes

    def __bool__(self) -> bool:
        return bool(self._probes)

    def add(self, address: str) -> None:
        """Probe an address until it accepts connections."""
        if address not in self._probes:
            self._probes[address] = asyncio.get_running_loop().create_task(self._probe(address))

    async def close(self) -> None:
        """Stop all probes."""
        probes = list(self._probes.values())
        self._probes.clear()
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

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
            self._probes.pop(address, None)
            self._reachable(address)
            return

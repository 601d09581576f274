"""Targets on this machine where nobody listens: their tasks wait, and a probe a second looks whether somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["AbsentTargets"]

_PROBE_EVERY = 1.0  # seconds


class AbsentTargets:
    """The addresses that refused a connection.

    Parameters
    ----------
    returned : callable
        Gets an address where somebody listens again.
    """

    def __init__(self, returned: Callable[[str], None]) -> None:
        self._returned = returned
        self._probes: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, address: str) -> bool:
        return address in self._probes

    def __bool__(self) -> bool:
        return bool(self._probes)

    def add(self, address: str) -> None:
        """Watch an address until somebody listens there."""
        if address not in self._probes:
            self._probes[address] = asyncio.get_running_loop().create_task(self._watch(address))

    async def close(self) -> None:
        """Stop all probes."""
        probes = list(self._probes.values())
        self._probes.clear()
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _watch(self, address: str) -> None:
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
            self._returned(address)
            return

"""How long an emulator lives that belongs to kernels: as long as one of them holds a lease."""

from __future__ import annotations

import asyncio

from aiohttp import web

__all__ = ["Leases"]

# Seconds.
_FIRST_WITHIN = 10.0
_LINGER = 2.0
_LOOK_EVERY = 0.2


class Leases:
    """Counts the open `GET /lease` requests; the operating system closes those of processes that died.

    Parameters
    ----------
    stop : asyncio.Event
        Set when the last one has been closed for a while.
    instance : str
        The emulator's id, a header of the answer: a holder sees whose lease it has.
    """

    def __init__(self, stop: asyncio.Event, instance: str) -> None:
        self._headers = {"Content-Type": "text/plain", "X-Instance": instance}
        self._stop = stop
        self._open = 0
        self._counting = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Let the emulator live by its leases; without a first one within ten seconds it ends."""
        self._counting = True
        self._arm(_FIRST_WITHIN)

    async def hold(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /lease`: the answer begins and does not end."""
        answer = web.StreamResponse(headers=self._headers)
        self._open += 1
        self._disarm()
        try:
            await answer.prepare(request)
            await answer.write(b"held\n")
            while _connected(request):  # noqa: ASYNC110 - aiohttp tells nobody that a client left
                await asyncio.sleep(_LOOK_EVERY)
        except ConnectionError:
            pass
        finally:
            self._open -= 1
            if self._counting and not self._open:
                self._arm(_LINGER)
        return answer

    def close(self) -> None:
        """Let the emulator live without leases."""
        self._counting = False
        self._disarm()

    def _arm(self, delay: float) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(delay, self._stop.set)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _connected(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and not transport.is_closing()

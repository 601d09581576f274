"""A target for tasks, as a program: it answers 200 at once, and reports when each request arrived."""

import asyncio
import json
import sys
import time
from collections import defaultdict

from aiohttp import web


class _Arrivals:
    """The times at which requests arrived, by path."""

    def __init__(self) -> None:
        self._times: defaultdict[str, list[int]] = defaultdict(list)
        self._arrived = asyncio.Event()

    async def record(self, request: web.Request) -> web.Response:
        """Record a request and answer it."""
        # The clock is that of the whole system, so that other processes can compare.
        self._times[request.path].append(time.monotonic_ns())
        self._arrived.set()
        return web.Response()

    async def all(self, _: web.Request) -> web.Response:
        """Return the times of all requests."""
        return web.json_response(self._times)

    async def first(self, request: web.Request) -> web.Response:
        """Return the time of the first request to a path, once it has arrived."""
        path = request.query["path"]
        while path not in self._times:
            self._arrived.clear()
            await self._arrived.wait()
        return web.json_response(self._times[path][0])


async def _serve() -> None:
    arrivals = _Arrivals()
    app = web.Application()
    app.router.add_get("/arrivals", arrivals.all)
    app.router.add_get("/arrival", arrivals.first)
    app.router.add_post("/{name}", arrivals.record)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(json.dumps({"url": f"http://{host}:{port}"}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until the process is ended."""
    asyncio.run(_serve())


if __name__ == "__main__":
    main()

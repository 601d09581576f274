"""An emulator put together, started and stopped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from cloudtasks_nb.emulator._api import all_calls
from cloudtasks_nb.emulator._clock import Clock
from cloudtasks_nb.emulator._commit import Committer
from cloudtasks_nb.emulator._engine import Engine
from cloudtasks_nb.emulator._faults import Faults
from cloudtasks_nb.emulator._folder import Folder
from cloudtasks_nb.emulator._grpc import grpc_server
from cloudtasks_nb.emulator._http import listen
from cloudtasks_nb.emulator._journal import Journal
from cloudtasks_nb.emulator._memory import Claim, QueueState
from cloudtasks_nb.emulator._pb import beta
from cloudtasks_nb.emulator._queues import configured
from cloudtasks_nb.emulator._settings import Settings
from cloudtasks_nb.emulator._store import Store

__all__ = ["run"]


class Idle:
    def wake(self, queues: list[QueueState]) -> None: ...
    def run(self, claim: Claim) -> None: ...


async def run(settings: Settings, ready: Callable[[dict[str, Any]], None], stop: asyncio.Event) -> None:
    with Folder(settings.data_dir) as folder, Journal(folder.database, durable=not folder.temporary) as journal:
        async with AsyncExitStack() as stack:
            clock = Clock()
            store = Store(journal, clock, settings)
            dispatcher = Idle()
            committer = Committer(store, dispatcher.wake)
            stack.push_async_callback(committer.close)
            engine = Engine(
                store=store,
                committer=committer,
                dispatcher=dispatcher,
                clock=clock,
                settings=settings,
                faults=Faults(),
            )
            for name in settings.queues:
                if name not in store.contents.queues:
                    store.create_queue(configured(beta.Queue(name=name)))
            await committer.commit()
            instance = folder.instance()
            server, port = grpc_server(all_calls(engine), instance, settings.host, settings.port)
            app = web.Application()

            async def health(_: web.Request) -> web.Response:
                return web.json_response({"status": "ok"})

            app.router.add_get("/health", health)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            asked = settings.http_port
            http_port = await listen(
                runner, settings.host, (port + 1 if settings.port else 0) if asked is None else asked
            )
            await server.start()
            stack.push_async_callback(server.stop, 1.0)
            endpoint = {
                "grpc": f"{settings.host}:{port}",
                "http": f"http://{settings.host}:{http_port}",
                "pid": os.getpid(),
                "data_dir": str(folder.path),
                "instance": instance,
            }
            folder.announce(endpoint)
            ready(endpoint)
            await stop.wait()

"""Run an emulator: start its parts, wait for the stop event, and close everything."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from cloudtasks_nb._names import HTTP_PORT_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from cloudtasks_nb.emulator.api.engine import Engine
from cloudtasks_nb.emulator.dispatch.unreachable import cancel_all
from cloudtasks_nb.emulator.folder import Folder
from cloudtasks_nb.emulator.frontends.grpc import answer_calls, grpc_server
from cloudtasks_nb.emulator.frontends.http import HttpServer, Leases, host_and_port, listen
from cloudtasks_nb.emulator.frontends.parts import Parts
from cloudtasks_nb.emulator.frontends.single_port import BEHIND, SinglePort
from cloudtasks_nb.emulator.model.clock import CLOCK_SETTING, Clock
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.options import PROGRAM
from cloudtasks_nb.emulator.store.database import TaskDatabase
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.store.sweep import sweep
from cloudtasks_nb.errors import EmulatorError, InvalidInputError

__all__ = ["run"]

# Seconds.
_SWEEP_EVERY = 10.0
_SWEEP_PAUSE = 0.05
_SHRINK_PAGES = 500  # a step takes some milliseconds
_GRACE = 1.0
# After a start or an advance of the clock, many tasks are due and past their retention at once. The sweep leaves them
# for this time, so that they can be sent before it deletes them.
_CATCH_UP = 600.0


async def run(
    settings: Settings,
    ready: Callable[[dict[str, Any]], None],
    stop: asyncio.Event,
    abort: asyncio.Event,
    reload: asyncio.Event | None = None,
) -> None:
    """Run an emulator.

    Parameters
    ----------
    settings : Settings
        Its options.
    ready : callable
        Called with the endpoint when all servers are listening.
    stop : asyncio.Event
        The emulator ends when it is set, and attempts in flight have ended or their grace period is over.
    abort : asyncio.Event
        Ends the grace period.
    reload : asyncio.Event, optional
        Whenever it is set, the configuration file is read again.

    Raises
    ------
    PortInUseError, FolderInUseError
        If it cannot start.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(Folder(settings.data_dir))
        database = TaskDatabase(folder.path / "tasks.sqlite3", durable=not folder.temporary)
        stack.callback(database.close)
        stored = database.read("SELECT value FROM settings WHERE key = ?", (CLOCK_SETTING,))
        clock = Clock(advanced=int(stored[0][0]) if stored else 0)
        store = Store(database, clock, settings)
        store.report = lambda line: _print_line(f"{PROGRAM}: {line}")
        engine = _kind_of_parts(settings)(settings, folder.path, store, clock)
        stack.push_async_callback(engine.close)
        engine.declared.put()
        await engine.committer.commit()
        if not settings.quiet:
            engine.dispatcher.failed = _print_line
            if not (settings.token or settings.strict):
                _print_line(f"{PROGRAM}: every user of this machine can call it; --token asks callers for a token")
        endpoint = await _listen(folder, engine, stop, stack)
        if reload is not None:
            stack.push_async_callback(cancel_all, [asyncio.create_task(_reload_forever(engine, reload))])
        folder.announce(endpoint)
        ready(endpoint)
        await stop.wait()
        await engine.dispatcher.drain(settings.grace, abort)


def _kind_of_parts(settings: Settings) -> type[Parts]:
    if not settings.tls:
        return Parts
    from cloudtasks_nb.emulator.strict.parts import GoogleParts, StrictParts  # noqa: PLC0415 - only with these options

    return StrictParts if settings.strict else GoogleParts


def _print_line(line: str) -> None:
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)  # a target may have written it
    with suppress(OSError):  # nobody reads it any more
        sys.stderr.write(shown + "\n")


async def _listen(folder: Folder, engine: Parts, stop: asyncio.Event, stack: AsyncExitStack) -> dict[str, Any]:
    settings, instance = engine.settings, folder.instance()
    calls = engine.calls()
    leases = Leases(stop, instance)
    stack.callback(leases.close)
    web = HttpServer(engine, calls, leases, instance)
    stack.push_async_callback(web.runner.cleanup)
    bind = _bind_one_port if settings.single_port else _bind_two_ports
    try:
        server, port, http_port = await bind(engine, web, stack)
    except EmulatorError as error:
        values = {field: str(getattr(settings, field)) for field in settings.named_by}
        variables = [settings.named_by[field] for field, value in values.items() if value in error.message]
        if not variables:
            raise
        message = f"{error.message} (from {' and '.join(variables)})"
        raise type(error)(message, resource=error.resource, hint=error.hint) from error
    metadata = {
        INSTANCE_METADATA: instance,
        HTTP_PORT_METADATA: str(http_port),
        LOG_IMMEDIATE_METADATA: "true" if engine.store.log.immediate else "false",
    }
    answer_calls(server, engine, calls, metadata, stop)
    await server.start()
    stack.push_async_callback(server.stop, _GRACE)
    stack.push_async_callback(cancel_all, [asyncio.create_task(_sweep_forever(engine))])
    if settings.lease:
        leases.start()
    engine.dispatcher.wake_all()
    endpoint: dict[str, Any] = {
        "grpc": host_and_port(settings.host, port),
        "http": f"{'https' if engine.tls else 'http'}://{host_and_port(settings.host, http_port)}",
        "pid": os.getpid(),
        "data_dir": str(folder.path),
        "instance": instance,
    }
    if engine.callers.token is not None:
        endpoint |= {"token": engine.callers.token, "console": endpoint["http"] + engine.callers.console()}
    await engine.listen(endpoint, port, http_port, stack)
    return endpoint


async def _bind_two_ports(engine: Parts, web: HttpServer, _: AsyncExitStack) -> tuple[Any, int, int]:
    """Return a gRPC server that is not started yet, its port, and that of HTTP."""
    settings = engine.settings
    server, port = grpc_server(settings.host, settings.port, engine.credentials, engine.interceptors)
    http_port = settings.http_port
    if http_port is None and settings.own_issuer is not None:
        http_port = settings.own_issuer.port
    if http_port is None:
        http_port = (port + 1) % 65_536 if settings.port else 0  # 0, a free port, if there is no next port
    return server, port, await listen(web.runner, settings.host, http_port, "--http-port", engine.tls)


async def _bind_one_port(engine: Parts, web: HttpServer, stack: AsyncExitStack) -> tuple[Any, int, int]:
    """Do the same with one port for both; TLS ends there."""
    server, behind = grpc_server(BEHIND, 0, None, engine.interceptors)
    single = SinglePort(await web.protocols(), behind)
    stack.push_async_callback(single.close)
    port = await single.listen(engine.settings.host, engine.settings.port, engine.tls)
    return server, port, port


async def _reload_forever(engine: Engine, reload: asyncio.Event) -> None:
    while True:
        await reload.wait()
        reload.clear()
        try:
            lines = engine.declared.reload()
        except InvalidInputError as error:
            lines = [f"nothing was changed, because {error.message}{f' → {error.hint}' if error.hint else ''}"]
        await engine.committer.commit()
        engine.dispatcher.wake_all()
        for line in lines:
            _print_line(f"{PROGRAM}: {line}")


async def _sweep_forever(engine: Engine) -> None:
    # An advance of the clock returns only after expired data is deleted.
    due, loop = asyncio.Event(), asyncio.get_running_loop()
    caught_up_at = loop.time() + _CATCH_UP  # tasks may have become due while no emulator ran

    def sweep_now(_: int) -> None:
        nonlocal caught_up_at
        caught_up_at = loop.time() + _CATCH_UP
        _sweep(engine, keep_due=True)
        due.set()

    engine.clock.subscribe(sweep_now)
    engine.store.purged = due.set
    swept = False
    while True:
        due.clear()
        more = _sweep(engine, keep_due=loop.time() < caught_up_at)
        if swept and not more:
            _trim_heap()
        swept = more
        if not more and not await _shrink(engine):
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_EVERY):
                    await due.wait()
        await asyncio.sleep(_SWEEP_PAUSE)


def _sweep(engine: Engine, *, keep_due: bool) -> bool:
    more = sweep(engine.store, engine.clock.now(), keep_due=keep_due)
    if len(engine.store.database):  # statements that are not committed
        engine.committer.commit_soon()
    return more


def _trim_heap() -> None:
    """Return freed memory to the system: glibc keeps what lies below memory in use, tens of megabytes."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


async def _shrink(engine: Engine) -> bool:
    await engine.committer.wait_idle()
    return engine.store.database.shrink(_SHRINK_PAGES)

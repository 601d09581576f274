"""The emulator's command line: ``python -m cloudtasks_nb.emulator``."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

if sys.platform != "win32":
    import resource

import orjson

from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import CloudTasksError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an emulator until it is stopped, and return its exit code."""
    gc.disable()  # nothing that a start loads becomes garbage
    before = os.umask(0o077)  # tasks and keys are for this user alone, also in a folder that others can read
    try:
        from cloudtasks_nb.emulator import options  # noqa: PLC0415 - an import is quicker without the collector

        words = sys.argv[1:] if arguments is None else arguments
        if words[:1] == ["run"]:
            from cloudtasks_nb.emulator.program import run_program  # noqa: PLC0415 - only for this verb

            return run_program(words[1:], os.environ, before)
        settings = options.read_options(arguments, os.environ)
        _allow_many_files()
        asyncio.run(_run(settings))
    except CloudTasksError as error:
        sys.stderr.write(f"{options.PROGRAM}: {error.message}{f' → {error.hint}' if error.hint else ''}\n")
        return 1
    finally:
        gc.enable()
        os.umask(before)
    return 0


def _allow_many_files() -> None:
    """Raise the limit of open files to the system's maximum, because thousands of attempts may be in flight."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems report a maximum that they do not allow
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(settings: Settings) -> None:
    from cloudtasks_nb.emulator.server import run  # noqa: PLC0415 - as above

    stop, abort, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        (abort if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, end)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, reload.set)
    await run(settings, _announce, stop, abort, reload)


def _announce(endpoint: dict[str, Any]) -> None:
    """Print the endpoint; all data is loaded, and all servers are listening."""
    # Modules and loaded data are permanent, so the garbage collector need not scan them again and again.
    gc.freeze()
    gc.enable()
    sys.stdout.write(orjson.dumps(endpoint).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

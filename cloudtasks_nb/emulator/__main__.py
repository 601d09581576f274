"""The emulator's command line: ``python -m cloudtasks_nb.emulator``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import resource

import orjson

from cloudtasks_nb.emulator.frontends.guard import host_of
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.server import run
from cloudtasks_nb.errors import CloudTasksError

__all__ = ["main"]

_PORTS = 65_536
_CENTURY = 100 * 365 * 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an emulator until it is stopped, and return its exit code."""
    parser = _parser()
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    if not given["strict"] and (given["metadata_port"] is not None or given["proxy_port"] is not None):
        parser.error("--metadata-port and --proxy-port need --strict")
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    settings = Settings(**given)
    _allow_many_files()
    try:
        asyncio.run(_run(settings))
    except CloudTasksError as error:
        sys.stderr.write(f"cloudtasks-nb emulator: {error.message}{f' → {error.hint}' if error.hint else ''}\n")
        return 1
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
    stop, abort = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        (abort if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, end)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    await run(settings, _print_endpoint, stop, abort)


def _print_endpoint(endpoint: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(endpoint).decode() + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloudtasks-nb emulator", description="A complete local emulator of Cloud Tasks with gRPC and REST."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=_port, default=8123, help="gRPC port, 0 for a free one (%(default)s)")
    add("--http-port", type=_port, help="port for REST and /admin (the one after --port; with --port 0 a free one)")
    add(
        "--allow-host",
        action="append",
        default=[],
        dest="allow_hosts",
        type=_host,
        metavar="NAME",
        help="answer HTTP requests to this name too, and those of web pages from there; may be repeated",
    )
    add("--data-dir", type=Path, metavar="FOLDER", help="the data folder (by default a temporary one)")
    add("--queue", action="append", default=[], dest="queues", metavar="NAME", help="create a queue; may be repeated")
    add("--strict", action="store_true", help="like Google: TLS, bearer tokens and the permissions of IAM roles")
    add("--metadata-port", type=_port, metavar="PORT", help="with --strict, port of a metadata server")
    add("--proxy-port", type=_port, metavar="PORT", help="with --strict, port of an HTTPS proxy to *.googleapis.com")
    add("--quiet", action="store_true", help="write no line to the standard error for a failed attempt")
    add(
        "--grace",
        type=_seconds,
        default="10",
        metavar="SECONDS",
        help="how long attempts in flight may go on after a signal to stop; a second signal ends them (%(default)s)",
    )
    add("--lease", action="store_true", help="stop 2 s after the last request GET /lease was closed")
    add(
        "--wait-for-loopback",
        action="store_true",
        help="a connection that this machine refuses is no attempt: wait until the target listens",
    )
    _add_divergences(add)
    return parser


def _add_divergences(add: Callable[..., argparse.Action]) -> None:
    """Add the options that change the behaviour of the service."""
    add("--openid-issuer", default="https://accounts.google.com", metavar="URL", help="issuer of OIDC tokens")
    add("--app-engine-host", metavar="URL", help="URL of the App Engine application")
    add("--https-ca", type=Path, metavar="FILE", help="certificates of targets that are trusted besides the system's")
    add("--https-insecure", action="store_true", help="do not check certificates of targets")
    add("--no-batch", action="store_true", help="answer batch calls with UNIMPLEMENTED")
    add(
        "--create-queues-on-demand",
        action="store_true",
        dest="queues_on_demand",
        help="CreateTask creates a missing queue",
    )
    add(
        "--hard-reset-on-purge-queue",
        action="store_true",
        dest="hard_reset_on_purge",
        help="PurgeQueue also frees the names of tasks",
    )
    for option, default, text in (
        ("--task-tombstone", "3600", "how long names of tasks stay taken (%(default)s)"),
        ("--queue-tombstone", "259200", "how long names of queues stay taken (%(default)s)"),
        ("--new-queue-delay", "0", "how long calls answer NOT_FOUND for a new queue (%(default)s)"),
        ("--log-delay", "0", "delay of log entries (%(default)s)"),
    ):
        add(option, type=_microseconds, default=default, metavar="SECONDS", help=text)
    add(
        "--log-limit",
        type=_positive,
        default=5_000_000,
        metavar="ENTRIES",
        help="log entries that are kept, the newest; those of one batch call count as one (%(default)s)",
    )
    add(
        "--log-index-delay",
        action="extend",
        nargs="+",
        default=[],
        type=_share,
        metavar="SHARE:SECONDS",
        help="this share of log entries is received at once and can be read only after the delay; may be repeated",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _share(text: str) -> tuple[float, int]:
    share, colon, seconds = text.partition(":")
    if not colon or not 0 <= float(share) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not SHARE:SECONDS with a share from 0 to 1, such as 0.05:45")
    return float(share), _microseconds(seconds)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < _PORTS:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to {_PORTS - 1}")
    return port


def _host(text: str) -> str:
    host = host_of(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
    if host is None:
        raise argparse.ArgumentTypeError(f"{text} is not the name of a host")
    return host


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _CENTURY:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to a hundred years")
    return seconds


def _microseconds(text: str) -> int:
    return round(_seconds(text) * SECOND)


if __name__ == "__main__":
    sys.exit(main())

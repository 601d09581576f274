"""The command line: ``cloudtasks-nb emulator | doctor | batches | watch``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cloudtasks_nb._client import Client, connect, local
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.batch._catalog import outbox_path
from cloudtasks_nb.fanout.outbox._outbox import Outbox

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["emulator"]:
        return _emulator(given[1:])
    options = _parser().parse_args(given)
    try:
        return int(options.run(options))
    except CloudTasksError as error:
        sys.stderr.write(f"cloudtasks-nb: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cloudtasks-nb", description="Google Cloud Tasks from a terminal.")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--project", help="as in connect(): environment and gcloud's configuration when left out")
    where.add_argument("--location", help="as in connect()")
    where.add_argument("--local", metavar="FOLDER", help="the embedded emulator of this folder instead of Google")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("emulator", help="run the emulator on its own; --help lists its options", add_help=False)
    doctor = commands.add_parser("doctor", parents=[where], help="say what is wrong with the connection")
    doctor.set_defaults(run=_doctor)
    batches = commands.add_parser("batches", parents=[where], help="list the batches that were sent from this machine")
    batches.set_defaults(run=_batches)
    watch = commands.add_parser(
        "watch",
        help="watch a batch to its end",
        description="Watch a batch to its end, on the endpoint that it was sent to. The exit code is 0 when it went "
        "well, 1 if some rows failed, were rejected or are gone, 2 if it cannot be watched.",
    )
    watch.add_argument("batch", help="its id, the beginning of it, or its name")
    watch.set_defaults(run=_watch)
    return parser


def _client(options: argparse.Namespace) -> Client:
    if options.local is not None:
        return local(options.local, project=options.project or "local", location=options.location or "us-central1")
    return connect(options.project, options.location)


def _emulator(arguments: Sequence[str]) -> int:  # noqa: RET503 - exec does not return
    """Become the emulator, so that signals reach it and its exit code is this one's."""
    command = [sys.executable, "-m", "cloudtasks_nb.emulator", *arguments]
    if sys.platform == "win32":
        return subprocess.call(command)  # noqa: S603 - our own command
    os.execv(sys.executable, command)  # noqa: S606 - our own command


def _doctor(options: argparse.Namespace) -> int:
    with _client(options) as tasks:
        found = tasks.doctor()
    _print(found)
    return 0 if bool(found["ok"].all()) else 1


def _batches(options: argparse.Namespace) -> int:
    """List the batches of all connections, or only those of the place that was named; makes no call."""
    folder = None if options.local is None else str(Path(options.local).expanduser().resolve())
    with Outbox(outbox_path()) as outbox:
        rows = [
            {
                "batch": record.id,
                "name": record.name,
                "endpoint": record.place.endpoint,
                "queue": record.place.queue,
                "created": record.created.strftime("%Y-%m-%d %H:%M UTC"),
                "rows": record.total,
                **{state.name.lower(): count for state, count in record.counts.items() if count},
            }
            for record in outbox.batches(project=options.project, location=options.location)
            if folder in {None, _reach(outbox, record.id).get("folder")}
        ]
    if rows:
        _print(pd.DataFrame(rows).set_index("batch").convert_dtypes())
    else:
        sys.stdout.write("no batches were sent from this machine yet\n")
    return 0


def _reach(outbox: Outbox, batch: str) -> dict[str, Any]:
    """Return how the endpoint was reached that a batch was sent to."""
    return outbox.settings(batch).get("reach") or {}


def _watch(options: argparse.Namespace) -> int:
    """Watch where the batch was sent to; starts the emulator of its folder if it does not run."""
    with Outbox(outbox_path()) as outbox:
        record = outbox.batch(options.batch)
        reach = _reach(outbox, record.id)
    place = record.place
    if place.endpoint == "google":
        client = connect(place.project, place.location)
    elif reach.get("folder"):
        client = local(reach["folder"], project=place.project, location=place.location)
    else:
        client = connect(place.project, place.location, endpoint=reach.get("target", place.endpoint))
    with client as tasks:
        batch = tasks.batch(record.id)
        batch.wait()
        sys.stdout.write(f"{batch!r}\n")
        progress = batch.progress()
    return 1 if progress.failed or progress.gone or progress.rejected else 0


def _print(frame: pd.DataFrame) -> None:
    """Write a frame as text, texts to the left, nothing for what is missing."""
    words = frame.reset_index().astype(object).where(frame.reset_index().notna(), "").astype(str)
    widths = [max([len(name), *words[name].str.len()]) for name in words.columns]
    lines = [words.columns.tolist(), *words.to_numpy().tolist()]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")

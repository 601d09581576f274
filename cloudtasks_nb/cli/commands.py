"""The commands of the toolkit: ``cloudtasks-nb doctor | batches | watch``."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cloudtasks_nb._settings import store_place
from cloudtasks_nb.client.client import Client, connect
from cloudtasks_nb.client.local import local
from cloudtasks_nb.display.notify import notes_on
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import escape_controls
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.fanout.batch.catalog import outbox_path
from cloudtasks_nb.fanout.batch.deletion import Others, delete, delete_old, in_use, notify_deleted, older
from cloudtasks_nb.fanout.batch.status import stored_progress
from cloudtasks_nb.fanout.outbox.outbox import Outbox, choose
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.endpoint import LOCAL_LOCATION, LOCAL_PROJECT
from cloudtasks_nb.store.store import Store

__all__ = ["main"]

#: Calls that the hints of errors recommend, and the commands that do the same.
_COMMANDS = {
    "tasks.batches()": "cloudtasks-nb batches",
    "tasks.doctor()": "cloudtasks-nb doctor",
    "batch.resume()": "cloudtasks-nb watch BATCH --resume",
}

#: Help on the options of `doctor`, which select a connection.
_CONNECTION_HELP = {
    "project": "project; by default from the environment or gcloud's configuration",
    "location": "location; by default from the environment or gcloud's configuration",
    "local": "connect to the embedded emulator of this folder instead of Google",
}
#: Help on the same options of `batches` and `watch`, which select batches of all connections.
_FILTER_HELP = {
    "project": "only batches in queues of this project",
    "location": "only batches in queues of this location",
    "local": "only batches that were sent to the embedded emulator of this folder",
}

_OLD = ""  # of `--delete` without a batch
_SIGPIPE = 141  # exit code of a program that has written to a closed pipe, as shells report it

#: Titles of columns that differ from the state. Rows with a known outcome have another state, so sent ones are pending.
_TITLES = {State.SENT: "pending"}


def main(given: Sequence[str]) -> int:
    """Run a command, and return the exit code."""
    try:
        try:
            return _run(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return _SIGPIPE
    except CloudTasksError as error:
        text = str(error)
        for call, command in _COMMANDS.items():
            text = text.replace(call, command)
        sys.stderr.write(f"cloudtasks-nb: {text}\n")
        return 2


def _run(given: Sequence[str]) -> int:
    parser = _parser()
    options, more = parser.parse_known_args(given)
    if options.run is None:  # `emulator` came after another option
        parser.error("options of the emulator come after its name: cloudtasks-nb emulator --help")
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    with notes_on(sys.stdout):
        return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cloudtasks-nb", description="Google Cloud Tasks from a terminal.")
    parser.add_argument("--version", action="version", version=f"cloudtasks-nb {_version()}")
    _add_options(parser, _CONNECTION_HELP, default=None)
    # The options may come before or after the command; SUPPRESS keeps a value from before it.
    connection, batch_filter = (argparse.ArgumentParser(add_help=False) for _ in range(2))
    _add_options(connection, _CONNECTION_HELP, default=argparse.SUPPRESS)
    _add_options(batch_filter, _FILTER_HELP, default=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    emulator = commands.add_parser("emulator", help="run the emulator on its own; --help lists its options")
    emulator.set_defaults(run=None)
    _add_doctor(commands, connection)
    batches = commands.add_parser(
        "batches",
        parents=[batch_filter],
        help="list or delete the batches that were sent from this machine",
        description="List the batches that were sent from this machine, or delete some of them with their results. "
        "Batches that are being sent or have tasks in the queue are never deleted.",
    )
    batches.add_argument(
        "--delete",
        metavar="BATCH",
        nargs="?",
        const=_OLD,
        help="delete this batch: its id, the beginning of its id, or its name; without it those of --older-than",
    )
    batches.add_argument("--older-than", metavar="AGE", help="only batches that did not change for so long: 7d, 12h")
    batches.add_argument("--dry-run", action="store_true", help="only print what --delete would delete")
    batches.set_defaults(run=_batches)
    _add_watch(commands, batch_filter)
    return parser


def _add_doctor(commands: Any, connection: argparse.ArgumentParser) -> None:
    doctor = commands.add_parser("doctor", parents=[connection], help="check the connection")
    doctor.add_argument("--url", help="send one task to this target too, with a GET request, and explain its answer")
    doctor.add_argument("--service-account", metavar="EMAIL", help="account whose token that task has")
    doctor.add_argument("--audience", help="audience of the token; by default the origin of the URL")
    doctor.set_defaults(run=_doctor)


def _add_watch(commands: Any, batch_filter: argparse.ArgumentParser) -> None:
    watch = commands.add_parser(
        "watch",
        parents=[batch_filter],
        help="watch a batch until it is done",
        description="Watch a batch until it is done, at the endpoint that it was sent to. The exit code is 0 if all "
        "rows succeeded or were cancelled, 1 if some failed, were rejected or are gone, 2 if the batch cannot be "
        "watched.",
    )
    watch.add_argument("batch", help="its id, the beginning of its id, or its name")
    watch.add_argument("--resume", action="store_true", help="send its unsent rows first")
    watch.set_defaults(run=_watch)


def _add_options(parser: argparse.ArgumentParser, texts: Mapping[str, str], *, default: Any) -> None:
    parser.add_argument("--project", default=default, help=texts["project"])
    parser.add_argument("--location", default=default, help=texts["location"])
    parser.add_argument("--local", metavar="FOLDER", default=default, help=texts["local"])


def _version() -> str:
    try:
        return importlib.metadata.version("cloudtasks-nb")
    except importlib.metadata.PackageNotFoundError:  # run from a source folder without installation
        return "(not installed)"


def _client(options: argparse.Namespace) -> Client:
    if options.local is not None:
        project, location = options.project or LOCAL_PROJECT, options.location or LOCAL_LOCATION
        return local(options.local, project=project, location=location)
    return connect(options.project, options.location)


def _doctor(options: argparse.Namespace) -> int:
    with _client(options) as tasks:
        found = tasks.doctor(options.url, options.service_account, audience=options.audience)
    _print(found)
    return 0 if bool(found["ok"].all()) else 1


def _batches(options: argparse.Namespace) -> int:
    """List or delete the batches of all connections, or only those that the options select; makes no call."""
    if options.delete is not None:
        return _delete(options)
    with Outbox(outbox_path()) as outbox:
        found = _select(outbox, options)
        if options.older_than is not None:
            found = older(found, options.older_than)
        sizes = outbox.batches.sizes()
        now = dt.datetime.now(dt.UTC)
        states = [state for state in State if any(record.counts.get(state) for record in found)]
        rows = [
            {
                "batch": record.id,
                "name": record.name,
                "state": stored_progress(outbox, record, now).state,
                "endpoint": _endpoint(record),
                "queue": record.place.queue,
                "who": record.made_by,
                "created": record.created.strftime("%Y-%m-%d %H:%M UTC"),
                "size": f"{sizes.get(record.id, 0) / 1e6:,.1f} MB",
                "rows": record.total,
                **{_TITLES.get(state, state.word): record.counts.get(state, 0) for state in states},
            }
            for record in found
        ]
    if rows:
        _print(pd.DataFrame(rows).set_index("batch").convert_dtypes())
    else:
        filtered = {options.project, options.location, options.local, options.older_than} != {None}
        sys.stdout.write(f"no {'such ' if filtered else ''}batches were sent from this machine yet\n")
    return 0


def _delete(options: argparse.Namespace) -> int:
    """Delete one batch, or those that did not change for a time; or say what would be deleted."""
    if (options.delete == _OLD) == (options.older_than is None):
        raise InvalidInputError(
            "--delete needs either a batch or --older-than",
            hint="cloudtasks-nb batches --delete a91f03c2, or cloudtasks-nb batches --delete --older-than 7d",
        )

    with Outbox(outbox_path()) as outbox:

        def delete_one(record: BatchRecord, others: Others = "leave") -> int:
            place = record.facts.reached.store or store_place(None)
            store = Store(place, Auth().storage_token)
            return delete(outbox, store, record, others)

        found = _select(outbox, options)
        if options.delete == _OLD:
            delete_old(outbox, found, delete_one, older_than=options.older_than, dry_run=options.dry_run)
            return 0
        record = choose(found, options.delete)
        what = f"batch {record.id}: {counted(record.total, 'rows')}"
        if not options.dry_run:
            notify_deleted(what, delete_one(record, "ask"))
        elif reason := in_use(outbox, record):
            sys.stdout.write(f"would not delete batch {record.id}: {reason}\n")
        else:
            sys.stdout.write(f"would delete {what}, and their results\n")
    return 0


def _select(outbox: Outbox, options: argparse.Namespace) -> list[BatchRecord]:
    """Return the batches that the options select, newest first."""
    folder = None if options.local is None else str(Path(options.local).expanduser().resolve())
    found = outbox.batches.find(project=options.project, location=options.location)
    return [record for record in found if folder in {None, record.facts.reached.folder}]


def _endpoint(record: BatchRecord) -> str:
    """Return the text for a batch's endpoint: ``google``, the emulator's folder, or its address."""
    if record.place.endpoint == "google":
        return "google"
    return record.facts.reached.folder or record.facts.reached.target or record.place.endpoint


def _watch(options: argparse.Namespace) -> int:
    """Watch a batch at its endpoint, or send it first; start the emulator of its folder if it does not run."""
    with Outbox(outbox_path()) as outbox:
        record = choose(_select(outbox, options), options.batch)
    place, reached = record.place, record.facts.reached
    store = {"store": reached.store} if reached.store else {}
    if place.endpoint == "google":
        client = connect(place.project, place.location, **store)
    elif reached.folder:
        client = local(reached.folder, project=place.project, location=place.location, **store)
    else:
        client = connect(place.project, place.location, endpoint=reached.target or place.endpoint, **store)
    with client as tasks:
        batch = tasks.batch(record.id)
        if options.resume:
            batch.resume()
        batch.wait()
        sys.stdout.write(f"{batch!r}\n")
        progress = batch.progress()
    return 1 if progress.failed or progress.gone or progress.rejected else 0


def _print(frame: pd.DataFrame) -> None:
    """Print a frame with left-aligned columns, and nothing for missing cells."""
    cells = frame.reset_index().astype(object).where(frame.reset_index().notna(), "").astype(str).map(escape_controls)
    widths = [max([len(name), *cells[name].str.len()]) for name in cells.columns]
    lines = [cells.columns.tolist(), *cells.to_numpy().tolist()]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")

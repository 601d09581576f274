"""The command line: ``cloudtasks-nb emulator | doctor | batches | watch``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

import pandas as pd

from cloudtasks_nb._client import Client, connect, local
from cloudtasks_nb.errors import CloudTasksError

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


def _print(frame: pd.DataFrame) -> None:
    with pd.option_context("display.width", 200, "display.max_colwidth", 90, "display.max_columns", None):
        sys.stdout.write(f"{frame.to_string(na_rep='')}\n")

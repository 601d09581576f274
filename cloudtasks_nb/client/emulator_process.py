"""The embedded emulator as a child process: how it is started, and held by those who use it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import OK, HTTPConnection, HTTPException
from typing import Any

__all__ = ["Child", "hold", "instance_at", "start"]

_ANSWER_TIMEOUT = 5.0  # seconds; it is on this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """An emulator that is ready."""

    facts: Mapping[str, Any]  #: its ready line: `grpc`, `http`, `pid`, `data_dir`, `instance`
    process: subprocess.Popen[str]


def start(arguments: Sequence[str], patience: float) -> tuple[Child | None, str]:
    """Start an emulator on free ports, which lives as long as somebody holds it.

    Parameters
    ----------
    arguments : sequence of str
        More of its command line.
    patience : float
        Seconds that it has to get ready.

    Returns
    -------
    tuple
        The child, or None and what it said instead of getting ready.
    """
    command = [sys.executable, "-m", "cloudtasks_nb.emulator", "--port", "0", "--lease", *arguments]
    with tempfile.TemporaryFile("w+") as words:
        # Its own session (process group on Windows): Jupyter's interrupt signals the whole group of the kernel.
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        line, late = _first_line(process, patience)
        if line.startswith("{"):
            _reap(process)
            return Child(facts=json.loads(line), process=process), ""
        process.wait()
        words.seek(0)
        end = "it was not ready in time" if late else f"it ended with code {process.returncode}"
        return None, words.read().strip()[-2000:] or end


def _first_line(process: subprocess.Popen[str], patience: float) -> tuple[str, bool]:
    """Return the first line that a child prints, and whether it was killed because it did not."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(patience, give_up)
    timer.daemon = True
    timer.start()
    try:
        return process.stdout.readline() if process.stdout is not None else "", late.is_set()
    except BaseException:  # an interrupt: nobody will hold it
        process.kill()
        process.wait()
        raise
    finally:
        timer.cancel()
        if process.stdout is not None:
            process.stdout.close()


def _reap(process: subprocess.Popen[str]) -> None:
    """Wait for the child in a thread, so that none is left as a zombie when it ends before this process does."""
    threading.Thread(target=process.wait, name="cloudtasks-nb-emulator", daemon=True).start()


def hold(facts: Mapping[str, Any]) -> HTTPConnection | None:
    """Hold an emulator until the connection is closed; None when nobody answers there, or somebody else does."""
    connection = HTTPConnection(facts["http"].removeprefix("http://"), timeout=_ANSWER_TIMEOUT)
    try:
        connection.request("GET", "/lease")
        answer = connection.getresponse()
    except (OSError, HTTPException):
        connection.close()
        return None
    if answer.status != OK or instance_at(facts["http"]) != facts["instance"]:
        connection.close()
        return None
    return connection


def instance_at(http: str) -> str | None:
    """Return the id of the emulator at an address; None when none answers."""
    connection = HTTPConnection(http.removeprefix("http://"), timeout=_ANSWER_TIMEOUT)
    try:
        connection.request("GET", "/health")
        instance = json.loads(connection.getresponse().read())["instance"]
    except (OSError, HTTPException, ValueError, TypeError, KeyError):
        return None
    finally:
        connection.close()
    return str(instance)

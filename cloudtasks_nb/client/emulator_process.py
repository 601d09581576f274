"""The embedded emulator: a child process that all kernels share which use its folder, and that ends after the last."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import OK, HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from cloudtasks_nb._names import OPTION_VARIABLES, TOKEN_METADATA
from cloudtasks_nb._settings import emulators, home, make_folder
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import EmulatorError, FolderInUseError, InvalidInputError
from cloudtasks_nb.service.absent_handlers import get_json, has_ended

__all__ = ["Child", "Lease", "attach", "call_admin", "connection", "hold", "note", "start"]

_START_TIMEOUT = 120.0  # seconds; a start takes one, on a crowded machine or with a large folder many more
_ANSWER_TIMEOUT = 5.0  # seconds; it is on this machine
_ADMIN_TIMEOUT = 30.0  # seconds
_ENDPOINT_FILE = "endpoint.json"
_FACTS = ("grpc", "http", "pid", "instance")

_lock = threading.Lock()
_leases: dict[Path | None, Lease] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """An emulator that was started and is ready."""

    facts: Mapping[str, Any]  #: its ready line: `grpc`, `http`, `pid`, `data_dir`, `instance`, and of a strict one `ca`
    process: subprocess.Popen[str]


@dataclass(eq=False, slots=True, kw_only=True)
class Lease:
    """A running emulator that this process keeps alive until its last connection is closed."""

    grpc: str  #: ``127.0.0.1:PORT``
    http: str  #: ``http://127.0.0.1:PORT``
    pid: int
    instance: str  #: UUID of the data folder
    token: str | None  #: which each call must come with
    folder: Path | None  #: None: temporary, ends with its last kernel
    held: HTTPConnection  #: the emulator runs as long as it is open
    users: int = 0  #: open connections of this process

    def close(self) -> None:
        """End one use, once for each `attach`; the emulator ends two seconds after the last one of any process."""
        with _lock:
            self.users -= 1
            if self.users > 0:
                return
            if _leases.get(self.folder) is self:
                del _leases[self.folder]
        self.held.close()


def attach(folder: str | os.PathLike[str] | None, *, clock: Callable[[], float] = time.monotonic) -> Lease:
    """Return the emulator of a folder, or the temporary one of this process; starts it if it does not run.

    Raises
    ------
    EmulatorError
        If it does not start; with its output.
    FolderInUseError
        If the folder is held by an emulator that does not answer.
    InvalidInputError
        If `folder` is not a path.
    """
    path = None if folder is None else _make_folder(folder)
    with _lock:
        lease = _leases.get(path)
        if lease is None or _instance_at(lease.http) != lease.instance:
            if lease is not None:
                lease.held.close()
            lease = _leases[path] = _join_or_start(path, clock)
        lease.users += 1
        return lease


def start(arguments: Sequence[str], timeout: float = _START_TIMEOUT) -> tuple[Child | None, str]:
    """Start an emulator on free ports; it runs until its last lease is closed.

    Parameters
    ----------
    arguments : sequence of str
        Further arguments of its command line.
    timeout : float
        Seconds until it must be ready.

    Returns
    -------
    tuple
        The child and ""; or None and its output, if it did not get ready.
    """
    command = [sys.executable, "-m", "cloudtasks_nb.emulator", "--port", "0", "--lease", "--quiet", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OPTION_VARIABLES)}
    with tempfile.TemporaryFile("w+") as output:
        # Its own session (process group on Windows): Jupyter's interrupt signals the whole group of the kernel.
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        line, late = _first_line(process, timeout)
        if line.startswith("{"):
            # Waited for in a thread, so that it does not stay as a zombie when it ends before this process.
            threading.Thread(target=process.wait, name="cloudtasks-nb-emulator", daemon=True).start()
            return Child(facts=json.loads(line), process=process), ""
        process.wait()
        output.seek(0)
        end = "it was not ready in time" if late else f"it ended with code {process.returncode}"
        return None, output.read().strip()[-2000:] or end


def hold(facts: Mapping[str, Any]) -> HTTPConnection | None:
    """Keep an emulator running until the connection is closed; None if it does not answer at its address."""
    held = connection(facts, _ANSWER_TIMEOUT)
    instance = None
    try:
        held.request("GET", "/lease", headers=_headers(facts))
        answer = held.getresponse()
        instance = answer.getheader("X-Instance") if answer.status == OK else None
    except (OSError, HTTPException):
        pass
    if instance != facts["instance"]:
        held.close()
        return None
    return held


def call_admin(facts: Mapping[str, Any], method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
    """Call an endpoint below ``/admin/`` of an emulator, and return its answer.

    Raises
    ------
    EmulatorError
        If it refuses, or does not answer.
    """
    opened = connection(facts, _ADMIN_TIMEOUT)
    try:
        body = None if content is None else json.dumps(content)
        opened.request(method, f"/admin/{path}", body, {"Content-Type": "application/json", **_headers(facts)})
        answer = opened.getresponse()
        found = json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        http = facts["http"]
        raise EmulatorError(f"the emulator at {http} does not answer: {error}", resource=http) from error
    finally:
        opened.close()
    if answer.status != OK:
        raise EmulatorError(str(found["error"]), resource=facts["http"])
    return found


def connection(facts: Mapping[str, Any], timeout: float) -> HTTPConnection:
    """Return a connection to an emulator's HTTP interface, with TLS to a strict one."""
    scheme, host, *_ = urllib.parse.urlsplit(facts["http"])
    if scheme == "https":
        return HTTPSConnection(host, timeout=timeout, context=ssl.create_default_context(cafile=facts.get("ca")))
    return HTTPConnection(host, timeout=timeout)


def _make_folder(folder: str | os.PathLike[str]) -> Path:
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise InvalidInputError(
            f"folder={folder!r} is not a folder",
            resource="folder",
            hint='name a folder, ct.local("folder"), or leave it out, ct.local(): then nothing is kept',
        )
    path = make_folder(Path(folder).expanduser().resolve(), EmulatorError, hint="name a folder that can be written to")
    if not os.access(path, os.W_OK):
        raise EmulatorError(f"the folder {path} cannot be written to", resource=str(path), hint="name another folder")
    if not Path(folder).expanduser().is_absolute() and not any(path.iterdir()):
        notify(f"a new emulator folder: {path}")
    return path


def _join_or_start(folder: Path | None, clock: Callable[[], float]) -> Lease:
    """Join the emulator of a folder, or start one; if another process starts one at the same time, join that."""
    deadline = clock() + _START_TIMEOUT
    arguments = ["--token", "--wait-for-loopback", *([] if folder is None else ["--data-dir", str(folder)])]
    in_use = ""
    while clock() < deadline:
        lease = None if folder is None else _join(folder)
        if lease is not None:
            return lease
        child, output = start(arguments, max(1.0, deadline - clock()))
        if child is not None:
            lease = _lease(child.facts, folder)
            if lease is not None:
                return lease
        elif folder is not None and "in use" in output:
            in_use = output
        elif not in_use:
            raise EmulatorError(
                f"the emulator did not start: {output}", hint="python -m cloudtasks_nb.emulator shows more"
            )
    raise FolderInUseError(
        f"the folder {folder} is held by an emulator that does not answer: {in_use}",
        resource=str(folder),
        hint="end that process, or use another folder",
    )


def _join(folder: Path) -> Lease | None:
    """Return the lease on the emulator whose address the folder holds; None if it does not run."""
    try:
        return _lease(json.loads((folder / _ENDPOINT_FILE).read_text()), folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no file, or not one that an emulator wrote
        return None


def _lease(facts: Mapping[str, Any], folder: Path | None) -> Lease | None:
    held = hold(facts)
    if held is None:
        return None
    note(facts)
    return Lease(**{name: facts[name] for name in _FACTS}, token=facts.get("token"), folder=folder, held=held)


def note(facts: Mapping[str, Any]) -> None:
    """Write the token of an emulator to the home, if it has one, and remove those of emulators that have ended.

    Kernels and commands that know only its port find the token there.
    """
    if not facts.get("token"):
        return
    home()
    folder = make_folder(emulators(), EmulatorError, hint="set CLOUDTASKS_NB_HOME to a folder that can be written to")
    for known in folder.glob("*.json"):
        if has_ended(f"127.0.0.1:{known.stem}"):
            known.unlink(missing_ok=True)
    for address in (facts["grpc"], facts["http"]):
        descriptor, draft = tempfile.mkstemp(dir=folder)  # which only this user can read
        with os.fdopen(descriptor, "w") as file:
            json.dump(dict(facts), file)
        Path(draft).replace(folder / f"{address.rpartition(':')[2]}.json")


def _headers(facts: Mapping[str, Any]) -> dict[str, str]:
    return {TOKEN_METADATA: facts["token"]} if facts.get("token") else {}


def _first_line(process: subprocess.Popen[str], timeout: float) -> tuple[str, bool]:
    """Return the first line that a child prints, and whether the child was killed because it printed none in time."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        return process.stdout.readline() if process.stdout is not None else "", late.is_set()
    except BaseException:  # an interrupt: no lease will be taken
        process.kill()
        process.wait()
        raise
    finally:
        timer.cancel()
        if process.stdout is not None:
            process.stdout.close()


def _instance_at(http: str) -> str | None:
    """Return the instance of the emulator at an address; None if none answers."""
    return get_json(http, "/health", timeout=_ANSWER_TIMEOUT).get("instance")

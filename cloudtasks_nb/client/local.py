"""The embedded emulator as a child process, shared by every kernel that uses its folder."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from cloudtasks_nb.client import emulator_process
from cloudtasks_nb.errors import EmulatorError, FolderInUseError, InvalidInputError

__all__ = ["Lease", "attach"]

_START_TIMEOUT = 30.0  # seconds; a start takes one, a crowded machine and a large folder some more
_ENDPOINT_FILE = "endpoint.json"

_lock = threading.Lock()
_leases: dict[Path | None, Lease] = {}


@dataclass(eq=False, slots=True, kw_only=True)
class Lease:
    """A running emulator, held open by this process until every connection that uses it has let go."""

    grpc: str  #: ``127.0.0.1:PORT``
    http: str  #: ``http://127.0.0.1:PORT``
    pid: int
    instance: str  #: UUID of the data folder
    folder: Path | None  #: None: temporary, ends with its last kernel
    held: HTTPConnection  #: as long as it is open the emulator stays
    users: int = 0  #: connections of this process that have not let go

    def alive(self) -> bool:
        """Tell whether the emulator still answers."""
        return emulator_process.instance_at(self.http) == self.instance

    def close(self) -> None:
        """Let go, once for each `attach`; the emulator ends two seconds after its last holder did."""
        with _lock:
            self.users -= 1
            if self.users > 0:
                return
            if _leases.get(self.folder) is self:
                del _leases[self.folder]
        self.held.close()


def attach(folder: str | os.PathLike[str] | None) -> Lease:
    """Return the emulator of a folder (None: this process's temporary one); starts it if there is none.

    Raises
    ------
    EmulatorError
        If it does not start; with what it said.
    FolderInUseError
        If the folder is held by an emulator that does not answer.
    InvalidInputError
        If it is no path.
    """
    place = None if folder is None else _folder(folder)
    with _lock:
        lease = _leases.get(place)
        if lease is None or not lease.alive():
            if lease is not None:
                lease.held.close()
            lease = _leases[place] = _attach(place)
        lease.users += 1
        return lease


def _folder(folder: str | os.PathLike[str]) -> Path:
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise InvalidInputError(
            f"folder={folder!r} is not a folder",
            resource="folder",
            hint='name one, ct.local("folder"), or none, ct.local(): then nothing is kept',
        )
    place = Path(folder).expanduser().resolve()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmulatorError(
            f"the folder {place} cannot be made: {error.strerror}",
            resource=str(place),
            hint="name a folder that can be written to",
        ) from error
    if not os.access(place, os.W_OK):
        raise EmulatorError(
            f"the folder {place} cannot be written to", resource=str(place), hint="name a folder that can be"
        )
    return place


def _attach(folder: Path | None) -> Lease:
    """Join the folder's emulator or start one; who loses the race for the folder joins the winner."""
    deadline = time.monotonic() + _START_TIMEOUT
    held = ""
    while time.monotonic() < deadline:
        lease = None if folder is None else _join(folder)
        if lease is not None:
            return lease
        facts, said = _start(folder, deadline)
        if facts is not None:
            lease = _hold(facts, folder)
            if lease is not None:
                return lease
        elif folder is not None and "in use" in said:
            held = said
        elif not held:
            raise EmulatorError(
                f"the emulator did not start: {said}", hint="python -m cloudtasks_nb.emulator shows more"
            )
    raise FolderInUseError(
        f"the folder {folder} is held by an emulator that does not answer: {held}",
        resource=str(folder),
        hint="end that process, or use another folder",
    )


def _join(folder: Path) -> Lease | None:
    """Take a lease on the emulator that the folder names, if it is there."""
    try:
        return _hold(json.loads((folder / _ENDPOINT_FILE).read_text()), folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or nothing that an emulator writes
        return None


def _hold(facts: Mapping[str, Any], folder: Path | None) -> Lease | None:
    """Open the lease; None when nobody answers at that address, or somebody else does."""
    held = emulator_process.hold(facts)
    if held is None:
        return None
    return Lease(
        grpc=facts["grpc"], http=facts["http"], pid=facts["pid"], instance=facts["instance"], folder=folder, held=held
    )


def _start(folder: Path | None, deadline: float) -> tuple[Mapping[str, Any] | None, str]:
    """Start an emulator; return its ready line, or None and what it said instead."""
    arguments = ["--wait-for-loopback", *([] if folder is None else ["--data-dir", str(folder)])]
    child, said = emulator_process.start(arguments, max(1.0, deadline - time.monotonic()))
    return None if child is None else child.facts, said

"""The kind of disk that a file is on: shared over a network, or lost together with the machine."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

__all__ = ["MOUNTS", "on_network", "temporary_kind"]

#: The file systems of this machine, on Linux.
MOUNTS = Path("/proc/self/mounts")
_LAYER = "the layer of a container"
_NETWORK = {"9p", "afs", "ceph", "cifs", "fuse", "lustre", "nfs", "nfs4", "smb3", "virtiofs"}  # and all of fuse.*
_TEMPORARY = dict.fromkeys(("ramfs", "tmpfs"), "in memory") | dict.fromkeys(("aufs", "overlay"), _LAYER)


def on_network(path: Path) -> bool:
    """Return whether a file is on a network file system, where a write-ahead log would be damaged.

    A log is shared through memory, so all processes have to be on one machine (https://sqlite.org/wal.html).
    """
    if sys.platform == "win32":
        return str(path).startswith(("\\\\", "//"))
    kind = _file_system(path)
    return kind in _NETWORK or kind.startswith("fuse.")


def temporary_kind(path: Path) -> str | None:
    """Return how a disk is lost with its machine or container, such as ``in memory``; None: it is not."""
    return _TEMPORARY.get(_file_system(path))


def _file_system(path: Path) -> str:
    """Return the kind of the file system that a file is on; "" if the system does not tell."""
    if not MOUNTS.exists():
        return ""
    kinds = {}
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        _, folder, kind, *_ = line.split(" ")
        kinds[folder.replace("\\040", " ")] = kind
    folders = (str(parent) for parent in PurePosixPath(path.resolve()).parents)
    return next((kinds[folder] for folder in folders if folder in kinds), "")

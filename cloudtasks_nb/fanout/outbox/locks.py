"""Locks that the system frees when their process ends: for the one sender of a batch, and for a running spool."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cloudtasks_nb._loop import hold_interrupts

__all__ = ["Hold", "announce", "announced", "hold"]


class Hold:
    """A lock that this process holds, as far as the file system supports locks.

    Parameters
    ----------
    path : Path
        The lock's file.
    lock : FileLock, optional
        None if the file system has no locks.
    """

    def __init__(self, path: Path, lock: FileLock | None) -> None:
        self._path = path
        self._lock = lock
        self.certain = lock is not None  #: whether no other process can hold it; False: the file system has no locks

    def release(self) -> None:
        """Remove the lock's file and release the lock.

        Another process that has opened the file at this moment may get the lock of the removed file while a third one
        gets that of a new file. Two senders of a batch do no harm, because a task's name can be used once.
        """
        if self._lock is not None:
            with hold_interrupts():
                with suppress(OSError):  # Windows removes no file that is open; there, filelock removes it
                    self._path.unlink()
                self._lock.release()
                self._lock = None  # a FileLock has a finalizer: it runs here


def hold(outbox: Path, name: str) -> Hold | None:
    """Take a lock that lies beside the outbox, without waiting; None if another process or sender has it."""
    path = outbox.parent / "locks" / f"{name}.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_interrupts():  # filelock has locks of its own, for all threads of the process
            # Taken on one thread and released on another, which the default would not see as the same.
            lock = FileLock(path, mode=0o600, thread_local=False)
            lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError):
        return Hold(path, None)
    return Hold(path, lock)


def announce(outbox: Path, name: str) -> Hold:
    """Take a lock of this caller's own, by which `announced` sees it until it is released."""
    while (held := hold(outbox, f"{name}-{secrets.token_hex(4)}")) is None:
        pass  # somebody has looked at it between its creation and its locking
    return held


def announced(outbox: Path, name: str) -> bool:
    """Return whether any live process has announced itself; remove what killed ones have left."""
    for path in (outbox.parent / "locks").glob(f"{name}-*.lock"):
        held = hold(outbox, path.stem)
        if held is None:
            return True
        held.release()
    return False

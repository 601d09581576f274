"""The process that calls a function for a `ProcessPool`: it reads bodies, and writes answers."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import BinaryIO

from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import call

__all__ = ["main"]


def main() -> None:
    """Answer bodies from the standard input until it ends, even in the middle of a call."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Keep what the function prints out of the answers.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the process is killed at its end, with what it has not written
    function = _load(pickle.load(requests))  # noqa: S301 - from the kernel that started this process
    bodies: queue.SimpleQueue[tuple[bytes, str | None]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, bodies), daemon=True).start()
    while True:
        pickle.dump(function(*bodies.get()), answers)
        answers.flush()


def _read(requests: BinaryIO, bodies: queue.SimpleQueue[tuple[bytes, str | None]]) -> None:
    try:
        while True:
            bodies.put(pickle.load(requests))  # noqa: S301 - from the kernel that started this process
    finally:
        os._exit(0)  # the kernel has ended, maybe in the middle of a body, or needs no answer any more


def _load(copy: bytes) -> Callable[[bytes, str | None], Answer]:
    """Return how a body is answered: by the function, or by why it cannot be loaded here."""
    try:
        fn, give_up_on = pickle.loads(copy)  # noqa: S301 - the copy of a function of the notebook
    except Exception as error:  # noqa: BLE001 - imports of the user's modules may raise anything
        message = f"the function cannot be loaded in a process: {type(error).__name__}: {error}"
        failure = Answer(status=500, error=f"{traceback.format_exc()}{message}", message=message)
        return lambda *_: failure
    return lambda body, types: call(fn, body, types=types, run=asyncio.run, give_up_on=give_up_on)

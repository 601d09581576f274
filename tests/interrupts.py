"""Interrupt an action at each place where Python may raise an interrupt."""

import gc
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest


@contextmanager
def interruptible() -> Iterator[None]:
    """Have interrupts raised, also where the shell that began the tests has switched them off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    """Send an interrupt to the main thread, from any thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def interrupted_everywhere(action: Callable[[], object], *files: str) -> Iterator[str]:
    """Do something again and again, with an interrupt where its first, second, ... call begins or ends; yield where.

    Each interrupt must be raised, also one in a library, in a finalizer or in a callback of a weak reference. With
    `files`, only calls of code in files with such names are interrupted.
    """
    gc.disable()  # what it finds would be finalized in the middle of an action, and not each time
    try:
        for at in itertools.count():
            place = _interrupted_at(at, action, files or ("",))
            if place is None:
                return
            yield place
    finally:
        gc.enable()


def _interrupted_at(at: int, action: Callable[[], object], files: Collection[str]) -> str | None:
    left, place = at, None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left, place
        code = frame.f_code
        here = any(file in code.co_filename for file in files) and code.co_name != "<genexpr>"  # tqdm's: a character
        if event in {"call", "return"} and here:
            left -= 1
            if left < 0:
                sys.settrace(None)
                place = f"{event} of {code.co_qualname}, {code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    with interruptible():
        try:
            sys.settrace(trace)
            action()
        except KeyboardInterrupt:
            return place
        finally:
            sys.settrace(before)
    if place is not None:
        pytest.fail(f"no interrupt came out of {place}")
    return None

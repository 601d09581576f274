"""The clock that counts the time in which a machine sleeps."""

import ctypes
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb.fanout.clock import seconds_since_boot


def test_linux_counts_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the one that goes on while the machine sleeps, and not that of `time.monotonic`."""
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 7.5 if clock == 7 else 0.0)
    assert seconds_since_boot() == 7.5


def test_macos_counts_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `CLOCK_MONOTONIC` does, other than Python's `time.monotonic`."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 7.5 if clock == time.CLOCK_MONOTONIC else 0.0)
    assert seconds_since_boot() == 7.5


def test_windows_counts_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """`GetTickCount64` does, and its 64 bits are read as such: after 49 days the lower half begins anew."""

    class Ticks:
        restype: Any = ctypes.c_int

        def __call__(self) -> int:
            return (1 << 33) + 500 if self.restype is ctypes.c_ulonglong else 500

    kernel = SimpleNamespace(GetTickCount64=Ticks())
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert seconds_since_boot() == ((1 << 33) + 500) / 1000


def test_it_goes_on() -> None:
    """It never goes back."""
    first = seconds_since_boot()
    assert seconds_since_boot() >= first > 0

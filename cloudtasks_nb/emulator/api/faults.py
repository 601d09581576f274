"""Faults that tests of clients request: refused, delayed and lost answers, operations that do not finish."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import CODES
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["Fault", "Faults", "apply_fault"]

_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: isinstance(value, str), "the name of a method, or *"),
    "count": (lambda value: value is None or (type(value) is int and value > 0), "a number of 1 or more, or null"),
    "message": (lambda value: isinstance(value, str), "a text"),
    "after": (lambda value: isinstance(value, bool), "true or false"),
    "delay_s": (lambda value: type(value) in {int, float} and 0 <= value < math.inf, "a number of seconds, 0 or more"),
    "unfinished": (lambda value: isinstance(value, bool), "true or false"),
}


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault of the next calls of a method."""

    method: str  #: its name (``CreateTask``), or ``*``
    count: int | None = 1  #: calls left; None until cleared
    code: str | None = None  #: the error that is returned
    message: str = "A requested fault."
    after: bool = False  #: the call is executed, only its answer is lost
    delay_s: float = 0.0  #: before anything else
    unfinished: bool = False  #: the operation of a batch call stays unfinished until the faults are cleared

    @classmethod
    def of(cls, given: dict[str, Any]) -> Fault:
        """Read a fault from JSON.

        Raises
        ------
        InvalidInputError
            If a key or a code is unknown, or a value is of another kind.
        """
        unknown = given.keys() - cls.__dataclass_fields__.keys()
        if unknown or "method" not in given:
            raise InvalidInputError(f"a fault has method and some of {sorted(cls.__dataclass_fields__)}")
        code = given.get("code")
        if code is not None and code not in CODES[1:]:
            raise InvalidInputError(f"{code} is no canonical code of an error")
        for name, (fits, kind) in _KINDS.items():
            if name in given and not fits(given[name]):
                raise InvalidInputError(f"{name} of a fault is {kind}")
        return cls(**given)


class Faults:
    """The faults that have not happened yet."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        #: unfinished operations on the wire, by name
        self.unfinished: dict[str, bytes] = {}

    def add(self, fault: Fault) -> None:
        """Add a fault of the next calls."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults; unfinished operations become finished."""
        self._faults.clear()
        self.unfinished.clear()

    def take(self, method: str) -> Fault | None:
        """Return the fault of this call of `method`, if any."""
        for fault in self._faults:
            if fault.method in {method, "*"} and not fault.unfinished:
                return self._use(fault)
        return None

    def leaves_unfinished(self, method: str) -> bool:
        """Return whether the operation of this batch call stays unfinished."""
        held = [fault for fault in self._faults if fault.unfinished and fault.method in {method, "*"}]
        return bool(held and self._use(held[0]))

    def _use(self, fault: Fault) -> Fault:
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self._faults.remove(fault)
        return fault


async def apply_fault(fault: Fault | None, *, after: bool) -> None:
    """Delay or refuse a call according to its fault.

    Raises
    ------
    RefusedError
        The error of the fault.
    """
    if fault is None:
        return
    if fault.delay_s and not after:
        await asyncio.sleep(fault.delay_s)
    if fault.code is not None and fault.after == after:
        raise RefusedError(fault.code, fault.message)

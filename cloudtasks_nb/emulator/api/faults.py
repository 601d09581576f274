"""Faults that tests inject into calls: errors, delays, lost answers, and operations that do not finish."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import CODES
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["Fault", "Faults"]

# For each key of a fault in JSON: the check of its value, and the text for the error.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: isinstance(value, str), "the name of a method, or *"),
    "count": (lambda value: value is None or (type(value) is int and value > 0), "a number of 1 or more, or null"),
    "message": (lambda value: isinstance(value, str), "a text"),
    "after": (lambda value: isinstance(value, bool), "true or false"),
    "delay_s": (lambda value: type(value) in {int, float} and 0 <= value < math.inf, "a number of seconds, 0 or more"),
    "unfinished": (lambda value: isinstance(value, bool), "true or false"),
}


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault that the next calls of a method have."""

    method: str  #: name of the RPC (``CreateTask``), or ``*`` for all
    count: int | None = 1  #: number of calls that still have the fault; None: all, until the faults are cleared
    code: str | None = None  #: canonical code of the error that the call returns; None: no error
    message: str = "A requested fault."
    after: bool = False  #: execute the call, then return the error in place of its answer
    delay_s: float = 0.0  #: seconds to wait before the call
    unfinished: bool = False  #: the operation of a batch call stays unfinished until the faults are cleared

    @classmethod
    def of(cls, given: dict[str, Any]) -> Fault:
        """Read a fault from JSON.

        Raises
        ------
        InvalidInputError
            If the method is missing, a key or a code is unknown, or a value has the wrong type.
        """
        unknown = given.keys() - cls.__dataclass_fields__.keys()
        if unknown or "method" not in given:
            raise InvalidInputError(f"a fault needs method and may have {sorted(cls.__dataclass_fields__)}")
        code = given.get("code")
        if code is not None and code not in CODES[1:]:
            raise InvalidInputError(f"{code} is not the canonical code of an error")
        for name, (is_valid, wanted) in _VALUES.items():
            if name in given and not is_valid(given[name]):
                raise InvalidInputError(f"{name} of a fault must be {wanted}")
        return cls(**given)


class Faults:
    """The faults of coming calls."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        #: serialized unfinished operations, by name
        self.unfinished: dict[str, bytes] = {}

    def add(self, fault: Fault) -> None:
        """Add a fault of the next calls."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults; unfinished operations become finished."""
        self._faults.clear()
        self.unfinished.clear()

    def take(self, method: str, *, unfinished: bool = False) -> Fault | None:
        """Return the fault of this call of `method`, or of its operation with `unfinished`; None if it has none."""
        for fault in self._faults:
            if fault.unfinished == unfinished and fault.method in {method, "*"}:
                if fault.count is not None:
                    fault.count -= 1
                    if fault.count <= 0:
                        self._faults.remove(fault)
                return fault
        return None

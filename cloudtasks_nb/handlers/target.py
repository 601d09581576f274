"""A function, and who may call it."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.call import Outcome, call, display_name
from cloudtasks_nb.handlers.verify import Verifier

__all__ = ["Target", "check_function"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What answers a request, wherever it came in."""

    fn: Callable[..., Any]
    verifier: Verifier | None  #: None: whoever reaches the server may call

    def answer(
        self, body: bytes, authorization: str | None, *, wait: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> Outcome:
        """Check the token, if one is wanted, and call the function; never raises. Blocks."""
        refusal = None if self.verifier is None else self.verifier.check(authorization)
        if refusal is not None:
            return Outcome(status=refusal.status, error=refusal.reason, message=refusal.reason)
        return call(self.fn, body, wait=wait)


def check_function(fn: Any) -> None:
    """Refuse what cannot be served.

    Raises
    ------
    HandlerError
        If `fn` cannot be called, or would return a generator that nobody runs.
    """
    if not callable(fn):
        raise HandlerError(
            f"{reprlib.repr(fn)} is not a function",
            resource=type(fn).__name__,
            hint="give the function itself, ct.serve(report), not what a call of it returns",
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        name = display_name(fn)
        raise HandlerError(
            f"{name} yields: a call would return before anything in it ran",
            resource=name,
            hint=f"serve a function that goes through all of it, such as: def run(**row): return list({name}(**row))",
        )

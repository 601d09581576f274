"""How a stored task looks in a reply: spliced from its pieces, never parsed."""

from __future__ import annotations

from functools import lru_cache

from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.wire import len_field, read_varint, retag, timestamp

__all__ = ["BASIC", "FULL", "as_beta", "as_v2", "is_app_engine", "task_wire"]

BASIC, FULL = 1, 2

_BASIC_FIELD, _FULL_FIELD = b"\x58\x01", b"\x58\x02"  # Task.view
_APP_ENGINE_KEY = 0x12  # Task.app_engine_http_request
# The two versions number the fields of Task differently; everything inside them is alike.
_TO_BETA = {1: 1, 2: 3, 3: 11, 4: 4, 5: 5, 6: 12, 7: 6, 8: 7, 9: 8, 10: 9, 11: 10, 12: 14}
_TO_V2 = {new: old for old, new in _TO_BETA.items()}


def as_beta(task: bytes) -> bytes:
    """Return a v2 `Task` on the wire as v2beta3."""
    return retag(task, _TO_BETA)


def as_v2(task: bytes) -> bytes:
    """Return a v2beta3 `Task` on the wire as v2; the payload of a pull task is lost."""
    return retag(task, _TO_V2)


def is_app_engine(head: bytes) -> bool:
    """Tell whether a stored task is for App Engine: fields are in order, and the name is the first."""
    length, at = read_varint(head, 1)
    return head[at + length] == _APP_ENGINE_KEY


def task_wire(head: bytes, due: int, attempts: Attempts | None, body: bytes, view: int) -> bytes:
    """Return a v2 `Task` as a reply shows it.

    Parameters
    ----------
    head : bytes
        What is stored without the body.
    due : int
        When it was scheduled at first, microseconds since 1970.
    attempts : Attempts, optional
        Its attempts so far, which also know when the next one is due.
    body : bytes
        Shown in the FULL view only.
    view : int
        The view asked for; BASIC if it is not FULL.
    """
    task = head + _schedule(attempts.due if attempts else due)
    if attempts:
        task += attempts.wire()
    if view != FULL:
        return task + _BASIC_FIELD
    if body:
        task += len_field(2, len_field(5, body)) if is_app_engine(head) else len_field(3, len_field(4, body))
    return task + _FULL_FIELD


@lru_cache(maxsize=256)
def _schedule(due: int) -> bytes:
    return len_field(4, timestamp(due))

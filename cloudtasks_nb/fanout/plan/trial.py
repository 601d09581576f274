"""What a target answered to the request of one row, which was sent without a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.secrets import mask_text, mask_value

__all__ = ["Trial"]

_SHOWN = 1_000  # characters of a body or a result


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The answer to one row's request; made by `Plan.try_one`."""

    status: int | None  #: HTTP status; None: there was no answer
    result: Any = None  #: what the target returned, decoded from JSON
    error: str | None = None  #: the traceback of a function of this process, else what the target answered
    duration: float | None = None  #: seconds; None: the function was not called
    request: str = field(default="", repr=False)  #: the request in a line
    note: str = field(default="", repr=False)  #: in which way it was not like a task's

    @property
    def ok(self) -> bool:
        """Whether a task with this answer would be done."""
        return self.status is not None and self.status < 300  # noqa: PLR2004 - Cloud Tasks counts 2xx as success

    def __repr__(self) -> str:
        after = "" if self.duration is None else f" after {duration_text(self.duration)}"
        head = f"{'no answer' if self.status is None else self.status}{after}"
        request = mask_text(self.request)[:_SHOWN]
        lines = [request, f"{head}: {mask_value(self.result)!r}"[:_SHOWN] if self.ok else head]
        if self.error is not None:
            lines.append(mask_text(self.error).rstrip())
        return "\n".join([*lines, self.note] if self.note else lines)

"""The title of the browser's tab, which shows how far batches are; any thread can use it."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb._frames import BY_END, STATES
from cloudtasks_nb.display.plural import percent_text

__all__ = ["BrowserTab", "browser_tab"]

#: What stands before the state of a batch that has ended; the worst comes first.
_MARKS = {end: STATES[state].sign for end, state in BY_END.items()}
#: States that are said of a batch that has not ended; the worst comes first.
_SAID = ("stopped", "held", "paused", "cancelling", "failing")


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """How far a batch is."""

    done: int
    total: int
    state: str  #: its word
    rows: int  #: how many rows have ended so

    @property
    def ended(self) -> bool:
        """Whether every row is final."""
        return self.done == self.total


class BrowserTab(anywidget.AnyWidget):
    """The title of the browser's tab. It has no view: the browser runs its code as soon as the kernel has made it.

    Batches are shown while somebody looks at them. One that has ended stays until the user comes back to the page.

    Attributes
    ----------
    text : str
        What stands before the page's own title; empty for nothing.
    ended : bool
        Whether `text` is about batches that have ended.
    key : str
        Its own model id, by which the browser finds out whether the kernel is there.
    """

    _esm = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")

    text = traitlets.Unicode().tag(sync=True)
    ended = traitlets.Bool().tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._states: dict[str, _State] = {}
        self._watchers: Counter[str] = Counter()
        key = uuid.uuid4().hex
        super().__init__(model_id=key, key=key)
        self.on_msg(self._on_message)

    def watch(self, batch: str) -> None:
        """Count one who looks at a batch."""
        with self._lock:
            self._watchers[batch] += 1

    def unwatch(self, batch: str) -> None:
        """Forget one who looked at a batch; when nobody is left, the batch is shown only if it has ended."""
        with self._lock:
            self._watchers[batch] -= 1
            if self._watchers[batch] <= 0:
                del self._watchers[batch]
                if batch in self._states and not self._states[batch].ended:
                    del self._states[batch]
            self._draw()

    def show(self, batch: str, *, done: int, total: int, state: str, rows: int, detail: str) -> None:
        """Show how far a batch is; does nothing if it had ended before it was ever shown.

        Parameters
        ----------
        batch : str
            Its id.
        done, total : int
            How many rows are final, of how many.
        state : str
            Its word, as `Progress.state`.
        rows : int
            How many rows have ended so.
        detail : str
            The text of the notification.
        """
        shown = _State(done=done, total=total, state=state, rows=rows)
        with self._lock:
            before = self._states.get(batch)
            if shown.ended and (before is None or before.ended):
                return
            self._states[batch] = shown
            self._draw()
            if shown.ended:
                self.send({"do": "ended", "batch": batch, "text": _end_text([shown]), "detail": detail})

    def _draw(self) -> None:
        running = [state for state in self._states.values() if not state.ended]
        text = _share_text(running) if running else _end_text(self._states.values()) if self._states else ""
        with self.hold_sync():
            self.ended = not running
            self.text = text

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content["do"] == "seen":
            with self._lock:
                self._states = {batch: state for batch, state in self._states.items() if not state.ended}
                self._draw()


def _share_text(states: list[_State]) -> str:
    share = percent_text(sum(state.done for state in states) / sum(state.total for state in states))
    words = {state.state for state in states}
    said = next((f"{word} " for word in _SAID if word in words), "")
    return said + (share if len(states) == 1 else f"{share} of {len(states)} batches")


def _end_text(states: Iterable[_State]) -> str:
    rows: Counter[str] = Counter()
    for state in states:
        rows[state.state] += state.rows
    found = (f"{mark} {rows[word]:,} {word}" for word, mark in _MARKS.items() if word in rows)
    return next(found, "")


@cache
def browser_tab() -> BrowserTab:
    """Return the one of this process."""
    return BrowserTab()

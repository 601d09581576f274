"""The colours of the states of tasks and queues, and of status codes, for panels, charts and bars."""

from __future__ import annotations

from cloudtasks_nb._names import CODES

__all__ = ["COLOURS", "MARKS", "colour"]

#: Colour of each state, from done to not begun: the order in which charts stack them. The contrast to white and to the
#: dark theme's background is at least 3:1, and adjacent states of a bar differ in lightness too. A colour is always
#: shown with the name of its state.
COLOURS = {
    "succeeded": "#2e9e5b",
    "failed": "#e5484d",
    "rejected": "#b5541c",
    "cancelled": "#6f7782",
    "gone": "#94796b",
    "running": "#0e9aa7",
    "retrying": "#d07a00",
    "ready": "#3b82f6",
    "queued": "#3b82f6",  # in the queue, in a state that is not known
    "scheduled": "#8f6ff0",
    "settling": "#94796b",  # no longer in the queue, and its log entry is awaited
    "unsent": "#8b939c",
}
#: Mark of a state that has to be told from others without its colour.
MARKS = {"failed": "✕", "rejected": "✕", "retrying": "↻"}
#: Other texts that have the colour of a state: states of a batch and of a queue, yes and no.
_ALIASES = {
    "stopped": "failed",
    "failing": "retrying",
    "held": "retrying",
    "cancelling": "cancelled",
    "unknown": "gone",
    "paused": "retrying",
    "disabled": "cancelled",
    "ok": "succeeded",
    "yes": "succeeded",
    "no": "failed",
    "error": "failed",
}


def colour(word: str) -> str:
    """Return the colour of a state, a status code, or yes and no."""
    # Codes are in capitals: a batch that is unknown has not failed with the code UNKNOWN.
    key = "failed" if word in CODES and word not in {"OK", "CANCELLED"} else word.lower()
    return COLOURS.get(_ALIASES.get(key, key), COLOURS["unsent"])

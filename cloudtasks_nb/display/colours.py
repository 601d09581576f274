"""The colour of each state of a task, a queue or an answer, wherever one is drawn."""

from __future__ import annotations

from cloudtasks_nb._names import CODES

__all__ = ["COLOURS", "colour"]

#: Colour of each state: at least 3:1 against white and against the dark theme's ground, and neighbours in a bar differ
#: in lightness too. A colour is always shown beside its word.
COLOURS = {
    "unsent": "#8b939c",
    "rejected": "#b5541c",
    "scheduled": "#8f6ff0",
    "ready": "#3b82f6",
    "running": "#0e9aa7",
    "retrying": "#d07a00",
    "succeeded": "#2e9e5b",
    "failed": "#e5484d",
    "cancelled": "#6f7782",
    "gone": "#94796b",
}
#: Other words that have the colour of a state: states of a queue, canonical codes, yes and no.
_ALIASES = {
    "queued": "ready",
    "paused": "retrying",
    "disabled": "cancelled",
    "ok": "succeeded",
    "yes": "succeeded",
    "no": "failed",
    **{code.lower(): "failed" for code in CODES if code not in {"OK", "CANCELLED"}},
}


def colour(word: str) -> str:
    """Return the colour of a state, a status code, or yes and no."""
    key = word.lower()
    return COLOURS.get(_ALIASES.get(key, key), COLOURS["unsent"])

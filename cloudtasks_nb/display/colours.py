"""The colours of the states of tasks and queues, and of status codes, for panels, charts and bars."""

from __future__ import annotations

from cloudtasks_nb._frames import BY_END, STATES
from cloudtasks_nb._names import CODES

__all__ = ["COLOURS", "MARKS", "colour"]

#: Colour of each state, in the order in which charts stack them.
COLOURS = {state: traits.colour for state, traits in STATES.items()}
#: Mark of a state that has to be told from others without its colour.
MARKS = {state: traits.sign for state, traits in STATES.items() if traits.striking}
#: Other texts that have the colour of a state: states of a batch and of a queue, yes and no.
_ALIASES = {
    **BY_END,
    "stopped": "failed",
    "failing": "retrying",
    "held": "retrying",
    "cancelling": "cancelled",
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

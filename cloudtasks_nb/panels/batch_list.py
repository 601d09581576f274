"""The list of batches: how each is, why, since when, until when, and the one thing that helps; trouble comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import BY_END, STATES
from cloudtasks_nb.display.card import facts_html
from cloudtasks_nb.display.charts import counts_text
from cloudtasks_nb.display.colours import COLOURS, colour
from cloudtasks_nb.display.plural import count_text
from cloudtasks_nb.fanout.batch.progress import Progress, dated_reason
from cloudtasks_nb.fanout.batch.report import segments
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.panels.widgets.cells import Column

__all__ = ["COLUMNS", "VERBS", "batches_frame", "method_of", "totals_html"]

_Listed = Sequence[tuple[BatchRecord, Progress]]

COLUMNS = (
    Column("state", kind="state"),
    Column("title", "Batch", kind="lines", width="12em"),
    Column("reason", "What is going on", kind="lines"),
    Column("since", kind="time", width="6.5em", tip="Since when it is in this state"),
    Column("done", "Rows", kind="bar", width="12em", tip="Rows whose outcome is known"),
    Column("end", "Ends", kind="time", width="6.5em", tip="When the last row is expected to end, or has ended"),
    Column("next", kind="button", width="11em", tip="What helps"),
)

#: The methods of `Status.action` that the panel has, with the texts of their buttons.
VERBS = {
    "queue.resume": "Resume queue",
    "batch.resume": "Resume",
    "batch.retry_failed": "Retry failed",
    "batch.resend": "Send again",
    "batch.errors": "Show causes",
    "batch.tasks": "Show rows",
}

_URGENT = STATES["cancelled"].need  # an end as good as this one needs no action
#: States in the order of the list: batches that need action, have ended badly, run, wait, have ended well.
_GROUPS: tuple[tuple[str | None, ...], ...] = (
    ("stopped", "failing", "held", "paused"),
    tuple(end for end, state in BY_END.items() if STATES[state].need > _URGENT),
    ("running",),
    ("cancelling", None),
    tuple(end for end, state in BY_END.items() if STATES[state].need <= _URGENT),
)
_ORDER = {state: place for place, states in enumerate(_GROUPS) for state in states}


def batches_frame(listed: _Listed, *, read_only: bool) -> pd.DataFrame:
    """Return the rows of the table, the newest first in each group of states.

    Parameters
    ----------
    listed : sequence of (BatchRecord, Progress)
        The batches, newest first.
    read_only : bool
        Show the lines of Python instead of buttons.
    """
    rows = [
        {
            "batch": record.id,
            "queue": record.place.queue,
            "state": progress.state,
            "title": _title(record),
            "reason": dated_reason(progress),
            "since": progress.since,
            "done": _done(progress),
            "end": progress.since if progress.finished else progress.eta,
            "next": _next(progress, read_only=read_only),
        }
        for record, progress in sorted(listed, key=lambda one: _ORDER[one[1].state])
    ]
    names = ["batch", "queue", *(column.name for column in COLUMNS)]
    return pd.DataFrame(rows, columns=names, dtype=object)


def method_of(progress: Progress) -> str:
    """Return the name of the method that helps; empty for none."""
    return (progress.action or "").partition("(")[0]


def totals_html(found: Iterable[Progress]) -> str:
    """Return how many batches need action and how many run, how many rows are left, and the last expected end."""
    listed = list(found)
    places = [_ORDER[progress.state] for progress in listed]
    figures = {
        "need you": count_text(sum(place < _ORDER["running"] for place in places)),
        "running": count_text(places.count(_ORDER["running"])),
        "rows left": count_text(sum(progress.total - progress.done for progress in listed)),
        "last expected end": max((progress.eta for progress in listed if progress.eta), default=None),
    }
    return facts_html(figures) if listed else ""


def _title(record: BatchRecord) -> str:
    queue = record.place.queue
    return f"{record.name}\n{queue} · {record.id}" if record.name else f"{record.id}\n{queue}"


def _done(progress: Progress) -> dict[str, Any]:
    known = " known" if progress.known != progress.done else ""
    text = f"{progress.known:,}{known} of {progress.total:,}"
    found = segments(progress)
    counts = {state: found[state] for state in COLOURS if found.get(state)}
    parts = [[count, colour(state)] for state, count in counts.items()]
    share = progress.known / progress.total if progress.total else 1.0
    return {"bar": text, "title": counts_text(counts, "rows"), "parts": parts, "share": share}


def _next(progress: Progress, *, read_only: bool) -> dict[str, Any] | str | None:
    """Return the button for the cure, or the line of Python if there is no button."""
    verb = None if read_only else VERBS.get(method_of(progress))
    return {"button": verb, "title": progress.action} if verb else progress.action

"""The card of a queue: a chart of its depth, its settings and its statistics; and the figures of several queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudtasks_nb._frames import is_missing
from cloudtasks_nb.display.card import facts_html, html_card, lines_html, state_html
from cloudtasks_nb.display.charts import sparkline
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text, percent_text

__all__ = ["queue_card", "queues_html"]


def queue_card(values: Mapping[str, Any], depths: Sequence[tuple[float, float | None]], *, note: str = "") -> str:
    """Return the card of a queue.

    Parameters
    ----------
    values : mapping
        A row of `tasks.queues()`, with the name of the queue as `queue`.
    depths : sequence of (float, float or None)
        Times in seconds and the depths then, oldest first.
    note : str
        Shown below.
    """
    name = values["queue"]
    chart = sparkline(depths, label=f"depth of {name}")
    depth = "depth not known" if is_missing(values["tasks"]) else f"<b>{count_text(values['tasks'])}</b> tasks"
    head = f'<div class="ctn-depth">{chart}<div>{depth}<br>{state_html(values["state"])}</div></div>'
    figures = f'<div class="ctn-figures">{head}{facts_html(_figures(values))}</div>'
    return html_card(name, figures, lines_html([note]), label=f"queue {name}")


def queues_html(queues: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of several queues together; empty for fewer than two."""
    if len(queues) < 2:  # noqa: PLR2004 - they have no sum
        return ""

    def known(name: str) -> list[Any]:
        return [values[name] for values in queues if not is_missing(values[name])]

    failed = known("failed_last_minute")
    figures = {
        "queues": count_text(len(queues)),
        "paused": count_text(paused) if (paused := sum(values["state"] == "PAUSED" for values in queues)) else "",
        "tasks": count_text(sum(known("tasks"))),
        "running": count_text(sum(known("running"))),
        "attempts last minute": count_text(sum(known("done_last_minute"))),
        "failed last minute": count_text(sum(failed)) if failed else "",
        "oldest due": min(known("oldest_due"), default=None),
    }
    return facts_html(figures)


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    def known(name: str, suffix: str = "") -> str:
        return "" if is_missing(values[name]) else f"{count_text(values[name])}{suffix}"

    running = f"{known('running')} of {known('max_concurrent')}" if known("running") else ""
    rate, allowed = known("effective_rate"), known("rate", "/s")
    attempts = "unlimited" if values["max_attempts"] == -1 else known("max_attempts")
    return {
        "running": running,
        "attempts last minute": known("done_last_minute"),
        "failed last minute": known("failed_last_minute"),
        "rate": f"{rate} of {allowed}" if rate and f"{rate}/s" != allowed else allowed,
        "oldest due": "" if is_missing(values["oldest_due"]) else values["oldest_due"],
        "attempts": attempts,
        "retry time": _span(values["max_retry_duration"]) if values["max_retry_duration"] else "unlimited",
        "waits": f"{_span(values['min_backoff'])} to {_span(values['max_backoff'])}",
        "logged": percent_text(values["log_sampling_ratio"]),
        "target": "" if is_missing(values["target"]) else str(values["target"]),
    }


def _span(value: Any) -> str:
    return duration_text(value.total_seconds())

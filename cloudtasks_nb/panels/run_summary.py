"""The run of a batch in its panel: figures, charts of attempts and durations, and the slowest rows, folded."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, tzinfo
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.display.card import facts_html, section_html, state_html, table_html
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text
from cloudtasks_nb.display.run_chart import durations_chart, throughput_chart
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.display.times import from_micros, time_html
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.view import BatchView, SlowRow, Summary
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels.batch_box import BatchBox, BatchNow

__all__ = ["RunSummary"]

_SECOND = 1_000_000
_BOX = "display:flex;flex-wrap:wrap;gap:12px 24px;margin-top:8px"


class RunSummary(BatchBox):
    """Figures that change all the time, and below them charts that are drawn anew only with a new summary."""

    def __init__(self) -> None:
        self.summary: Summary | None = None  #: that is shown
        self._figures, self._charts = widgets.HTML(), widgets.HTML()
        self._slowest = widgets.HTML()  # alone, so that it stays open while the charts change
        super().__init__([self._figures, self._charts, self._slowest])
        self.show(None)

    def show(self, view: BatchView | None) -> None:  # noqa: ARG002 - `draw` gets it
        """Show nothing, until a row of the batch is done."""
        self.summary, self._figures.value, self._charts.value, self._slowest.value = None, "", "", ""
        self.layout.display = "none"

    def draw(self, now: BatchNow) -> float:
        """Show the run of the batch, if a row is done; return as `BatchBox`."""
        view = now.view
        summary, newer_after = view.summary()
        if summary is None:
            self.show(None)
            return newer_after
        self._figures.value = section_html("Run", facts_html(_facts(summary, now.progress, now=view.now())))
        self.summary = replace(summary, throughput=replace(summary.throughput, limit=view.limit()))
        self._charts.value = _charts(self.summary, now.zone)
        self._slowest.value = _slowest(summary.slowest)
        self.layout.display = None
        return newer_after

    def html(self) -> str:
        """Return what is shown, with times in UTC."""
        charts = "" if self.summary is None else _charts(self.summary, UTC)
        return self._figures.value + charts + self._slowest.value


def _facts(summary: Summary, progress: Progress, *, now: int) -> dict[str, Any]:
    """Return the figures; all times are of the clock of the service, by which it is `now`."""
    until, took = summary.ended if progress.finished else now, summary.durations
    return {
        "started": from_micros(summary.started),
        "last row done": from_micros(summary.ended),
        "expected end": None if progress.finished else progress.eta,
        "elapsed": duration_text((until - summary.started) / _SECOND),
        "fastest": f"{count_text(summary.throughput.most)} attempts/s",
        "half took at most": took and duration_text(took.p50),
        "95 % took at most": took and duration_text(took.p95),
        "the longest took": took and duration_text(took.longest),
    }


def _charts(summary: Summary, zone: tzinfo) -> str:
    throughput = throughput_chart(summary.throughput, zone)
    boxes = [f'<div style="flex:3 1 460px;min-width:0;max-width:620px">{throughput}</div>']
    if summary.durations is not None:
        durations = durations_chart(summary.durations)
        boxes.append(f'<div style="flex:2 1 320px;min-width:0;max-width:430px">{durations}</div>')
    return f'<div style="{_BOX}">{"".join(boxes)}</div>'


def _slowest(rows: Sequence[SlowRow]) -> str:
    if not rows:
        return ""
    cells = [
        (
            duration_text(row.seconds),
            state_html((State.FAILED if row.failed else State.SUCCEEDED).word),
            time_html(from_micros(row.ended)),
            f'<bdi style="overflow-wrap:anywhere">{html.escape(mask_text(row.name))}</bdi>',
        )
        for row in rows
    ]
    table = table_html(("Took", "State", "Done at", "Row"), cells)
    return f"<details><summary>Slowest rows</summary>{table}</details>"

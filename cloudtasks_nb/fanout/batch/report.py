"""Format the state of a batch as text and HTML: the bar, notes, causes of failure, and suggested methods."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudtasks_nb.display.card import html_card, lines_html
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.fanout.batch.progress import Progress

__all__ = ["Report"]

#: Order of the states in the bar, outcomes first.
_ORDER = (
    "succeeded",
    "failed",
    "gone",
    "cancelled",
    "rejected",
    "running",
    "retrying",
    "ready",
    "scheduled",
    "queued",
    "unsent",
)
_WIDTH = 40  # characters of the bar in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of a batch at one moment, as it is shown."""

    batch: str
    name: str | None
    queue: str
    badge: str
    progress: Progress
    sending: bool  #: whether this process sends it
    causes: Mapping[str, int]  #: last status -> rows in state `failed` that had it
    lost: Mapping[str | None, int] = field(default_factory=dict)  #: how rows left the queue -> rows in state `gone`
    retry_note: str | None = None  #: "attempt 3 of 5, next in 12 min"
    blockers: Sequence[str] = ()  #: why sending or watching is delayed, a sentence each
    notes: Sequence[str] = ()  #: other lines
    log_url: str | None = None  #: URL of the log in Google's console
    partitions: str | None = None  #: the periods of a backfill, in words
    grid: str = ""  #: the calendar of a backfill, as HTML

    def bundle(self) -> dict[str, str]:
        """Return the MIME bundle, text and HTML."""
        return {"text/plain": self.text(), "text/html": self.html()}

    def text(self) -> str:
        """Return a few lines of text."""
        share = self._share()
        full = round(_WIDTH * share)
        bar = f"[{'█' * full}{'·' * (_WIDTH - full)}] {share:.0%}"
        head = [f"{self._title()}  [{self.badge}]", *([self.partitions] if self.partitions else [])]
        return "\n".join([*head, bar, repr(self.progress), *self.lines()])

    def html(self) -> str:
        """Return static HTML: a stacked bar with its legend, and the lines."""
        progress, counts = self.progress, self.segments()
        total = max(progress.total, 1)
        order = [name for name in _ORDER if counts.get(name)]
        bars = "".join(
            f'<div style="width:{100 * counts[name] / total:.2f}%;background:{colour(name)}" '
            f'title="{counts[name]:,} {name}"></div>'
            for name in order
        )
        legend = "".join(
            '<span style="white-space:nowrap"><span style="display:inline-block;width:.7em;height:.7em;'
            f'border-radius:50%;background:{colour(name)};margin-right:.35em"></span>{counts[name]:,} {name}</span>'
            for name in order
        )
        link = (
            f'<a href="{html.escape(self.log_url)}" target="_blank" rel="noopener">operations log</a>'
            if self.log_url
            else ""
        )
        partitions = f'<div style="margin-top:.4em">{html.escape(self.partitions)}</div>' if self.partitions else ""
        bar = (
            f'<div role="progressbar" aria-label="batch {html.escape(self.batch)}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{100 * self._share():.0f}" style="display:flex;height:1em;'
            "max-width:60em;margin:.4em 0;border-radius:3px;overflow:hidden;background:var(--jp-layout-color3,#ccc)"
            f'">{bars}</div><div style="display:flex;flex-wrap:wrap;gap:.2em 1.2em">'
            f"<b>{progress.done:,} of {progress.total:,} done</b>{legend}{link}</div>"
        )
        lines = lines_html([self.pace(), *self.lines()])
        return html_card(self._title(), bar, partitions, self.grid, lines, badge=self.badge)

    def lines(self) -> list[str]:
        """Return the notes below the bar; those that suggest a method come last."""
        progress = self.progress
        lines = []
        if progress.retrying:
            lines.append(f"{progress.retrying:,} retrying" + (f", {self.retry_note}" if self.retry_note else ""))
        lines += self.blockers
        lines += self.notes
        if progress.unsent and not self.sending:
            lines.append(f"{progress.unsent:,} unsent: batch.resume()")
        if progress.gone:
            lines.append(f"{self.gone()} → {_again('gone')}")
        if progress.cancelled:
            lines.append(f"{progress.cancelled:,} cancelled → {_again('cancelled')}")
        if progress.rejected:
            lines.append(f"{progress.rejected:,} rejected → batch.tasks().query(\"state == 'rejected'\")")
        if progress.failed:
            causes = ", ".join(f"{status} {count:,}" for status, count in self.causes.items())
            lines.append(f"{progress.failed:,} failed ({causes}) → batch.retry_failed()")
        return lines

    def gone(self) -> str:
        """Return how many rows are gone, and how they left the queue if that is known."""
        lost = {how: count for how, count in self.lost.items() if how is not None}
        parts = [f"{count:,} gone: {how}" for how, count in lost.items()]
        if rest := self.progress.gone - sum(lost.values()):
            parts.append(f"{rest:,} gone: no longer in the queue, and the log does not show why")
        return "; ".join(parts)

    def _title(self) -> str:
        name = f'"{self.name}" ' if self.name and self.name != self.batch else ""
        return f"Batch {name}{self.batch} on queue {self.queue}"

    def _share(self) -> float:
        return self.progress.done / self.progress.total if self.progress.total else 1.0

    def segments(self) -> dict[str, int]:
        """Return the counts by state; pending rows whose state is not known are queued."""
        counts = {name: count or 0 for name, count in self.progress.counts().items()}
        known = sum(counts[name] for name in ("scheduled", "ready", "running", "retrying"))
        return {**counts, "queued": max(0, self.progress.pending - known)}

    def pace(self) -> str:
        """Return how many rows are done a second, and the time left; empty if that is not known."""
        progress = self.progress
        if progress.finished or not progress.done_per_second:
            return ""
        pace = f"{progress.done_per_second:,.1f} done a second"
        if progress.eta is None or progress.at is None:
            return pace
        left = max(0, round((progress.eta - progress.at).total_seconds()))
        return f"{pace}, the last one in about {duration_text(left)}"


def _again(state: str) -> str:
    return f"batch.resend(batch.tasks().query(\"state == '{state}'\"))"

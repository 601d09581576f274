"""How a batch shows itself: the bar, what waits, the causes of failure, and the next line to type. Pure."""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudtasks_nb.fanout.batch.progress import Progress

__all__ = ["COLOURS", "Report"]

#: Colour of each state in bars; legends repeat the word, so that no state is told by colour alone.
COLOURS = {
    "succeeded": "#2e7d32",
    "failed": "#c62828",
    "gone": "#6a1b9a",
    "cancelled": "#6d4c41",
    "rejected": "#ad1457",
    "running": "#1565c0",
    "retrying": "#ef6c00",
    "ready": "#78909c",
    "scheduled": "#90a4ae",
    "queued": "#78909c",
    "unsent": "#cfd8dc",
}
_WIDTH = 40  # characters of the bar in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is shown of a batch at one moment."""

    batch: str
    name: str | None
    queue: str
    badge: str
    progress: Progress
    sending: bool  #: this process sends it
    causes: Mapping[str, int]  #: last status -> rows in state `failed` that had it
    lost: Mapping[str | None, int] = field(default_factory=dict)  #: how they left the queue -> rows in state `gone`
    retry_note: str | None = None  #: "attempt 3 of 5, next in 12 min"
    blockers: Sequence[str] = ()  #: what keeps the sending or the watching up
    notes: Sequence[str] = ()  #: other lines worth knowing
    log_url: str | None = None  #: where Google shows the log
    partitions: str | None = None  #: which ones these are, of a backfill
    grid: str = ""  #: their calendar, as HTML

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
        progress, counts = self.progress, self._segments()
        total = max(progress.total, 1)
        order = [name for name in COLOURS if counts.get(name)]
        bars = "".join(
            f'<div style="width:{100 * counts[name] / total:.2f}%;background:{COLOURS[name]}" '
            f'title="{counts[name]:,} {name}"></div>'
            for name in order
        )
        legend = "".join(
            '<span style="white-space:nowrap"><span style="display:inline-block;width:.7em;height:.7em;'
            f'border-radius:50%;background:{COLOURS[name]};margin-right:.35em"></span>{counts[name]:,} {name}</span>'
            for name in order
        )
        link = (
            f'<a href="{html.escape(self.log_url)}" target="_blank" rel="noopener">operations log</a>'
            if self.log_url
            else ""
        )
        partitions = f'<div style="margin-top:.4em">{html.escape(self.partitions)}</div>' if self.partitions else ""
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in [self._pace(), *self.lines()] if line)
        return (
            '<div style="font-family:var(--jp-ui-font-family,system-ui,sans-serif);'
            'font-size:var(--jp-ui-font-size1,13px);max-width:60em">'
            f'<div style="font-weight:600">{html.escape(self._title())}<span style="border:1px solid currentColor;'
            'border-radius:3px;padding:0 .4em;margin-left:.6em;font-size:85%;font-weight:normal">'
            f"{html.escape(self.badge)}</span></div>"
            f'<div role="progressbar" aria-label="batch {html.escape(self.batch)}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{100 * self._share():.0f}" style="display:flex;height:1em;'
            "margin:.4em 0;border-radius:3px;overflow:hidden;background:var(--jp-layout-color3,#ccc)"
            f'">{bars}</div><div style="display:flex;flex-wrap:wrap;gap:.2em 1.2em">'
            f"<b>{progress.done:,} of {progress.total:,} done</b>{legend}{link}</div>"
            f"{partitions}{self.grid}{lines}</div>"
        )

    def lines(self) -> list[str]:
        """Return what else there is to say, the next line to type last."""
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
        """Say how many rows are gone, and how they left the queue as far as that is known."""
        lost = {how: count for how, count in self.lost.items() if how is not None}
        parts = [f"{count:,} gone: {how}" for how, count in lost.items()]
        if rest := self.progress.gone - sum(lost.values()):
            parts.append(f"{rest:,} gone: no longer in the queue, and the log does not say why")
        return "; ".join(parts)

    def _title(self) -> str:
        name = f'"{self.name}" ' if self.name and self.name != self.batch else ""
        return f"Batch {name}{self.batch} on queue {self.queue}"

    def _share(self) -> float:
        return self.progress.done / self.progress.total if self.progress.total else 1.0

    def _segments(self) -> dict[str, int]:
        counts = {name: count or 0 for name, count in self.progress.counts().items()}
        known = sum(counts[name] for name in ("scheduled", "ready", "running", "retrying"))
        return {**counts, "queued": max(0, self.progress.pending - known)}

    def _pace(self) -> str:
        progress = self.progress
        if progress.finished or not progress.done_per_second:
            return ""
        pace = f"{progress.done_per_second:,.1f} done a second"
        if progress.eta is None or progress.at is None:
            return pace
        return f"{pace}, the last one in about {_span(progress.eta - progress.at)}"


def _again(state: str) -> str:
    return f"batch.resend(batch.tasks().query(\"state == '{state}'\"))"


def _span(span: dt.timedelta) -> str:
    """Say a duration in its one or two largest units."""
    left = max(0, round(span.total_seconds()))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if left >= size:
            return f"{left // size} {unit} {left % size // part} {smaller}"
    return f"{left} s"

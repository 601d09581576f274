"""Format the state of a batch as text and HTML: the bar, notes, causes of failure, and suggested methods."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloudtasks_nb.display.card import html_card, lines_html
from cloudtasks_nb.display.charts import state_bar
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted, percent_text
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.fanout.batch.progress import Progress

__all__ = ["DROP", "RESUME", "Report", "main_cause"]

#: What may be done about rows that are held back.
RESUME, DROP = "batch.resume() sends them", "batch.cancel() drops them"

_WIDTH = 40  # characters of the bar in text
_CAUSES, _CAUSE_WIDTH = 3, 80  # causes in a line, and characters of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of a batch at one moment, as it is shown."""

    batch: str
    name: str | None
    queue: str
    badge: str
    progress: Progress
    sending: bool  #: whether this process sends it
    causes: Mapping[str, int]  #: cause -> rows in state `failed` that have it
    doubtful: int = 0  #: rows that may have been sent by a process that has ended
    retry_causes: Mapping[str, int] = field(default_factory=dict)  #: cause -> rows that are tried again because of it
    lost: Mapping[str | None, int] = field(default_factory=dict)  #: how rows left the queue -> rows in state `gone`
    retry_note: str | None = None  #: "attempt 3 of 5, next in 12 min"
    blockers: Sequence[str] = ()  #: why sending or watching is delayed, a sentence each
    notes: Sequence[str] = ()  #: other lines
    held: str | None = None  #: why rows are not sent until `Batch.resume` is called, a sentence
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
        bar = f"[{'█' * full}{'·' * (_WIDTH - full)}] {percent_text(share)}"
        head = [f"{self._title()}  [{self.badge}]", *([self.partitions] if self.partitions else [])]
        return "\n".join([*head, bar, repr(self.progress), *self.lines()])

    def html(self, *, methods: bool = True) -> str:
        """Return static HTML: a stacked bar with its legend, and the lines; in a panel without suggested methods."""
        progress = self.progress
        bar = state_bar(self.segments(), label=f"batch {self.batch}", share=self._share())
        pace = html.escape(f", {self.pace()}" if self.pace() else "")
        link = f' <a href="{html.escape(self.log_url or "")}" target="_blank" rel="noopener">operations log</a>'
        done = f"<div><b>{progress.done:,}</b> of {progress.total:,} done{pace}{link if self.log_url else ''}</div>"
        partitions = lines_html([self.partitions or ""])
        lines = lines_html(self.lines(methods=methods))
        # An output stays as it is when its kernel ends; a panel has its own age. At the end nothing moves but the time.
        moment = "%Y-%m-%d %H:%M" if progress.finished else "%Y-%m-%d %H:%M:%S"
        at = f'<div style="opacity:.75">as of {progress.at:{moment}} UTC</div>' if progress.at else ""
        parts = (bar, done, partitions, self.grid, lines, at if methods else "")
        return html_card(self._title(), *parts, badge=self.badge)

    def lines(self, *, methods: bool = True) -> list[str]:
        """Return the notes below the bar; those that suggest a method come last."""
        progress, lines = self.progress, []
        if progress.retrying:
            lines.append(f"{progress.retrying:,} retrying" + (f", {self.retry_note}" if self.retry_note else ""))
        if self.retry_causes and not progress.finished:
            errors = f"last errors of rows that are tried again: {_counted(self.retry_causes)}"
            lines.append(f"{errors} → batch.errors()" if methods else errors)
        if progress.settling:
            lines.append(f"{progress.settling:,} settling: their log entries are awaited")
        lines += map(mask_text, (*self.blockers, *self.notes))
        if self.held:
            lines.append(f"{self.held} → {RESUME}, {DROP}" if methods else self.held)
        elif not self.sending and (progress.unsent or self.doubtful):
            unsent = [f"{progress.unsent:,} unsent"] if progress.unsent else []
            doubt = [f"{self.doubtful:,} may have been sent by a process that has ended"] if self.doubtful else []
            left = ", ".join(unsent + doubt)
            lines.append(f"{left}: batch.resume()" if methods else f"{left}, and this kernel does not send them")
        found = (
            (progress.gone, self.gone(), _again("gone")),
            (progress.cancelled, f"{progress.cancelled:,} cancelled", _again("cancelled")),
            (progress.rejected, f"{progress.rejected:,} rejected", "batch.tasks().query(\"state == 'rejected'\")"),
            (progress.failed, f"{progress.failed:,} failed ({_counted(self.causes)})", "batch.retry_failed()"),
        )
        return lines + [f"{text} → {method}" if methods else text for count, text, method in found if count]

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
        return {**counts, "queued": self.progress.unknown, "settling": self.progress.settling}

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


def _counted(causes: Mapping[str, int], most: int = _CAUSES, text: str = "{} {:,}") -> str:
    """Return the most frequent causes with their counts; long ones are cut."""
    shown = [text.format(_cut(mask_text(cause)), count) for cause, count in list(causes.items())[:most]]
    rest = len(causes) - len(shown)
    return ", ".join(shown) + (f" and {counted(rest, 'other causes')}" if rest else "")


def main_cause(causes: Mapping[str, int]) -> str:
    """Return the most frequent cause, and how many others there are; empty if there is none."""
    return _counted(causes, 1, "{}")


def _cut(cause: str) -> str:
    return cause if len(cause) <= _CAUSE_WIDTH else cause[: _CAUSE_WIDTH - 1].rstrip("… ") + "…"


def _again(state: str) -> str:
    return f"batch.resend(batch.tasks().query(\"state == '{state}'\"))"

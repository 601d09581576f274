"""Format the state of a batch as text and HTML: the bar, notes, causes of failure, and suggested methods."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cloudtasks_nb._frames import BY_END, STATES
from cloudtasks_nb.display.card import html_card, lines_html
from cloudtasks_nb.display.charts import state_bar
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted, percent_text
from cloudtasks_nb.display.secrets import escape_controls, mask_text
from cloudtasks_nb.fanout.batch.progress import Facts, Progress, age_text
from cloudtasks_nb.fanout.outbox.outcomes import LIKE_IT
from cloudtasks_nb.fanout.states import State

__all__ = ["RENDER", "RESUME", "Report", "causes_text", "endings", "isolated", "retries_text", "segments"]

#: The line of Python that sends what is not sent.
RESUME = "batch.resume()"

#: What helps with rows that only another home has rendered.
RENDER = "run the cell that made the batch here"

_WIDTH = 40  # characters of the bar in text
_CAUSES, _CAUSE_WIDTH = 3, 160  # causes in a line, and characters of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The state of a batch at one moment, as it is shown."""

    batch: str
    name: str | None
    queue: str
    badge: str
    facts: Facts
    progress: Progress  #: what follows from these
    part: str | None = None  #: "6 of the 12 rows of batch march", if it is about these; None: about all
    retry_note: str | None = None  #: "attempt 3 of 5, next in 12 min"
    notes: Sequence[str] = ()  #: other lines
    log_url: str | None = None  #: URL of the log in Google's console
    partitions: str | None = None  #: the periods of a backfill, in words
    grid: str = ""  #: the calendar of a backfill, as HTML
    code: str = "batch"  #: what the reader has of the batch in suggested methods

    def bundle(self) -> dict[str, str]:
        """Return the MIME bundle, text and HTML."""
        return {"text/plain": self.text(), "text/html": self.html()}

    def text(self) -> str:
        """Return a few lines of text."""
        share, progress = self._share(), self.progress
        full = round(_WIDTH * share)
        known = "" if progress.known == progress.done else f"{progress.known:,} known of {progress.total:,}"
        words = ", ".join(filter(None, (progress.state, known)))
        bar = f"[{'█' * full}{'·' * (_WIDTH - full)}] {percent_text(share)}  {words}".rstrip()
        title = f"{self._title(isolated(escape_controls(self.name or '')))}  [{self.badge}]"
        counts, seen = repr(replace(progress, age=None)), "" if progress.finished else self._seen()
        lines = [self.partitions, "" if _is_unread(progress) else bar, counts, *self.lines(), seen]
        return "\n".join([title, *map(escape_controls, filter(None, lines))])

    def html(self, *, methods: bool = True) -> str:
        """Return static HTML: a stacked bar with its legend, and the lines; in a panel without suggested methods."""
        progress = self.progress
        bar = state_bar(segments(progress), label=f"batch {self.batch}", share=self._share())
        word = f"<b>{progress.state}</b>, " if progress.state else ""
        pace = html.escape(f", {self.pace()}" if self.pace() else "")
        link = f' <a href="{html.escape(self.log_url or "")}" target="_blank" rel="noopener">operations log</a>'
        counts = f"<b>{progress.known:,}</b> known of {progress.total:,}"
        if progress.known == progress.done:
            counts = repr(progress) if _is_unread(progress) else f"<b>{progress.done:,}</b> of {progress.total:,} done"
        done = f"<div>{word}{counts}{pace}{link if self.log_url else ''}</div>"
        partitions = lines_html([self.partitions or ""])
        lines = lines_html(self.lines(methods=methods))
        seen = self._seen() if methods else age_text(progress)
        at = f'<div style="opacity:.75">{seen}</div>' if seen else ""
        parts = (bar, done, partitions, self.grid, lines, at)
        return html_card(self._title(self.name or ""), *parts, badge=self.badge, name=self.name or "")

    def lines(self, *, methods: bool = True) -> list[str]:
        """Return the notes below the bar; those that suggest a method come last."""
        progress = self.progress
        lines: list[tuple[str, str | None]] = []
        if progress.reason and not _is_unread(progress):  # else the counts say so
            lines.append((mask_text(progress.reason), progress.action))
        if progress.owner:
            lines.append((f"owner: {progress.owner}", None))
        if progress.retrying:
            note = f", {self.retry_note}" if self.retry_note else ""
            lines.append((f"{progress.retrying:,} retrying{note}", None))
        if self.facts.retried and not progress.finished:
            lines.append((retries_text(self.facts.retried), "batch.errors()"))
        if progress.settling:
            lines.append((f"{progress.settling:,} settling: their log entries are awaited", None))
        lines += [(mask_text(note), None) for note in self.notes]
        counts = {name: count or 0 for name, count in progress.counts().items()}
        ends = reversed(endings(counts, self.facts))
        lines += [(text, method) for _, text, method in ends if not f"{progress.reason}".startswith(f"{text}; ")]
        # A sentence that comes twice stands where it came first, with the method that was named last.
        found = dict(lines).items()
        return [
            f"{text} → {method.replace('batch.', f'{self.code}.')}" if methods and method else text
            for text, method in found
        ]

    def _seen(self) -> str:
        """Return when this was so: an output stays as it is when its kernel ends, or its frontend takes no updates."""
        at = self.progress.at or self.facts.now
        # At the end nothing moves but the time.
        return f"as of {at:%Y-%m-%d %H:%M} UTC" if self.progress.finished else f"as of {at:%H:%M:%S} UTC, {at:%Y-%m-%d}"

    def _title(self, name: str) -> str:
        if self.part is not None:
            return f"{escape_controls(self.part)} on queue {self.queue}"
        quoted = f'"{name}" ' if name and self.name != self.batch else ""
        return f"Batch {quoted}{self.batch} on queue {self.queue}"

    def _share(self) -> float:
        return self.progress.done / self.progress.total if self.progress.total else 1.0

    def pace(self) -> str:
        """Return how many rows are done a second, and the time left; empty if that is not known."""
        progress = self.progress
        if progress.finished or not progress.rate:
            return ""
        pace = f"{progress.rate:,.1f} done a second"
        if progress.eta is None or progress.at is None:
            return pace
        left = max(0, round((progress.eta - progress.at).total_seconds()))
        return f"{pace}, the last one in about {duration_text(left)}"


def _is_unread(progress: Progress) -> bool:
    """Return whether no number is known of a batch but that of its rows, as its counts say."""
    return progress.unsent is None


def isolated(text: str) -> str:
    """Return a text so that one written from right to left does not move what stands beside it.

    Examples
    --------
    >>> isolated("night"), len(isolated("שלום"))
    ('night', 6)
    """
    turned = any(unicodedata.bidirectional(letter) in {"R", "AL"} for letter in text)
    return f"\u2068{text}\u2069" if turned else text


def segments(progress: Progress) -> dict[str, int]:
    """Return the counts by state; pending rows whose state is not known are queued."""
    counts = {name: count or 0 for name, count in progress.counts().items()}
    return {**counts, "queued": progress.unknown, "settling": progress.settling}


def endings(counts: Mapping[str, int], facts: Facts) -> list[tuple[str, str, str]]:
    """Return what became of rows that did not succeed, the worst first.

    Each is the word for a batch that has ended so, a sentence, and the line of Python that helps.
    """
    failed, gone = State.FAILED.word, State.GONE.word
    texts = {
        failed: f"{counts[failed]:,} {failed} ({causes_text(facts.causes)})",
        gone: _gone_text(facts.lost, counts[gone]),
    }
    may_have_run = counts[gone] > sum(count for how, count in facts.lost.items() if how is not None)
    found = []
    for end, state in BY_END.items():
        if counts[state] and not STATES[state].success:
            helps = "{}" if state == gone and may_have_run else STATES[state].helps  # these are not sent again
            found.append((end, texts.get(state, f"{counts[state]:,} {state}"), helps.format(_rows(state))))
    return found


def causes_text(causes: Mapping[str, int], most: int = _CAUSES, text: str = "{} {:,}") -> str:
    """Return the most frequent causes with their counts, if they do not say these by themselves; long ones are cut."""
    shown = [
        ("{}" if LIKE_IT.search(cause) else text).format(_cut(mask_text(cause)), count)
        for cause, count in list(causes.items())[:most]
    ]
    rest = len(causes) - len(shown)
    return ", ".join(shown) + (f" and {counted(rest, 'other causes')}" if rest else "")


def retries_text(causes: Mapping[str, int]) -> str:
    """Return why rows are tried again."""
    return f"last errors of rows that are tried again: {causes_text(causes)}"


def _gone_text(lost: Mapping[str | None, int], gone: int) -> str:
    """Return how many rows are gone, and how they left the queue if that is known."""
    known = {how: count for how, count in lost.items() if how is not None}
    parts = [f"{count:,} gone: {how}" for how, count in known.items()]
    if rest := gone - sum(known.values()):
        they = "it" if rest == 1 else "they"
        parts.append(
            f"{rest:,} gone: no longer in the queue, and neither the log nor a result shows why; {they} may have run"
        )
    return "; ".join(parts)


def _cut(cause: str) -> str:
    return cause if len(cause) <= _CAUSE_WIDTH else cause[: _CAUSE_WIDTH - 1].rstrip("… ") + "…"


def _rows(state: str) -> str:
    """Return the line of Python that shows the rows in a final state."""
    return f"batch.tasks().query(\"state == '{state}'\")"

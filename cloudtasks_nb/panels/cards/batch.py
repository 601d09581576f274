"""The card of a batch: its progress bar, its failures by cause, and notes."""

from __future__ import annotations

import html
from collections.abc import Iterable

from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.progress import PENDING
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.panels.cards.markup import state
from cloudtasks_nb.panels.widgets.charts import state_bar

__all__ = ["batch_html"]


_APART = "display:flex;flex-wrap:wrap;gap:0 16px;justify-content:space-between"


def batch_html(report: Report) -> str:
    """Return a batch's state, everything escaped."""
    progress = report.progress
    name = f"{report.name} " if report.name and report.name != report.batch else ""
    share = 100 * progress.done / progress.total if progress.total else 100
    title = f'<b>{html.escape(name)}</b><span class="ctn-quiet">batch {html.escape(report.batch)}</span>'
    done = f"<b>{progress.done:,}</b> of {progress.total:,} done"
    label = html.escape(f"batch {report.batch}: {progress.done:,} of {progress.total:,} done")
    bar = (
        f'<div role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{int(share)}">{state_bar(_counts(report), label=f"batch {report.batch}")}</div>'
    )
    lines = "".join(f"<div>{line}</div>" for line in _lines(report))
    ends = f"<span>{title}</span><span>{done}{html.escape(_interval(report))}</span>"
    head = f'<div class="ctn-batch-head" style="{_APART}">{ends}</div>'
    return f'<div class="ctn-batch">{head}{bar}{lines}</div>'


def _counts(report: Report) -> dict[str, int | None]:
    """Return the counts by state; pending rows whose state is not known are queued."""
    counts = report.progress.counts()
    unknown = report.progress.pending - sum(counts[name] or 0 for name in PENDING)
    return counts | {"queued": max(unknown, 0)}


def _interval(report: Report) -> str:
    progress = report.progress
    if progress.finished or not progress.done_per_second:
        return ""
    pace = f", {progress.done_per_second:,.1f} a second"
    if progress.eta is None or progress.at is None:
        return pace
    return f"{pace}, the rest in about {duration_text(max((progress.eta - progress.at).total_seconds(), 1.0))}"


def _lines(report: Report) -> Iterable[str]:
    """Yield the lines below the bar, as HTML."""
    progress = report.progress
    if report.causes:
        causes = " ".join(f"<span>{state(status)} <b>{count:,}</b></span>" for status, count in report.causes.items())
        yield f'<div class="ctn-causes">Failed with {causes}</div>'
    said: list[str] = []
    if progress.retrying:
        said.append(f"{progress.retrying:,} retrying" + (f", {report.retry_note}" if report.retry_note else ""))
    said += [*report.blockers, *report.notes]
    if progress.unsent and not report.sending:
        said.append(f"{counted(progress.unsent, 'rows')} unsent, and this kernel does not send them")
    if progress.gone:
        said.append(report.gone())
    if progress.rejected:
        said.append(f"{progress.rejected:,} rejected: never created")
    yield from map(html.escape, said)
    if report.log_url:
        yield f'<a href="{html.escape(report.log_url)}" target="_blank" rel="noopener">operations log</a>'

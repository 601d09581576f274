"""The card of a batch: its progress bar, its failures by cause, and notes."""

from __future__ import annotations

import html
from collections.abc import Iterable

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.panels.cards.markup import state
from cloudtasks_nb.panels.widgets.charts import state_bar

__all__ = ["batch_html"]

_HEAD_STYLE = "display:flex;flex-wrap:wrap;gap:0 16px;justify-content:space-between"


def batch_html(report: Report) -> str:
    """Return the card of a batch as HTML; all values are escaped."""
    progress, pace = report.progress, report.pace()
    name = f"{report.name} " if report.name and report.name != report.batch else ""
    share = 100 * progress.done / progress.total if progress.total else 100
    title = f'<b>{html.escape(name)}</b><span class="ctn-quiet">batch {html.escape(report.batch)}</span>'
    done = f"<b>{progress.done:,}</b> of {progress.total:,} done"
    label = html.escape(f"batch {report.batch}: {progress.done:,} of {progress.total:,} done")
    bar = (
        f'<div role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{int(share)}">{state_bar(report.segments(), label=f"batch {report.batch}")}</div>'
    )
    lines = "".join(f"<div>{line}</div>" for line in _lines(report))
    ends = f"<span>{title}</span><span>{done}{html.escape(pace and f', {pace}')}</span>"
    head = f'<div class="ctn-batch-head" style="{_HEAD_STYLE}">{ends}</div>'
    return f'<div class="ctn-batch">{head}{bar}{lines}</div>'


def _lines(report: Report) -> Iterable[str]:
    """Yield the lines below the bar, as HTML."""
    progress = report.progress
    if report.causes:
        causes = " ".join(f"<span>{state(status)} <b>{count:,}</b></span>" for status, count in report.causes.items())
        yield f'<div class="ctn-causes">Failed with {causes}</div>'
    notes: list[str] = []
    if progress.retrying:
        notes.append(f"{progress.retrying:,} retrying" + (f", {report.retry_note}" if report.retry_note else ""))
    notes += [*report.blockers, *report.notes]
    if progress.unsent and not report.sending:
        notes.append(f"{counted(progress.unsent, 'rows')} unsent, and this kernel does not send them")
    if progress.gone:
        notes.append(report.gone())
    if progress.rejected:
        notes.append(f"{progress.rejected:,} rejected: never created")
    yield from map(html.escape, notes)
    if report.log_url:
        yield f'<a href="{html.escape(report.log_url)}" target="_blank" rel="noopener">operations log</a>'

"""Why rows of a batch failed: a line for each cause, an example of it, and a button that retries its rows."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.display.card import html_card, section_html, table_html
from cloudtasks_nb.display.plural import count_text, counted
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.display.times import from_micros, time_html
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.row_query import RowReader
from cloudtasks_nb.fanout.batch.view import BatchView
from cloudtasks_nb.fanout.outbox.outcomes import Cause, Span
from cloudtasks_nb.panels.batch_box import BatchBox, BatchNow, Pacing
from cloudtasks_nb.panels.cards.task import error_of
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.cells import code_html
from cloudtasks_nb.panels.widgets.choices import ChoiceButton, Choices

__all__ = ["BatchFailures"]

_SECOND = 1_000_000  # microseconds
_SHOWN = 100  # causes; a batch has up to 1,000
_PAUSE_FACTOR = 20  # the times of the causes are not read again for the duration of the last reading times this


class BatchFailures(BatchBox):
    """The causes of failures of a batch, the most frequent first.

    Parameters
    ----------
    panel : Panel
        Runs the work in the background, and shows exceptions.
    picked : callable
        Called with the key of the chosen cause, or None, when it has changed.
    retry : callable
        Called with the key of a cause when its rows are to be tried again.
    """

    def __init__(self, panel: Panel, picked: Callable[[str | None], object], retry: Callable[[str], object]) -> None:
        self._panel, self._changed = panel, picked
        self._reader: RowReader | None = None
        self._causes: Mapping[str, Cause] = {}  # by their keys, as `_spans`
        self._spans: Mapping[str, Span] = {}
        self._common: Mapping[str, str] = {}  # what the rows of each have in common
        self._spans_of: object = None  # the causes for which the spans were read
        self._reading = threading.Lock()
        self._offering = threading.Lock()  # the last thread has the newest causes
        self._pacing = Pacing()
        self._example_of: int | None = None  # the ref of the row whose error is the example
        self._heading = widgets.HTML()
        self.choices = Choices(
            "Causes of failures",
            "stacked",
            picked=lambda cause: panel.guarded(self._clicked, cause),
            act=lambda cause: panel.guarded(retry, cause),
        )
        self.example = widgets.HTML().add_class("ctn-example")
        super().__init__([self._heading, self.choices, self.example])
        self.add_class("ctn-failures")

    def show(self, view: BatchView | None) -> None:
        """Show the causes of another batch, or none."""
        self._reader = None if view is None else view.reader
        self._spans, self._common, self._spans_of = {}, {}, None
        self._pacing = Pacing()
        self.choices.picked, self.example.value = None, ""

    def draw(self, now: BatchNow) -> float:  # noqa: ARG002 - the reader is that of the batch
        """Show the causes as they are counted now, and their times soon after; return as `BatchBox`."""
        if self._reader is None:
            return 0.0
        self._causes = self._reader.causes()
        self._offer()
        if self.choices.picked is not None and self.choices.picked not in self._causes:
            self.pick(None)  # its rows were tried again
        if not self._causes or self._causes == self._spans_of:
            return 0.0
        wait = self._pacing.wait
        if not wait:
            self._panel.spawn(asyncio.to_thread(self._read_spans, self._reader, self._causes))
        return wait

    def pick(self, cause: str | None) -> None:
        """Choose a cause, or none: show an example of it."""
        if cause != self.choices.picked:
            self.choices.picked, self.example.value = cause, ""
            if cause is not None and self._reader is not None:
                self._panel.spawn(asyncio.to_thread(self._show_example, self._reader, cause))

    def html(self) -> str:
        """Return the causes as a static table; empty if nothing failed."""
        rows = [
            (
                count_text(cause.failed + cause.retrying),
                html.escape(mask_text(cause.words(cause.failed + cause.retrying))),
                html.escape(self._note(cause)),
                _between([self._spans[cause.key]] if cause.key in self._spans else []),
                html.escape(mask_text(self._common.get(cause.key, ""))),
            )
            for cause in list(self._causes.values())[:_SHOWN]
        ]
        return self._heading.value + table_html(("Rows", "Cause", "", "When", "In common"), rows) if rows else ""

    def _clicked(self, cause: str) -> None:
        self.pick(None if cause == self.choices.picked else cause)
        self._changed(self.choices.picked)

    def _offer(self) -> None:
        changes = not self._panel.context.read_only
        with self._offering:
            causes = self._causes
            total = sum(cause.failed + cause.retrying for cause in causes.values())
            spans = self._spans
            highest = max((count for span in spans.values() for count in span.counts), default=1)
            self.choices.offer(
                [
                    ChoiceButton(
                        key=cause.key,
                        text=cause.words(cause.failed + cause.retrying),
                        number=cause.failed + cause.retrying,
                        share=(cause.failed + cause.retrying) / max(total, 1),
                        note=self._note(cause),
                        common=self._common.get(cause.key, ""),
                        **_course(spans.get(cause.key), highest),
                        act=f"Retry {count_text(cause.failed)}" if cause.failed and changes else "",
                        tip=f"A new task for each of the {counted(cause.failed, 'rows')} that failed because of this",
                    )
                    for cause in list(causes.values())[:_SHOWN]
                ]
            )
            more = f", here the first {_SHOWN}" if len(causes) > _SHOWN else ""
            axis = _between(spans.values())
            axis = f'<div class="ctn-quiet">failed {axis}</div>' if axis else ""
            self._heading.value = section_html(f"Why rows failed: {counted(len(causes), 'causes')}{more}", axis)
            self.layout.display = None if causes else "none"

    def _note(self, cause: Cause) -> str:
        failed, retrying = cause.failed, cause.retrying
        words = [f"{count_text(failed)} failed"] if failed and retrying else ["failed"] if failed else []
        words += [f"{count_text(retrying)} retrying"] if failed and retrying else ["retrying"] if retrying else []
        return " · ".join(part for part in (", ".join(words), cause.where) if part)

    def _read_spans(self, reader: RowReader, causes: Mapping[str, Cause]) -> None:
        """Read times and first rows of the causes: one reading at a time, and not all the time."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            with self._pacing.measured(_PAUSE_FACTOR):
                spans, common = reader.cause_spans(), reader.common()
        finally:
            self._reading.release()
        if reader is self._reader:
            self._spans, self._common, self._spans_of = spans, common, causes
            self._offer()
            cause = self.choices.picked
            if cause in spans and self.example.value and spans[cause].ref != self._example_of:
                self._show_example(reader, cause)  # the row that was the example has another cause by now, or none

    def _show_example(self, reader: RowReader, cause: str) -> None:
        found = self._spans.get(cause) or reader.cause_spans().get(cause)
        task = None if found is None else reader.task(found.ref)
        if found is None or task is None:
            return
        try:
            row = reader.stored(task)
            if row is None:
                return  # the row has a newer task by now
            title = f"Example: row {row.row:,}"
            text = error_of(row, task) or "Neither the log nor the store has a message of this attempt."
        except StoreError as error:
            title, text = "Example", error.message
        if reader is self._reader and cause == self.choices.picked:  # no other was chosen meanwhile
            self._example_of = found.ref
            self.example.value = html_card(title, code_html(text))


def _between(spans: Iterable[Span]) -> str:
    """Return as HTML when the first and the last of the rows failed; empty if that is not known."""
    known = [at // _SECOND * _SECOND for span in spans for at in (span.first, span.last) if at is not None]
    times = dict.fromkeys(time_html(from_micros(at)) for at in (min(known), max(known))) if known else ()
    return ("from " if len(times) > 1 else "at ") + " to ".join(times) if times else ""


def _course(span: Span | None, highest: int) -> dict[str, Any]:
    """Return when the rows of a cause failed, as a choice shows it."""
    if span is None or span.first is None or span.last is None:
        return {}
    between = dict.fromkeys(at // _SECOND * 1_000 for at in (span.first, span.last))
    return {"course": [round(count / highest, 3) for count in span.counts], "between": list(between)}

"""A progress bar, and an output that is updated in place; any thread can use them.

In a notebook both are an HTML output with a display id. It is not a widget, so it needs no comm, is updated while a
cell runs, and stays in the saved notebook with its last state. Elsewhere the bar is tqdm's text.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from tqdm import tqdm

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import current_output, in_notebook, note_stream, notify, printable

__all__ = ["Bar", "Live", "bar_html"]

_DELAY = 0.5  # seconds before a bar appears; shorter work shows none
_PACE = 0.2  # seconds between two updates


def bar_html(share: float | None, text: str, *, label: str) -> str:
    """Return a bar as HTML, filled to `share` (0 to 1); None for an indeterminate bar."""
    width = 100.0 if share is None else 100 * min(max(share, 0.0), 1.0)
    now = "" if share is None else f' aria-valuenow="{width:.0f}"'
    return (
        '<div style="display:flex;align-items:center;gap:.6em;font-family:var(--jp-code-font-family,monospace);'
        'font-size:var(--jp-code-font-size,13px)">'
        f'<div role="progressbar" aria-label="{html.escape(label)}" aria-valuemin="0" aria-valuemax="100"{now} '
        'style="flex:0 0 14em;height:1em;border-radius:2px;background:var(--jp-layout-color3,#ccc);overflow:hidden">'
        f'<div style="width:{width:.1f}%;height:100%;background:var(--jp-brand-color1,#1976d2);'
        f'opacity:{0.4 if share is None else 1}"></div></div>'
        f"<span>{html.escape(text)}</span></div>"
    )


class Live:
    """One output of a notebook that is replaced in place.

    Parameters
    ----------
    bundle : mapping
        The first content, by MIME type.
    """

    def __init__(self, bundle: Mapping[str, str]) -> None:
        from IPython.display import display  # noqa: PLC0415 - needed in a kernel only, which has loaded IPython

        self._display: Any = display
        self._handle = display(dict(bundle), raw=True, display_id=True)
        self._shown = dict(bundle)
        self._lock = threading.Lock()

    def show(self, bundle: Mapping[str, str]) -> None:
        """Replace the content, if it differs."""
        with self._lock:
            if self._shown == bundle:
                return
            self._shown = dict(bundle)
            self._display(self._shown, raw=True, display_id=self._handle.display_id, update=True)

    def clear(self) -> None:
        """Empty the output."""
        self.show({"text/plain": "", "text/html": ""})


class Bar:
    """A progress bar that appears after half a second and disappears when its block ends.

    Parameters
    ----------
    what : str
        Name of the work, in a few words.
    total : int, optional
        Number of items; without it the bar shows only how many are done.
    unit : str
        Plural noun for the items.
    show : bool
        False: the bar never appears.
    """

    def __init__(self, what: str, total: int | None = None, *, unit: str = "rows", show: bool = True) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._show = show
        self._done, self._note = 0, ""
        self._start = time.monotonic()
        self._next = self._start + _DELAY
        self._live: Live | None = None
        self._text: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, count: int = 1) -> None:
        """Add to the number of items that are done."""
        self.to(self._done + count)

    def to(self, done: int, *, total: int | None = None, note: str = "") -> None:
        """Set the number of items that are done, and the total if it is given; `note` is a word behind the bar."""
        self._done, self._note = done, note
        self._total = self._total if total is None else total
        now = time.monotonic()
        if self._show and now >= self._next:
            self._next = now + _PACE
            with _loop.hold_interrupts():  # tqdm releases its locks in Python
                self._draw(now)

    def notify(self, line: str) -> None:
        """Show one line as `notify` does, above the bar if it is drawn as text."""
        if self._text is None or current_output() is not None:
            notify(line)
        else:
            with _loop.hold_interrupts():
                tqdm.write(printable(line), file=note_stream())

    def close(self) -> None:
        """Remove the bar."""
        with _loop.hold_interrupts():
            if self._live is not None:
                self._live.clear()
            if self._text is not None:
                self._text.close()
                self._text = None  # tqdm has a finalizer: it runs here
        self._show = False

    def _draw(self, now: float) -> None:
        output = current_output()
        if output is not None:
            output.progress(self._what, self._done, self._total)
            return
        if in_notebook():
            self._draw_html(now)
        else:
            self._draw_text(now)

    def _draw_text(self, now: float) -> None:
        if self._text is None:
            self._text = tqdm(desc=self._what, unit=f" {self._unit}", leave=False, dynamic_ncols=True)
            if not self._text.disable:  # with TQDM_DISABLE set, tqdm's bar has no start time
                self._text.start_t -= now - self._start
        self._text.total = self._total
        self._text.n = self._done
        self._text.set_postfix_str(self._note, refresh=False)
        self._text.refresh()

    def _draw_html(self, now: float) -> None:
        meter = tqdm.format_meter(
            self._done,
            self._total or 0,
            now - self._start,
            ncols=0,
            prefix=self._what,
            unit=f" {self._unit}",
            postfix=self._note,
        )
        share = self._done / self._total if self._total else None
        bundle = {"text/plain": meter, "text/html": bar_html(share, meter, label=self._what)}
        if self._live is None:
            self._live = Live(bundle)
        else:
            self._live.show(bundle)

"""A static copy of a panel below it in the cell's output, for a notebook that is opened without the panel's kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from cloudtasks_nb import _loop
from cloudtasks_nb.display.card import html_card, lines_html
from cloudtasks_nb.display.progress_bar import Live
from cloudtasks_nb.panels.context import PanelContext

__all__ = ["Original", "StaticCopy"]

_NOTE = "run this cell again for the live panel"
_PACE = 10.0  # seconds between two updates; each makes the notebook a changed file

# JupyterLab and Notebook show an error in place of a widget whose kernel is gone. It is the output above the copy.
_DEAD_WIDGET = ".jp-OutputArea-child:has(> .lm-Panel.jp-OutputArea-output):not(:has(.ctn-panel))"
_STYLE = f"<style>{_DEAD_WIDGET}:has(+ .jp-OutputArea-child [data-ctn-copy]){{display:none}}</style>"


class Original(Protocol):
    """The panel that is copied."""

    context: PanelContext
    title: str
    model_id: str

    def static_html(self) -> str:
        """Return the content as HTML that needs no kernel."""

    def read_at(self) -> float:
        """Return when the content was read, seconds since 1970; 0: not yet."""

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the background loop."""


class StaticCopy:
    """The copy of one panel. While the live panel is on the page, it hides the copy.

    Parameters
    ----------
    panel : Original
    """

    def __init__(self, panel: Original) -> None:
        self._panel = panel
        self._output: Live | None = None
        self._content = ""
        self._next = 0.0  # time of the next update
        self._timer: asyncio.TimerHandle | None = None

    def html(self, note: str = _NOTE) -> str:
        """Return the panel as HTML that needs no kernel."""
        return self._page(self._panel.static_html(), note)

    def display(self, bundle: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Display the panel by its MIME bundle, and its copy."""
        from IPython.display import display  # noqa: PLC0415 - IPython calls this, so it is loaded

        display({**bundle, "text/html": ""}, metadata=dict(metadata), raw=True)
        self._content = self._panel.static_html()
        self._next = time.monotonic() + _PACE
        self._output = Live(self._bundle())

    def follow(self) -> None:
        """Update the copy soon, if the panel then shows anything else."""
        if self._output is not None:
            _loop.call_soon(self._schedule)

    def close(self) -> None:
        """End the updates."""
        self._output = None
        if self._timer is not None:
            _loop.call_soon(self._timer.cancel)

    def _schedule(self) -> None:
        if self._timer is None and self._output is not None:
            self._timer = _loop.loop().call_later(max(0.0, self._next - time.monotonic()), self._start_update)

    def _start_update(self) -> None:
        self._timer = None
        self._next = time.monotonic() + _PACE
        if self._output is not None:
            self._panel.spawn(asyncio.to_thread(self._update))

    def _update(self) -> None:
        output, content = self._output, self._panel.static_html()
        if output is not None and content != self._content:
            self._content = content
            output.show(self._bundle())

    def _bundle(self) -> dict[str, str]:
        page = self._page(self._content, _NOTE)
        marked = f'<div data-ctn-copy="{self._panel.model_id}">{_STYLE}{page}</div>'
        return {"text/plain": repr(self._panel), "text/html": marked}

    def _page(self, content: str, note: str) -> str:
        read = self._panel.read_at()
        at = datetime.fromtimestamp(read, UTC) if read else datetime.now(UTC)
        line = f'<div style="opacity:.75">{lines_html([f"as of {at:%Y-%m-%d %H:%M} UTC; {note}"])}</div>'
        return html_card(self._panel.title, line, content, badge=self._panel.context.badge)

"""A saved notebook without a kernel: a table, not a dead widget."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter, MarkdownExporter

from cloudtasks_nb.panels import QueuesPanel
from tests.unit.panels.conftest import CloseLater, FakeContext

__all__: list[str] = []


@pytest.mark.parametrize("exporter", [HTMLExporter, MarkdownExporter])
def test_exports_show_the_table(exporter: Any, context: FakeContext, closing: CloseLater) -> None:
    """What nbconvert makes of the output has the queues and their depth, and no place for a widget."""
    panel = closing(QueuesPanel(context))
    output: Any = nbformat.v4.new_output("display_data", data=panel._repr_mimebundle_())  # type: ignore[no-untyped-call]
    cell: Any = nbformat.v4.new_code_cell("tasks.panel()", outputs=[output])  # type: ignore[no-untyped-call]
    book: Any = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    page, _ = exporter().from_notebook_node(book)
    for words in ("<table", "reports", "2,000", "LOCAL"):
        assert words in page
    assert panel.model_id not in page

"""The run of a batch in its panel: figures, charts and slowest rows, and the progress of a cancellation."""

import pandas as pd

from cloudtasks_nb.panels import BatchPanel
from tests.unit.display.test_charts import parsed
from tests.unit.panels.conftest import Harness, wait_for
from tests.unit.panels.test_batches_panel import fan_out, own


def charts(panel: BatchPanel) -> list[str]:
    """Return the accessible names of the charts."""
    return [node.attrib["aria-label"] for node in parsed(panel.view.run.html()).iter("svg")]


def test_a_run_is_summarised(harness: Harness) -> None:
    """A finished batch has its throughput, its durations and its slowest rows, also in an export of a new panel."""
    batch = fan_out(harness, key=["origin"])
    harness.finish(batch, 1)
    panel = batch.panel()
    page = panel._repr_mimebundle_()["text/html"]
    assert charts(panel) == [
        "rows done over time: 2 succeeded, 1 failed, at most 3 per ms",
        "durations of 3 attempts: half took at most 250 ms (p50), 95 % at most 250 ms (p95), the longest 250 ms",
    ]
    for words in ("<svg", "row 0: origin=EWR", "elapsed", "started", "250 ms", "Slowest rows"):
        assert words in page
    assert "expected end" not in page


def test_a_run_without_an_end_is_not_shown(harness: Harness) -> None:
    """Before a row is done there is nothing; then it appears by itself."""
    batch = fan_out(harness)
    panel = own(batch)
    panel.refresh()
    assert not panel.view.run.shown
    assert panel.view.run.layout.display == "none"
    with wait_for(panel.view.run.layout, "display", lambda display: display is None):
        harness.finish(batch)
    assert panel.view.run.shown


def test_secrets_of_rows_are_masked(harness: Harness) -> None:
    """A token in a column of a slow row is not shown, and markup stays text."""
    rows = pd.DataFrame({"token": ["s3cr3t"], "note": ["<img src=x>"]})
    batch = fan_out(harness, rows, key=["token", "note"])
    harness.finish(batch)
    panel = own(batch)
    panel.refresh()
    page = panel.view.run.html()
    assert "s3cr3t" not in page
    assert "<img" not in page
    assert "&lt;img" in page

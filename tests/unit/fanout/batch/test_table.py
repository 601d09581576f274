"""The frame of a batch's rows."""

from dataclasses import make_dataclass
from typing import Any

import orjson
import pytest

from cloudtasks_nb.fanout.batch import table
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.rows import Page
from tests.unit.fanout.conftest import spool


def test_an_input_without_rows_has_its_columns_whatever_a_page_has(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that is added to `Page` needs no other place."""
    wider: Any = make_dataclass("wider", [("further", Any)], bases=(Page,), frozen=True)
    monkeypatch.setattr(table, "Page", wider)
    scope = spool(outbox, []).scope
    assert scope is not None
    frames = table.RowFrames(outbox.rows, scope, lambda: 0, shown=orjson.dumps([0, ["n"], ["int64"], [[]]]))
    assert frames.frame().columns[:2].tolist() == ["n", "url"]

"""The rows of an input are read as those of a batch are, whatever else the batch has."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import RowFilter, Scope
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import NOTHING, all_rows, chunks, put, refs, spool, tables, tell

Rows = list[int]


def part(outbox: Outbox, rows: Rows | range, **words: Any) -> Scope:
    """Give the batch some rows."""
    found = spool(outbox, chunks(rows, size=7), name="days", **words).scope
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(inputs=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=30, unique=True), min_size=1, max_size=4))
def test_inputs_are_parts_of_their_batch(inputs: list[Rows], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever they have in common, each has its rows, and a count, a filter and a choice are of these."""
    with Outbox(tmp_path_factory.mktemp("home") / "outbox.sqlite3") as outbox:
        scopes = [part(outbox, rows) for rows in inputs]
        batch = scopes[0].batch
        known = dict(zip(all_rows(outbox, batch, "wire", wire=True), refs(outbox, batch), strict=True))
        failed = refs(outbox, batch)[::3]
        put(outbox, batch, failed, State.FAILED)
        for rows, scope in zip(inputs, scopes, strict=True):
            mine = set(refs(outbox, scope))
            assert len(mine) == len(rows) == scope.rows
            assert outbox.batches.counts(scope)[State.FAILED] == len(mine & set(failed))
            assert set(outbox.rows.matching(scope, RowFilter(states=frozenset({State.FAILED})))) == mine & set(failed)
            assert set(outbox.rows.within(scope, known.values())) == mine
            assert sum(outbox.causes.failed(scope).values()) == len(mine & set(failed))
            assert len(outbox.rows.states(scope)) == len(mine)
            first = outbox.rows.first_open(scope)
            assert (first is None) == (mine <= set(failed))
            order = outbox.rows.order(scope)
            if order is not None:
                spans = zip(order.spans[::3], order.spans[1::3], strict=True)
                tasks = {ref: wire for wire, ref in known.items()}
                found = [tasks[ref] for start, end in spans for ref in range(start, end + 1)]
                assert found == [b"".join(c.tasks) for row in sorted(rows) for c in chunks([row])]
        assert [part(outbox, rows).input for rows in inputs] == [scope.input for scope in scopes]


def test_a_rejected_row_that_is_mended(outbox: Outbox) -> None:
    """It is a row of the input that has mended it, and no longer of the others."""
    bad = spool(outbox, chunks(range(3), rejected={1: "no URL"}), name="days", skip=True).scope
    mended = part(outbox, range(3))
    assert all_rows(outbox, mended, "rows") == [0, 2, 1]
    again = spool(outbox, chunks(range(3), rejected={1: "no URL"}), name="days", skip=True).scope
    assert bad is not None
    assert again is not None
    assert (again.rows, again.input == bad.input) == (3, False)


def test_nothing_is_left_of_a_deleted_batch(outbox: Outbox) -> None:
    """Also of its inputs."""
    for start in range(0, 30, 5):
        scope = part(outbox, range(start, start + 10))
    tell(outbox, scope.batch, refs(outbox, scope), state=State.SUCCEEDED)
    assert tables(outbox.path)["inputs"] == 6
    outbox.batches.delete(scope.batch)
    outbox.sweep()
    assert tables(outbox.path) == NOTHING


def test_rows_are_found_by_their_keys_elsewhere(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another outbox has other rows too, in another order; keys that it does not know are none."""
    monkeypatch.setattr("cloudtasks_nb.fanout.outbox.rows._TOGETHER", 4)
    part(outbox, range(20))
    told = list(outbox.rows.keys(part(outbox, range(13, 23))))
    assert [len(keys) for keys in told] == [64, 64, 32]
    with Outbox(tmp_path / "theirs" / "outbox.sqlite3") as theirs:
        batch = part(theirs, [*range(18, 40), *range(10, 16)]).batch
        found = sorted(ref for keys in (*told, b"damaged") for ref in theirs.rows.with_keys(batch, keys))
        assert len(found) == 8
        scopes = [theirs.rows.add_input(batch, b"name", found) for _ in range(2)]
        assert scopes[0].input == scopes[1].input
        assert (scopes[0].rows, refs(theirs, scopes[0])) == (8, found)

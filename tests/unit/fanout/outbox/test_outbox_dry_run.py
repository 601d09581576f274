"""What a dry run finds out, compared with what a spool of the same rows does."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.errors import BatchExistsError, CloudTasksError, DuplicateRowsError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.spool import BatchSpec
from cloudtasks_nb.fanout.plan.identity import task_id
from cloudtasks_nb.fanout.plan.render import Chunk, Forecast
from cloudtasks_nb.fanout.refusals import plain_reason
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import PLACE, all_rows, chunk, chunks, digest, send_all, spool, tables


def forecast(outbox: Outbox, planned: Iterable[Chunk], *, shown: int | None = None, **spec: Any) -> Forecast:
    """Make a dry run, of which the first rows are `shown`."""
    keys: list[bytes] = []
    with outbox.dry_run(BatchSpec(**{"place": PLACE, "recipe": b"recipe", **spec})) as dry_run:
        for part in planned:
            dry_run.add(part)
            keys += part.keys
        return dry_run.forecast(keys[:shown])


def ids(batch: str, rows: Iterable[int], attempt: int = 1) -> list[str]:
    """Return the ids of tasks."""
    return [task_id(batch, digest(str(row)), attempt) for row in rows]


def other(row: int) -> str:
    """Return another request for a row."""
    return f"other {row}"


ROWS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.booleans()), max_size=8)


@given(ROWS, ROWS, st.booleans(), st.sampled_from([None, "days"]), st.booleans())
def test_a_dry_run_is_a_spool_that_is_rolled_back(
    tmp_path_factory: pytest.TempPathFactory,
    earlier: list[tuple[int, str, bool]],
    rows: list[tuple[int, str, bool]],
    sent: bool,  # noqa: FBT001 - a property's arguments
    name: str | None,
    skip: bool,  # noqa: FBT001 - a property's arguments
) -> None:
    """Whatever rows come after whatever batch: what the dry run counts, names and refuses is what the spool does."""

    def planned(cells: list[tuple[int, str, bool]]) -> list[Chunk]:
        bad = {row: "no URL" for row, (_, _, valid) in enumerate(cells) if not valid and skip}
        key, request = (lambda row: str(cells[row][0])), (lambda row: "{}{}".format(*cells[row]))
        numbers = range(len(cells))
        return [chunk(numbers[at : at + 3], key=key, request=request, rejected=bad) for at in numbers[::3]]

    with Outbox(tmp_path_factory.mktemp("home") / "outbox.sqlite3") as outbox:
        before = spool(outbox, planned(earlier), name="days", skip=True)
        if sent:
            send_all(outbox, before.batch)
        stored = tables(outbox.path)
        found = forecast(outbox, planned(rows), name=name, skip=skip)
        assert tables(outbox.path) == stored
        if found.refusal or (found.duplicates and not skip):
            with pytest.raises((BatchExistsError, DuplicateRowsError)) as refused_:
                spool(outbox, planned(rows), name=name, skip=skip)
            assert isinstance(refused_.value, DuplicateRowsError) or plain_reason(refused_.value) == found.refusal
            return
        done = spool(outbox, planned(rows), name=name, skip=skip)
        unsent = [row for row, state in enumerate(found.states) if state == "unsent" and row not in found.problems]
        assert found.sendable == done.added + len(unsent)
        made = set(all_rows(outbox, done.batch, "tasks", states={State.UNSENT, State.SENT}))
        assert {task for row, task in enumerate(found.tasks) if row not in found.problems} <= made


def test_another_process_that_writes(outbox: Outbox, batch: str) -> None:
    """A dry run does not wait for the write lock, and writes nothing."""
    stored = tables(outbox.path)
    with (
        outbox.dry_run(BatchSpec(place=PLACE, recipe=b"recipe", name="n")) as dry_run,
        closing(sqlite3.connect(outbox.path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        dry_run.add(chunk(range(3)))
        assert dry_run.forecast([digest(str(row)) for row in range(3)]).sendable == 3
    assert tables(outbox.path) == stored
    assert outbox.batches.find()[0].id == batch


def test_a_damaged_outbox(outbox: Outbox) -> None:
    """What is wrong with the file is an error of ours."""
    outbox.close()
    outbox.path.write_bytes(b"no database" * 1_000)
    with pytest.raises(CloudTasksError, match="is damaged"), outbox.dry_run(BatchSpec(place=PLACE, recipe=b"r")):
        pass


def test_no_ids_where_sending_would_raise(outbox: Outbox) -> None:
    """Rows without a name that would not be sent as a whole have no batch, and so no ids."""
    found = forecast(outbox, chunks(range(3), rejected={1: "no URL"}))
    assert found == Forecast(tasks=[None] * 3, problems={1: "no URL"}, sendable=2, duplicates=0)


def test_a_batch_that_comes_while_the_rows_are_planned(outbox: Outbox) -> None:
    """A named batch that another process makes meanwhile is compared with all rows."""
    with outbox.dry_run(BatchSpec(place=PLACE, recipe=b"recipe", name="days")) as dry_run:
        dry_run.add(chunk(range(6)))
        batch = spool(outbox, [chunk(range(2)), chunk([2], request=other)], name="days").batch
        send_all(outbox, batch)
        found = dry_run.forecast([digest(str(row)) for row in range(6)])
    assert (found.sendable, found.known) == (3, {"in the queue": 2})
    assert list(found.problems) == [2]
    assert "1 of 6 rows has a key" in found.refusal

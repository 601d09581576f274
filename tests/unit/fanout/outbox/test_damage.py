"""Damage to the outbox's file is noticed before a row is sent under another name, and the error says what to do."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from tests.raising import raises
from tests.unit.fanout.conftest import all_rows, chunks, put_facts, send_all, spool, take


def change(outbox: Outbox, statement: str, *values: Any) -> None:
    """Change the file as a failing disk does."""
    with closing(sqlite3.connect(outbox.path)) as connection, connection:
        connection.execute(statement, values)


def flip(outbox: Outbox, column: str, at: int) -> None:
    """Flip one bit of the first block."""
    with closing(sqlite3.connect(outbox.path)) as connection:
        (before,) = connection.execute(f"SELECT {column} FROM blocks ORDER BY first").fetchone()  # noqa: S608 - our own column
    content = bytearray(before)
    content[at] ^= 1
    change(outbox, f"UPDATE blocks SET {column} = ? WHERE {column} = ?", bytes(content), before)  # noqa: S608 - our own column


@pytest.mark.parametrize("column", ["keys", "tasks", "shown"])
@pytest.mark.parametrize("at", [0, 100, -1])
def test_a_flipped_bit_in_a_block_is_noticed(outbox: Outbox, batch: str, column: str, at: int) -> None:
    """Nothing of a damaged block is sent or shown."""
    flip(outbox, column, at)
    with raises(OutboxError, "is damaged", hint="move the file away"):
        all_rows(outbox, batch, "tasks", wire=True)
    if column != "shown":
        with pytest.raises(OutboxError, match="is damaged"):
            take(outbox, batch)


READS: dict[str, Callable[[Outbox, str], object]] = {
    "counts": lambda outbox, batch: outbox.batches.counts(whole(batch)),
    "batches": lambda outbox, _: outbox.batches.find(),
    "again": lambda outbox, _: spool(outbox, chunks(range(250)), name="n"),
}


@pytest.mark.parametrize("name", READS)
def test_a_state_that_does_not_exist_is_noticed(outbox: Outbox, name: str) -> None:
    """A state that no version has written is damage too."""
    batch = spool(outbox, chunks(range(250)), name="n").batch
    change(outbox, "UPDATE tallies SET state = 77")
    change(outbox, "UPDATE rows SET state = 77")
    with raises(OutboxError, "77 is not the state of any row", hint="move the file away"):
        READS[name](outbox, batch)


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "replaced"])
def test_a_file_that_is_deleted_under_a_kernel_is_told(outbox: Outbox, batch: str, *, again: bool) -> None:
    """What is written to a deleted file would be lost without a word."""
    for file in outbox.path.parent.glob("outbox.sqlite3*"):
        file.unlink()
    if again:
        Outbox(outbox.path).close()
    for action in (outbox.batches.find, lambda: send_all(outbox, batch), lambda: spool(outbox, chunks(range(3)))):
        with raises(OutboxError, "was deleted or replaced while this kernel used it", hint="restart the kernel"):
            action()


def test_a_file_that_can_be_written_again_is_written(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was opened while the file could not be written is not used for ever."""
    connect = sqlite3.connect

    def read_only(path: Path, **options: Any) -> sqlite3.Connection:
        found: sqlite3.Connection = connect(f"file:{path}?mode=ro", uri=True, **options)
        return found

    with Outbox(outbox.path) as fresh:
        fresh._database._writers.pop().close()
        monkeypatch.setattr(sqlite3, "connect", read_only)
        with pytest.raises(OutboxError, match="cannot be written"):
            put_facts(fresh, batch, corrected=1)
        monkeypatch.setattr(sqlite3, "connect", connect)
        put_facts(fresh, batch, corrected=1)
        assert fresh.batches.facts(batch).corrected == 1

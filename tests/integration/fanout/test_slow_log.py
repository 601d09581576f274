"""A log of a million entries that reads slowly does not hold back the first row, and nothing runs twice."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.batch import adoption
from tests.integration.conftest import Emulator, StartEmulator, Target

ROWS = pd.DataFrame({"row": range(150)})
ENTRIES = 1_000_000
MINUTE = 60_000_000
COLUMNS = "target, target_type, due, code, dispatches, responses, duration, retry_at"


def fill(folder: Path) -> None:
    """Have the log of a folder a million entries that are a little older than its newest one."""
    with closing(sqlite3.connect(folder / "tasks.sqlite3")) as connection, connection:
        connection.execute(
            f"""WITH RECURSIVE numbers(n) AS (SELECT {MINUTE} UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
                INSERT INTO log SELECT seq - n, q, kind, at - n, received - n, 'old-' || n, {COLUMNS}
                FROM numbers, (SELECT * FROM log ORDER BY seq DESC LIMIT 1)""",  # noqa: S608 - our columns
            (MINUTE + ENTRIES,),
        )


def connect(emulator: Emulator, home: Path, monkeypatch: pytest.MonkeyPatch) -> ct.Client:
    """Connect from a home."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    return ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"])


@pytest.mark.nightly
def test_a_slow_log(
    start_emulator: StartEmulator, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a new batch are sent while the log is read; those of a batch that is known elsewhere are not."""
    monkeypatch.setattr(adoption, "_PATIENCE", 0.5)
    options = ("--data-dir", str(tmp_path / "data"), "--log-limit", str(2 * ENTRIES))
    first = start_emulator(*options)
    with connect(first, tmp_path / "old", monkeypatch) as tasks:
        queue = tasks.queue("slow", create=True, max_attempts=1, log_sampling_ratio=1.0)
        queue.fan_out(pd.DataFrame({"row": [-1]}), url=target.url).wait("60s")
    first.stop()
    fill(tmp_path / "data")
    emulator = start_emulator(*options)
    emulator.request("POST", "/admin/faults", {"method": "ListLogEntries", "delay_s": 3, "count": None})
    with connect(emulator, tmp_path / "old", monkeypatch) as tasks:
        assert tasks.queue("slow").fan_out(ROWS, url=target.url, name="slow").wait("600s").succeeded == len(ROWS)
    emulator.advance(86_400)
    with connect(emulator, tmp_path / "new", monkeypatch) as tasks:
        assert tasks.queue("slow").fan_out(ROWS, url=target.url, name="slow").wait("600s").succeeded == len(ROWS)
    assert len(target.received) == 1 + len(ROWS)

"""Backfills against the emulator and a function: what is called for which periods."""

from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from tests.cases import cases
from tests.integration.fanout.conftest import PATIENCE, Serve


@cases(
    ("2026-03-08", "2026-03-08 23:59", "h", "America/New_York", 23, "2026-03-08T00:00:00-05:00"),
    ("2026-11-01", "2026-11-01 23:59", "h", "America/New_York", 25, "2026-11-01T00:00:00-04:00"),
    ("2018-11-04", "2018-11-05", "D", "America/Sao_Paulo", 2, "2018-11-04T01:00:00-02:00"),
    ("2026-01-15", "2026-02-20", "W", "Europe/Zurich", 6, "2026-01-11T00:00:00+01:00"),
    ("2026-01-15", "2026-04-20", "MS", "Europe/Zurich", 4, "2026-01-01T00:00:00+01:00"),
)
def test_periods_arrive_whole_and_without_holes(
    queue: ct.Queue, serve: Serve, start: str, end: str, freq: str, tz: str, count: int, first: str
) -> None:
    """The function gets each period once, as times with their offsets; each ends where the next one starts."""
    bodies: list[dict[str, Any]] = []
    handler = serve(lambda **body: bodies.append(body), name="periods")
    batch = queue.backfill(start, end, freq=freq, tz=tz, url=handler)
    assert batch.wait(PATIENCE).succeeded == count
    bodies.sort(key=lambda body: pd.Timestamp(body["start"]))
    assert len(bodies) == count
    assert bodies[0]["start"] == first
    assert [body["end"] for body in bodies[:-1]] == [body["start"] for body in bodies[1:]]
    assert str(batch.tasks()["start"].dtype) == f"datetime64[us, {tz}]"

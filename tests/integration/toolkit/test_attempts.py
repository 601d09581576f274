"""The newest attempts of a queue: how many there are is said, and what a time must look like."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.integration.conftest import Emulator, Target


@pytest.fixture
def tried(emulator: Emulator, queue: ct.Queue, target: Target) -> ct.Queue:
    """A queue in whose log are six attempts."""
    for number in range(6):
        queue.enqueue(target.url, task_id=f"t{number}")
    emulator.until(lambda: len(queue.attempts()) == 6)
    return queue


@pytest.mark.parametrize(
    ("limit", "count", "said"),
    [
        (2, 2, "the newest 2 attempts; there are more: queue.attempts(limit=None)\n"),
        (5, 5, "the newest 5 attempts; there are more: queue.attempts(limit=None)\n"),
        (6, 6, ""),
        (1000, 6, ""),
        (None, 6, ""),
    ],
)
def test_what_was_cut_is_said(
    tried: ct.Queue, capsys: pytest.CaptureFixture[str], limit: int | None, count: int, said: str
) -> None:
    """As of tasks: in words and in `attrs`, and only if there are more."""
    capsys.readouterr()
    found = tried.attempts(limit=limit)
    assert (len(found), found.attrs["truncated"]) == (count, bool(said))
    assert capsys.readouterr().out == said
    assert pd.Timestamp.now("UTC") - found.attrs["fetched_at"] < pd.Timedelta("1min")
    assert found.time.tolist() == tried.attempts(limit=None).time.tolist()[:count]


def test_a_queue_that_is_shown_says_nothing_more(tried: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last five attempts are part of how it is shown, and nobody asked for all."""
    capsys.readouterr()
    assert "t5" in tried._repr_mimebundle_()["text/html"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("since", "offered"),
    [
        ("2026-01-01", "2026-01-01 00:00:00+00:00"),
        ("2026-01-01 06:30", "2026-01-01 06:30:00+00:00"),
        (pd.Timestamp("2026-01-01"), "2026-01-01 00:00:00+00:00"),
        (dt.datetime(2026, 1, 1, 6), "2026-01-01 06:00:00+00:00"),  # noqa: DTZ001 - that is what is refused
    ],
)
def test_a_time_without_a_zone(queue: ct.Queue, since: Any, offered: str) -> None:
    """The hint names what this verb takes, and what it offers is taken."""
    with pytest.raises(errors.NaiveTimeError, match=r"^since=.* has no time zone") as caught:
        queue.attempts(since=since)
    assert caught.value.hint == f'add an offset: since="{offered}"; or say how far back from now: since="2h"'
    assert len(queue.attempts(since=offered)) == len(queue.attempts(since="2h")) == 0

"""The connection that was made last."""

from __future__ import annotations

import gc

import pytest

from cloudtasks_nb import _newest


class Thing:
    """Whatever is remembered."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without connections, and leave those of others alone."""
    monkeypatch.setattr(_newest, "_open", [])
    monkeypatch.setattr(_newest, "_held", [])


def test_nobody() -> None:
    """Without a connection there is none."""
    assert _newest.newest() is None


def test_the_last_one_counts() -> None:
    """The newest is found, also by those to whom nobody gave it."""
    older, newer = Thing(), Thing()
    _newest.note(older)
    _newest.note(newer)
    assert _newest.newest() is newer
    del newer
    gc.collect()
    assert isinstance(_newest.newest(), Thing)
    assert _newest.newest() is not older


def test_the_one_before_it_follows() -> None:
    """When the newest is closed the one before it is the newest again, if somebody still has it."""
    first, second, third = Thing(), Thing(), Thing()
    for one in (first, second, third):
        _newest.note(one)
    _newest.forget(second)
    assert _newest.newest() is third
    _newest.forget(third)
    assert _newest.newest() is first
    _newest.forget(first)
    assert _newest.newest() is None


def test_older_ones_may_go() -> None:
    """A connection that was replaced in its variable is not kept."""
    _newest.note(Thing())
    last = Thing()
    _newest.note(last)
    gc.collect()
    _newest.forget(last)
    assert _newest.newest() is None

"""The connection that was made last."""

from __future__ import annotations

import gc

import pytest

from cloudtasks_nb.service import newest as newest_module


class Thing:
    """Whatever is remembered."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without connections, and leave those of others alone."""
    monkeypatch.setattr(newest_module, "_open", [])
    monkeypatch.setattr(newest_module, "_held", [])


def test_nobody() -> None:
    """Without a connection there is none."""
    assert newest_module.newest() is None


def test_the_last_one_counts() -> None:
    """The newest is found, also by those to whom nobody gave it."""
    older, newer = Thing(), Thing()
    newest_module.note(older)
    newest_module.note(newer)
    assert newest_module.newest() is newer
    del newer
    gc.collect()
    assert isinstance(newest_module.newest(), Thing)
    assert newest_module.newest() is not older


def test_the_one_before_it_follows() -> None:
    """When the newest is closed the one before it is the newest again, if somebody still has it."""
    first, second, third = Thing(), Thing(), Thing()
    for one in (first, second, third):
        newest_module.note(one)
    newest_module.forget(second)
    assert newest_module.newest() is third
    newest_module.forget(third)
    assert newest_module.newest() is first
    newest_module.forget(first)
    assert newest_module.newest() is None


def test_older_ones_may_go() -> None:
    """A connection that was replaced in its variable is not kept."""
    newest_module.note(Thing())
    last = Thing()
    newest_module.note(last)
    gc.collect()
    newest_module.forget(last)
    assert newest_module.newest() is None

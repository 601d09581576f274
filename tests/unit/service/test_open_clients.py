"""The connection that was made last."""

import gc

import pytest

from cloudtasks_nb.service import open_clients


class Thing:
    """Whatever is remembered."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without connections, and leave those of others alone."""
    monkeypatch.setattr(open_clients, "_open", [])
    monkeypatch.setattr(open_clients, "_held", [])


def test_the_last_one_counts() -> None:
    """The newest is found, also by those to whom nobody gave it; one that was replaced in its variable is not kept."""
    older, newer = Thing(), Thing()
    for one in (older, newer):
        open_clients.add(one)
    assert open_clients.newest() is newer
    del newer, one
    gc.collect()
    last = open_clients.newest()
    assert (isinstance(last, Thing), last is older) == (True, False)
    del older
    gc.collect()
    open_clients.remove(last)
    assert open_clients.newest() is None


def test_the_one_before_it_follows() -> None:
    """When the newest is closed the one before it is the newest again, if somebody still has it."""
    assert open_clients.newest() is None
    first, second, third = Thing(), Thing(), Thing()
    for one in (first, second, third):
        open_clients.add(one)
    for removed, newest in ((second, third), (third, first), (first, None)):
        open_clients.remove(removed)
        assert open_clients.newest() is newest

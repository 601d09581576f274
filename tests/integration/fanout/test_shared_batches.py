"""Batches in a store that two homes share."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchExistsError, BatchNotFoundError, PreconditionError, StoreError
from cloudtasks_nb.fanout.batch import sharing
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.store.batches import write_batch
from cloudtasks_nb.store.ownership import Owner, Purpose
from cloudtasks_nb.store.store import Store
from tests.integration.conftest import Target, until
from tests.integration.fanout.conftest import Connect, Serve, outcomes, reached
from tests.raising import raises

ROWS = pd.DataFrame({"day": range(20)}, index=range(100, 120))


def cell(
    tasks: ct.Client, name: str, target: Target | ct.Handler, rows: pd.DataFrame = ROWS, /, **words: Any
) -> ct.Batch:
    """Run the cell."""
    queue = tasks.queue(name, create=True, max_attempts=1)
    options: Any = {"name": "march", "body": ["day"], "progress": False} | words
    batch: ct.Batch = queue.fan_out(rows, url=target.url, **options)
    return batch


def blocked(release: threading.Event) -> Iterator[Any]:
    """Yield nothing, after an event."""
    release.wait()
    yield from ()


def fail(*_: object, **__: object) -> Any:
    """Do as a store that does not answer."""
    raise StoreError("the bucket does not answer")


def listed(tasks: ct.Client, batch: str) -> dict[str, Any]:
    """Return the row of `tasks.batches()` about a batch; None where it has nothing."""
    found = tasks.batches().loc[[batch]]
    return {str(name): value for name, value in found.astype(object).where(found.notna(), None).iloc[0].items()}


def test_a_colleague_takes_over(connect: Connect, serve: Serve, tmp_path: Path) -> None:
    """The batch is listed with its maker, opened with the states of the log, and its failures are retried there."""
    broken = set(range(5))

    def double(day: int) -> int:
        if day in broken:
            raise LookupError(day)
        return 2 * day

    handler = serve(double, store=tmp_path / "store")
    mine = cell(connect("ada"), "reports", handler)
    assert mine.wait("240s").failed == 5
    tasks = connect("bob")
    row = listed(tasks, mine.id)
    assert row["who"].startswith("ada@")
    assert [row[name] for name in ("name", "where", "total", "failed")] == ["march", str(tmp_path / "store"), 20, None]
    theirs = tasks.batch(mine.id)
    assert outcomes(theirs) == (15, 5, 0)
    assert "rows were sent from elsewhere" in repr(theirs)
    pd.testing.assert_frame_equal(theirs.results(), mine.results())
    assert listed(tasks, mine.id)["where"] is None
    broken.clear()
    with raises(PreconditionError, match="5 rows of batch .* were not rendered", hint="run the cell that made"):
        theirs.retry_failed()
    assert cell(tasks, "reports", handler).retry_failed().wait("240s").succeeded == 20
    assert theirs.results()["result"].tolist() == [2 * day for day in range(20)]


def test_a_batch_has_one_owner(connect: Connect, target: Target) -> None:
    """Only its owner sends it; the same cell elsewhere follows, and names the owner, until it takes over."""
    rows = pd.DataFrame({"day": range(400)})
    mine = cell(connect("ada"), "reports", target, rows, send_rate=20)
    reached(mine, lambda progress: progress.unsent < len(rows))
    tasks = connect("bob")
    theirs = cell(tasks, "reports", target, rows)
    until(lambda: any("ada@" in line for line in theirs._tracker.blockers()))
    assert (mine.owner or "").startswith("ada@")
    assert theirs.owner == mine.owner
    assert theirs.progress().unsent
    resend = partial(theirs.whole.resend, theirs.tasks())
    verbs: list[Callable[[], object]] = [theirs.resume, theirs.retry_failed, resend, theirs.whole.delete]
    for verb in verbs:
        with raises(PreconditionError, match="ada@.* sends this batch, seen", hint="batch.take_over()"):
            verb()
    assert listed(tasks, mine.id)["owner"] == mine.owner
    assert f"{mine.status()!r}".startswith("running (owner: this home)")
    assert re.search(r"owner: ada@.*, seen \d\d:\d\d:\d\d UTC", f"{theirs.status()!r}")
    assert "owner: ada@" in repr(theirs)
    said = theirs.take_over().status().reason or ""
    assert re.search("over from ada@|waits until .* for ada@", said), said
    theirs.wait("240s")
    assert listed(tasks, mine.id)["owner"] == theirs.owner
    assert (theirs.owner or "").startswith("bob@")
    assert mine.wait("240s").succeeded == len(rows)
    assert theirs.progress().succeeded == len(rows)
    sent = [json.loads(request.body)["day"] for request in target.received]
    assert sorted(sent) == list(range(len(rows)))


@pytest.mark.parametrize("ended", [True, False])
def test_a_home_owns_a_batch_that_is_held(connect: Connect, serve: Serve, tmp_path: Path, *, ended: bool) -> None:
    """Nobody else sends it but another kernel of that home; when its process has ended, another home does at once."""
    handler = serve(lambda day: {0: 1}[day], store=tmp_path / "store")
    ada = connect("ada")
    mine = cell(ada, "reports", handler, canary=2)
    reached(mine, lambda progress: progress.state == "held")
    until(lambda: not ada._catalog.outbox.requests.has_sender(mine.id))
    theirs = cell(connect("bob"), "reports", handler, canary=2)
    with raises(PreconditionError, match="ada@.* sends this batch, seen", hint="batch.take_over()"):
        theirs.resume()
    owner = mine._tracker.owner
    assert owner is not None
    assert owner.owns
    if ended:
        ada.close()
    heir = theirs if ended else connect("ada").batch("march")
    assert heir.resume().wait("240s").failed == len(ROWS) - 1
    until(lambda: not owner.owns)
    assert (heir.owner or "").startswith("bob@" if ended else "ada@")


@pytest.mark.parametrize("raced", [False, True])
def test_one_name_for_other_templates(
    connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch, *, raced: bool
) -> None:
    """The home that comes second stores nothing; in a race it sends nothing, and leaves the record of the first."""
    mine = cell(connect("ada"), "reports", target)
    assert mine.wait("240s").succeeded == 20
    bob = connect("bob")
    if raced:
        for check in ("check", "join"):
            monkeypatch.setattr(Sharing, check, lambda *given: given[-1])
    with pytest.raises(BatchExistsError, match="batch march was made of other templates in another home"):
        bob.queue("reports").fan_out(ROWS, url=f"{target.url}/other", name="march", progress=False).wait("240s")
    assert (len(bob._catalog.outbox.batches.find()), len(target.received)) == (raced, 20)
    assert connect("cleo").batch("march").wait("240s").succeeded == 20


def test_the_default_store_is_not_shared(tasks: ct.Client, once: ct.Queue, target: Target) -> None:
    """The batches of a home are in its outbox; its own store has their keys and results only."""
    batch = once.fan_out(ROWS, url=target.url, progress=False)
    batch.wait("240s")
    assert list(tasks._connection.store.pages("batches/")) == [[f"batches/{batch.id}/claim"]]


def test_a_store_that_does_not_answer(
    connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of this home are sent and listed all the same, and a note says what is missing."""
    tasks = connect("ada")
    release = threading.Event()
    monkeypatch.setattr(Store, "get", fail)
    batch = cell(tasks, "reports", target)
    assert f"others cannot see batch {batch.id} yet: the bucket does not answer" in capsys.readouterr().out
    assert batch.wait("240s").succeeded == 20
    for listing in ("pages", "children"):
        monkeypatch.setattr(Store, listing, fail)
    assert list(tasks.batches().index) == [batch.id]
    assert "may be missing: the bucket does not answer" in capsys.readouterr().out
    monkeypatch.setattr(Store, "pages", lambda *_: blocked(release))
    monkeypatch.setattr(Store, "children", lambda *_: release.wait())
    monkeypatch.setattr(sharing, "_PATIENCE", 0.01)
    assert list(tasks.batches().index) == [batch.id]
    assert "did not answer" in capsys.readouterr().out
    assert tasks.batch(batch.id) == batch
    assert f"added to batch {batch.id} may be missing" in capsys.readouterr().out
    release.set()
    monkeypatch.undo()


def test_a_store_that_falls_silent(connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sending says since when it waits, and goes on by itself."""
    mine = cell(connect("ada"), "reports", target, send_rate=5)
    reached(mine, lambda progress: progress.unsent < len(ROWS))
    owner = mine._tracker.owner
    assert owner is not None
    monkeypatch.setattr(Store, "dated", fail)
    owner._ownership.stop()
    reached(mine, lambda progress: "has not answered since" in (progress.reason or ""))
    assert re.search(r"sending waits: .*/store has not answered since \d\d:\d\d \(the", f"{mine.status()!r}")
    monkeypatch.undo()
    assert mine.wait("240s").succeeded == len(ROWS)


def test_deleting_here_and_everywhere(connect: Connect, target: Target) -> None:
    """Old batches of others are deleted in this home only; `delete()` of one batch asks, and deletes it for all."""
    mine = cell(connect("ada"), "reports", target)
    mine.wait("240s")
    bob = connect("bob")
    theirs = bob.batch(mine.id)
    theirs.wait("240s")
    assert list(bob.delete_batches(older_than=0).index) == [mine.id]
    assert bob.batches().loc[mine.id, "where"] is not pd.NA
    bob.batch(mine.id).wait("240s")
    with pytest.raises(PreconditionError, match=r"(?s)20 rows of it are of other homes.*delete\(others=True\)"):
        bob.batch(mine.id).delete()
    assert mine.id in bob.batches().index
    bob.batch(mine.id).delete(others=True)
    assert mine.id not in bob.batches().index
    with pytest.raises(BatchNotFoundError):
        bob.batch(mine.id)
    assert mine.wait("240s").succeeded == 20


def test_a_deleted_batch_leaves_one_object(connect: Connect, target: Target, tmp_path: Path) -> None:
    """It says so to other homes; the same cell takes the number after it."""
    tasks, folder = connect("ada"), tmp_path / "store" / "batches"
    batch = cell(tasks, "reports", target)
    batch.wait("240s")
    until(lambda: not tasks._catalog.outbox.requests.has_sender(batch.id))
    (first,) = (folder / batch.id / "owners").iterdir()
    os.utime(first, (0, 0))
    batch.delete()
    (left,) = (path for path in folder.rglob("*") if path.is_file())
    found = Owner.unpack(left.read_bytes())
    assert (left.name, found.purpose, found.ended) == ("000002", Purpose.DELETED, True)
    assert cell(tasks, "reports", target).wait("240s").total == len(ROWS)
    tasks.delete_batches(older_than=0)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    tasks.delete_batches(older_than=0)
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_store_that_does_not_list_results(
    connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the log has is adopted all the same."""
    mine = cell(connect("ada"), "reports", target)
    mine.wait("240s")
    bob = connect("bob")
    found = Store.found
    monkeypatch.setattr(Store, "found", lambda self, prefix: (fail if "results/" in prefix else found)(self, prefix))
    assert bob.batch("march").wait("240s").succeeded == 20
    until(lambda: "may be missed: the bucket does not answer" in caplog.text)  # the results are asked after the log


@pytest.mark.parametrize("name", ["march", None])
def test_rows_that_the_owner_does_not_have(connect: Connect, target: Target, name: str | None) -> None:
    """They are refused while it lives, and nothing of them stays; after a takeover they are sent."""
    rows, more = pd.DataFrame({"day": range(200)}), pd.DataFrame({"day": range(205)})
    mine = cell(connect("ada"), "reports", target, rows, name=name, send_rate=20)
    reached(mine, lambda progress: progress.unsent < len(rows))
    bob = connect("bob")
    theirs = cell(bob, "reports", target, rows, name=name)
    assert theirs.id == mine.id
    hint = f'tasks.batch("{mine.id}") and batch.take_over()'
    with raises(PreconditionError, match=r"ada@.* sends this batch, without 5 of these rows", hint=hint):
        cell(bob, "reports", target, more, name=name)
    assert len(bob.batch(mine.id).tasks()) == 200
    theirs.take_over()
    assert cell(bob, "reports", target, more, name=name).wait("240s").succeeded == 205
    assert sorted(json.loads(request.body)["day"] for request in target.received) == list(range(205))


@pytest.mark.parametrize("stored", [0, 200])
def test_a_cell_waits_for_rows_that_are_being_stored(
    connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: int
) -> None:
    """The record says when all rows of the owner are there; if they do not come, they are said to be missing."""
    rows, looks = pd.DataFrame({"day": range(200)}), iter([False, *[stored == 200] * 99])
    monkeypatch.setattr(sharing, "_LOOK", 0.01)
    monkeypatch.setattr(sharing, "_STORING", 0.1)
    monkeypatch.setattr(sharing, "_is_complete", lambda _: next(looks))
    with monkeypatch.context() as patched:
        if not stored:
            patched.setattr(sharing, "write_batch", lambda *_: [])
        mine = cell(connect("ada"), "reports", target, rows, send_rate=10)
    reached(mine, lambda progress: progress.unsent < 200)
    bob = connect("bob")
    if stored:
        assert cell(bob, "reports", target, rows).id == mine.id
    else:
        with pytest.raises(PreconditionError, match="without 200 of these rows"):
            cell(bob, "reports", target, rows)
    assert f"waiting for the rows of batch {mine.id}, which ada@" in capsys.readouterr().out
    mine.cancel()


def test_the_record_says_when_all_rows_are_there(
    connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while rows are added to the ones that are there."""
    ada, written = connect("ada"), list[bool]()
    cell(ada, "reports", target).wait("240s")

    def write(store: Store, batch: str, record: bytes, blocks: Any) -> list[str]:
        written.append(json.loads(record)["complete"])
        return write_batch(store, batch, record, blocks)

    monkeypatch.setattr(sharing, "write_batch", write)
    cell(ada, "reports", target, pd.DataFrame({"day": range(21)})).wait("240s")
    assert written == [False, True]


def test_a_batch_that_is_sent_at_once_costs_four_calls(
    connect: Connect, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the store, besides those that store its rows: the key, a number that is read back, and the end."""
    asked: list[tuple[str, str]] = []

    def ask(name: str, function: Callable[..., Any], store: Store, path: str, *words: Any) -> Any:
        if not path.startswith("results/"):  # the view reads them, whenever it comes to it
            asked.append((name, "/".join(path.split("/")[2:])))
        return function(store, path, *words)

    tasks = connect("ada")
    tasks.queue("reports", create=True, max_attempts=1)
    for name in ("append", "children", "claim", "create", "dated", "exclusive", "found", "get", "pages", "put"):
        monkeypatch.setattr(Store, name, partialmethod(partial(ask, name, getattr(Store, name))))
    batch = cell(tasks, "reports", target)
    until(lambda: not tasks._catalog.outbox.requests.has_sender(batch.id))
    first, number = asked.index(("claim", "claim")), "owners/000001"
    later = [one for one in asked[first:] if not re.match(r"rec|rows", one[1])]
    assert later == [("claim", "claim"), ("exclusive", number), ("dated", number), ("put", number)]


def test_a_cancel_is_of_rows_that_came_before_it(connect: Connect, target: Target) -> None:
    """A home that has not read the rows that others have added before they cancelled shows them as cancelled."""
    more = pd.DataFrame({"day": range(25)}, index=range(100, 125))
    cell(connect("ada"), "reports", target, send_rate=1)
    bob = connect("bob")
    theirs = bob.batch("march")
    until(lambda: not theirs._tracker.reading.supervisor.running("reading what others did with"))
    ended = cell(connect("ada"), "reports", target, more, send_rate=1).cancel().wait("240s")
    until(lambda: theirs.progress().finished)
    found = bob.batch("march").wait("240s")
    assert (found.total, found.cancelled) == (25, ended.cancelled)


def test_a_home_waits_for_what_another_one_sends(connect: Connect, target: Target) -> None:
    """A home that has only opened the batch waits for its end, without the cell, for as long as the owner lives."""
    cell(connect("ada"), "reports", target, send_rate=3)
    theirs = connect("bob").batch("march")
    until(lambda: theirs.status().state == "running")
    assert re.fullmatch("ada@.* sends this batch", theirs.status().reason or "")
    assert theirs.wait("240s").succeeded == len(ROWS)


def test_a_cancel_is_not_of_rows_that_came_after_it(connect: Connect, target: Target) -> None:
    """A home that hears of a cancel and of rows that were added since goes on with these."""
    more = pd.DataFrame({"day": range(25)}, index=range(100, 125))
    ada = connect("ada")
    ended = cell(ada, "reports", target, send_rate=1).cancel().wait("240s")
    cell(ada, "reports", target, more, send_rate=1)
    ada.close()
    bob = connect("bob")
    assert set(bob.batch("march").tasks()["state"][20:]) <= {"unsent", "succeeded"}
    found = cell(bob, "reports", target, more).wait("240s")
    assert (found.cancelled, found.succeeded) == (ended.cancelled, 25 - ended.cancelled)

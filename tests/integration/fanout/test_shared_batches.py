"""Batches in a store that two homes share."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchExistsError, BatchNotFoundError, PreconditionError, StoreError
from cloudtasks_nb.fanout.batch import sharing
from cloudtasks_nb.fanout.batch.ownership import Owner, Purpose
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.store.store import Store
from tests.integration.conftest import Target, until
from tests.integration.fanout.conftest import Connect, Serve, outcomes, reached
from tests.raising import raises

ROWS = pd.DataFrame({"day": range(20)}, index=range(100, 120))


def cell(tasks: ct.Client, name: str, target: Target | ct.Handler, rows: pd.DataFrame = ROWS, **words: Any) -> ct.Batch:
    """Run the cell."""
    queue = tasks.queue(name, create=True, max_attempts=1)
    batch: ct.Batch = queue.fan_out(rows, url=target.url, body=["day"], name="march", progress=False, **words)
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
    assert theirs.retry_failed(trust=True).wait("240s").succeeded == 20
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
    theirs.take_over().wait("240s")
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
        monkeypatch.setattr(Sharing, "check", lambda *_: None)
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
    monkeypatch.setattr(Store, "pages", fail)
    assert list(tasks.batches().index) == [batch.id]
    assert "may be missing: the bucket does not answer" in capsys.readouterr().out
    monkeypatch.setattr(Store, "pages", lambda *_: blocked(release))
    monkeypatch.setattr(sharing, "_PATIENCE", 0.01)
    assert list(tasks.batches().index) == [batch.id]
    assert "did not answer" in capsys.readouterr().out
    assert tasks.batch(batch.id) == batch
    assert f"added to batch {batch.id} may be missing" in capsys.readouterr().out
    release.set()
    monkeypatch.undo()


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


def test_a_batch_that_another_home_has_deleted_is_shared_again(connect: Connect, serve: Serve, tmp_path: Path) -> None:
    """Who sends some of it claims it anew, and writes all of it, so that other homes have its rows and results."""
    broken = set(range(5))

    def double(day: int) -> int:
        return {day: 2 * day}[-1 if day in broken else day]

    ada, bob, handler = connect("ada"), connect("bob"), serve(double, store=tmp_path / "store")
    mine = cell(ada, "reports", handler)
    assert mine.wait("240s").failed == 5
    theirs = cell(bob, "reports", handler)
    theirs.wait("240s")
    mine.delete(others=True)
    broken.clear()
    theirs.retry_failed().wait("240s")
    assert cell(ada, "reports", handler).wait("240s").succeeded == 20
    assert ada.batch("march").results()["result"].dropna().tolist() == [0, 2, 4, 6, 8]
    ada.batch("march").delete(others=True)
    cell(bob, "reports", handler, pd.DataFrame({"day": [20]})).wait("240s")
    assert len(connect("eve").batch("march").tasks()) == 21


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


def test_rows_without_a_name_extend_the_batch_of_another_home(
    connect: Connect, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three rows in one home, all in the second, three others in a third: one batch, and each row is computed once."""
    calls: list[int] = []

    def work(day: int) -> None:
        calls.append(day)

    handler, found = serve(work, store=tmp_path / "store"), []
    for home, rows in (("ada", ROWS.head(3)), ("bob", ROWS), ("eve", ROWS.tail(3)), ("ian", ROWS.head(3))):
        queue = connect(home).queue("reports", create=True, max_attempts=1)
        batch = queue.fan_out(rows, url=handler, progress=False)
        assert batch.wait("240s").succeeded == len(rows)
        assert batch.tasks().index.equals(rows.index)
        found.append(batch.id)
    assert len(set(found)) == 1
    assert sorted(calls) == list(range(20))
    said = capsys.readouterr().out
    assert f"batch {found[0]} has 3 of these rows already; 17 new ones will be sent" in said
    assert "another disk" not in said

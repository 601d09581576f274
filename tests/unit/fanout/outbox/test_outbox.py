"""What the outbox keeps of batches and rows, and how they are found."""

from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import pytest

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox.outbox import Outbox, choose
from cloudtasks_nb.fanout.outbox.records import BatchFacts, Cancel, Published, Reached, StoredGate, whole
from tests.cases import cases
from tests.raising import raises
from tests.unit.fanout.conftest import PLACE, chunks, spool


def test_batches_can_be_those_of_a_place(outbox: Outbox) -> None:
    """A connection sees the batches of its endpoint, project and location."""
    with pytest.raises(BatchNotFoundError, match="no batch yet"):
        choose(outbox.batches.find(), None)
    spool(outbox, chunks(range(3)))
    assert len(outbox.batches.find(endpoint="e-1", project="p", location="l", queue="q")) == 1
    for field in ("endpoint", "project", "location", "queue"):
        assert outbox.batches.find(**{field: "other"}) == []


def test_of_several_batches_with_a_name_the_newest_is_meant(outbox: Outbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Each queue can have a batch of this name; the note says which one it is, and of when."""
    places = [replace(PLACE, queue=queue) for queue in ("a", "b")]
    ids = [spool(outbox, chunks(range(3)), place=place, name="nightly").batch for place in places]
    found = choose(outbox.batches.find(), "nightly")
    assert found.id == ids[-1]
    assert capsys.readouterr().out == (
        f'2 batches are named "nightly"; this is the newest, of {found.created:%Y-%m-%d} in queue b: {found.id}\n'
    )
    assert choose(outbox.batches.find(), ids[0]).id == ids[0]
    assert capsys.readouterr().out == ""


def test_a_beginning_that_two_batches_have_is_refused(outbox: Outbox) -> None:
    """A shortened id that may be two batches raises and names them."""
    ids = [spool(outbox, chunks(range(at, at + 3))).batch for at in (0, 10)]
    with pytest.raises(BatchNotFoundError, match="may be 2 batches") as caught:
        choose(outbox.batches.find(), "")
    assert all(one in caught.value.message for one in ids)


@cases("name", "prefix")
def test_a_deleted_batch_is_not_another_one(outbox: Outbox, batch: str, like: str) -> None:
    """A process that looks a batch up by its id never gets one that is named so, or whose id begins so."""
    other = spool(outbox, chunks(range(1_000, 1_003)), place=replace(PLACE, queue="b"), name=batch).batch
    wanted = batch if like == "name" else other[:6]
    outbox.batches.delete(batch)
    with raises(BatchNotFoundError, f'no batch "{wanted}"', hint="tasks.batches()"):
        outbox.batches.get(wanted)


@cases("batches.get", "batches.counts", "batches.delete", "batches.facts", "rows.states")
def test_a_batch_that_is_not_there_is_named(outbox: Outbox, verb: str) -> None:
    """Every verb on an unknown batch says which one, and how to see those there are."""
    with raises(BatchNotFoundError, 'no batch "ffffffff"', hint="tasks.batches()"):
        attrgetter(verb)(outbox)(whole("ffffffff") if verb in {"batches.counts", "rows.states"} else "ffffffff")


def test_a_batch_with_a_near_name_is_named(outbox: Outbox) -> None:
    """A misspelt name is answered with the right one."""
    spool(outbox, chunks(range(3)), name="march")
    with pytest.raises(BatchNotFoundError, match='no batch "mrach" in this outbox; did you mean "march"'):
        choose(outbox.batches.find(), "mrach")


EVERY_FACT = BatchFacts(
    options={"send_rate": 8, "canary": "1%", "pause_at": None},
    function=("f", None),
    periods=("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"),
    reached=Reached(target="h:1", folder="f", store="s", machine="m", ended=True),
    progress={"total": 3},
    notifications={"https://a": {"told": 1}},
    gate=StoredGate(canary="1%", last=7, round=2, failed=3, ended=4, paused=(3, 4)),
    held_for="ann",
    sender={"pid": 1},
    cancel=Cancel(at=1, by="ab", parts=((1, 2, "n"), (2, 3, None)), remote=True),
    cancels_known=("n",),
    cancelled_by="bob",
    cancelled_in=1,
    keys=("00", "01"),
    claimed_in="gs://b",
    published=Published(store="gs://b", parts=1, blocks=("a", "b")),
    foreign_rows=2,
    owner_tokens=("last", "next"),
    owned_before=("ada@a", 1.5),
    log_read=1.5,
    log_rows=7,
    log_error="",
    sent_by_others=True,
    existing=1,
    log_sampled=True,
    corrected=1,
    has_results=True,
    keeps_objects=True,
)


def test_facts_are_kept(outbox: Outbox, batch: str, path: Path) -> None:
    """Each fact of a batch survives a restart as it was, and can be that of a new batch again."""
    new = outbox.batches.facts(batch)
    assert [one.name for one in fields(BatchFacts) if getattr(EVERY_FACT, one.name) == getattr(new, one.name)] == []
    assert outbox.batches.change(batch, lambda _: EVERY_FACT) == (new, EVERY_FACT)
    with Outbox(path) as later:
        assert later.batches.facts(batch) == later.batches.get(batch).facts == EVERY_FACT
        later.batches.change(batch, lambda _: new)
    assert outbox.batches.facts(batch) == new

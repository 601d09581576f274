"""A batch as bytes that another outbox reads."""

import zlib
from dataclasses import replace

import orjson
import pytest

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.batch.sharing import pack_blocks, pack_record, shared_spec, unpack_block, unpack_record
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchFacts, Spooled
from tests.cases import cases
from tests.raising import raises
from tests.unit.fanout.conftest import all_rows, chunks, request_digest, spool

MADE = {"_made_by": "a@b", "key": ["n"]}
FIELDS = ("rows", "tasks", "tries", "states", "reasons", "indexes")


def copy(source: Outbox, target: Outbox, batch: str) -> Spooled:
    """Bring a batch from one outbox to another."""
    record = unpack_record(pack_record(source.batches.get(batch)))
    with target.spool(shared_spec(record)) as spooling:
        for _, data in pack_blocks(source.rows, source.batches.get(batch)):
            spooling.add(unpack_block(data, record))
        return spooling.commit()


@pytest.mark.parametrize("name", ["nightly", "a91f03c2", None])
def test_a_batch_is_the_same_in_another_outbox(outbox: Outbox, theirs: Outbox, name: str | None) -> None:
    """Id, name, tasks, columns, and the rows that never were a task, also when rows were added later."""
    batch = spool(outbox, chunks(range(4_500), rejected={7: "no"}), name=name, description=MADE).batch
    if name:
        assert spool(outbox, chunks(range(4_490, 4_600)), name=name).added == 100
    copy(outbox, theirs, batch)
    for field in FIELDS:
        assert all_rows(theirs, batch, field) == all_rows(outbox, batch, field)
    assert set(all_rows(theirs, batch, "wire", wire=True)) == {b""}
    ours, there = outbox.batches.get(batch), theirs.batches.get(batch)
    assert (there.name, there.made_by, there.created, there.counts) == (ours.name, "a@b", ours.created, ours.counts)
    assert spool(theirs, chunks(range(4_500), rejected={7: "no"}), name=name).batch == batch
    assert all_rows(theirs, batch, "wire", wire=True)[:4_500] == all_rows(outbox, batch, "wire", wire=True)[:4_500]


def test_rows_of_another_home_are_not_handed_on(outbox: Outbox, theirs: Outbox) -> None:
    """Only what was rendered here is: also blocks of which this home has rendered some rows."""
    batch = spool(outbox, chunks(range(250)), name="nightly", description=MADE).batch
    copy(outbox, theirs, batch)
    assert list(pack_blocks(theirs.rows, theirs.batches.get(batch))) == []
    spool(theirs, chunks(range(100, 250)), name="nightly")
    assert len(list(pack_blocks(theirs.rows, theirs.batches.get(batch)))) == 2


def test_the_record_says_who_made_the_batch_first(outbox: Outbox, theirs: Outbox) -> None:
    """Another home that runs the same cell keeps maker and time of the record that was there."""
    first = spool(outbox, chunks(range(3)), description={"_made_by": "ada@a"}).batch
    spool(theirs, chunks(range(3)), description={"_made_by": "bob@b"})
    earlier = unpack_record(pack_record(outbox.batches.get(first)))
    record = unpack_record(pack_record(theirs.batches.get(first), earlier))
    assert (record.made_by, record.created, record.total) == ("ada@a", outbox.batches.get(first).created, 3)


@cases(
    *(("id", value) for value in ("../../x", "00000000", '" OR "', 7)),
    *(("created", value) for value in ("today", 1e300)),
    *(("identity", "00"), ("name", "other"), ("rows", "many")),
)
def test_a_record_that_was_forged_is_an_error(outbox: Outbox, batch: str, name: str, value: object) -> None:
    """Its id becomes part of paths and filters, and one damaged record must not hide the list of batches."""
    record = orjson.loads(pack_record(outbox.batches.get(batch)))
    with pytest.raises(OutboxError, match="the stored record of a batch is damaged"):
        unpack_record(orjson.dumps(record | {name: value}))


def forge(data: bytes, **fields: object) -> bytes:
    """Return a block with other fields in its head."""
    at = 4 + int.from_bytes(data[:4], "big")
    packed = zlib.compress(orjson.dumps(orjson.loads(zlib.decompress(data[4:at])) | fields))
    return len(packed).to_bytes(4, "big") + packed + data[at:]


@pytest.mark.parametrize("row", [[0, "x", None], [0, 1 << 63, None], [0, None, None], [-1, 0, None], [500, 0, None], 7])
def test_a_block_that_was_forged_is_an_error(outbox: Outbox, batch: str, row: object) -> None:
    """Whatever JSON has in it."""
    _, data = next(pack_blocks(outbox.rows, outbox.batches.get(batch)))
    with pytest.raises(OutboxError, match="damaged"):
        unpack_block(forge(data, rows=[row]), outbox.batches.get(batch))


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00\x00\x00\x02{}", b"\xff" * 40])
def test_damaged_bytes_are_an_error(outbox: Outbox, batch: str, data: bytes) -> None:
    """Neither half a batch nor a traceback of a library."""
    with pytest.raises(OutboxError, match="damaged"):
        unpack_block(data, outbox.batches.get(batch))
    with pytest.raises(OutboxError, match="damaged"):
        unpack_record(data)


def test_lasting_options_go_along(outbox: Outbox) -> None:
    """Whoever goes on elsewhere keeps the brakes; what is no option is left behind, and no mapping is damaged."""
    made = spool(outbox, chunks(range(3)), facts=BatchFacts(options={"canary": "1%"}))
    record = orjson.loads(pack_record(outbox.batches.get(made.batch)))
    found = unpack_record(orjson.dumps({**record, "options": {"canary": "1%", "other": 1}})).facts.options
    assert found == {"send_rate": None, "canary": "1%", "pause_at": None}
    with pytest.raises(OutboxError, match="damaged"):
        unpack_record(orjson.dumps({**record, "options": ["canary"]}))


def test_rows_are_compared_by_their_digests(outbox: Outbox) -> None:
    """The digest of a row is stored beside a key that names columns; else it is the key."""
    record = outbox.batches.get(spool(outbox, chunks(range(3)), description=MADE).batch)
    _, data = next(pack_blocks(outbox.rows, record))
    assert unpack_block(data, record).digests == [request_digest(str(row))[:8] for row in range(3)]
    with pytest.raises(OutboxError, match="the digest of a row is missing"):
        unpack_block(forge(data, lengths=[3 * 16 + 4, 8, 0]), record)
    chunk = unpack_block(data, replace(record, description={"key": None}))
    assert chunk.digests == chunk.keys


def test_a_newer_format_is_named(outbox: Outbox, batch: str) -> None:
    """The error says what to do."""
    data = pack_record(outbox.batches.get(batch)).replace(b'"format":2', b'"format":3')
    with raises(OutboxError, "newer cloudtasks_nb", hint="pip install -U cloudtasks-nb"):
        unpack_record(data)


def test_a_block_that_grows_without_end(outbox: Outbox, batch: str) -> None:
    """A part of somebody else's home that would fill the memory is damaged: a megabyte can become a gigabyte."""
    bomb = zlib.compress(bytes(300_000_000), 1)
    with pytest.raises(OutboxError, match="more than 268,435,456 bytes"):
        unpack_block(len(bomb).to_bytes(4, "big") + bomb, outbox.batches.get(batch))

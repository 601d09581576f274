"""Stored results are read once, whoever reads and packs them at the same time."""

import datetime as dt
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import settings

from cloudtasks_nb.errors import BatchNotFoundError, StoreError
from cloudtasks_nb.fanout.batch import stored_results
from cloudtasks_nb.fanout.batch.stored_results import StoredResults, batch_keys, claim, own_key
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.store.results import ResultWriter, StoredResult, pack_result, tag_of
from cloudtasks_nb.store.store import Found, Range, Store
from tests.unit.fanout.conftest import chunks, spool, tables

KEY = b"key of the batch"
_numbers = itertools.count()


class Counting(Store):
    """A store that counts what is asked of it."""

    listings = 0
    refuses: type[Exception] | None = None  # what deleting raises

    def __init__(self, place: str | Path) -> None:
        super().__init__(place)
        self.read: list[Range] = []
        self.on_list: Callable[[], object] = lambda: None  # called after a listing

    def found(self, prefix: str) -> Iterator[list[Found]]:
        """List objects."""
        self.listings += 1
        pages = list(super().found(prefix))
        self.on_list()
        return iter(pages)

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        """Read parts of objects."""
        self.read += ranges
        return super().get_ranges(ranges)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects, if that is allowed."""
        if self.refuses:
            raise self.refuses("may not delete")
        super().delete(paths)


def result(batch: str, row: int = 0, attempt: int = 1, value: Any = None, **words: Any) -> StoredResult:
    """Return the result of an attempt on a task."""
    about: dict[str, Any] = {"status": 500 if words.get("error") else 200, "duration": 0.5, "error": None}
    about |= {"tag": tag_of(KEY, task(batch, row)), **words}
    started = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return StoredResult(task=task(batch, row), attempt=attempt, started=started, result=value, **about)


def task(batch: str, row: int = 0) -> str:
    """Return the id of a task of a batch; whether there is such a row is not asked."""
    return f"{row:020x}-{batch}-1"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all batches one key."""
    monkeypatch.setattr(stored_results, "batch_keys", lambda *_, **__: (KEY,))


@pytest.fixture(params=["bucket", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Counting:
    """Give a store that is like a bucket, and a folder."""
    return Counting(f"memory://stored-{next(_numbers)}" if request.param == "bucket" else tmp_path / "store")


@pytest.fixture
def bucket() -> Counting:
    """Give a store that is like a bucket."""
    return Counting(f"memory://stored-{next(_numbers)}")


@pytest.fixture
def folder(tmp_path: Path) -> Counting:
    """Give a store in a folder."""
    return Counting(tmp_path / "store")


def values(results: StoredResults, batch: str, rows: int = 3) -> list[Any]:
    """Return the values of the first rows that the home has."""
    found = results.read([task(batch, row) for row in range(rows)])
    return [None if one is None else one.error or one.result for one in found]


def lines(store: Store, batch: str, name: str, *texts: bytes | StoredResult) -> None:
    """Store an object with these lines."""
    raw = [text if isinstance(text, bytes) else pack_result(text) + b"\n" for text in texts]
    store.create(f"results/{batch}/{name}", b"".join(raw))


def test_what_was_read_is_not_read_again(store: Counting, outbox: Outbox, batch: str) -> None:
    """A second look lists once; what was added is read, and nothing else. Results need not be of a known row."""
    results, writer = StoredResults(outbox, store, batch), ResultWriter(store)
    for row in range(2):
        writer.put(result(batch, row, value=row))
    writer.put(result(batch, 2, error="no"))
    results.sync()
    assert values(results, batch) == [0, 1, "no"]
    store.listings, store.read = 0, []
    results.sync()
    assert (store.listings, store.read) == (1, [])
    writer.put(result(batch, 3, value=3))
    results.sync()
    [one] = store.read
    assert one.start > 0 if store.appends else one.start == 0
    assert values(results, batch, 4) == [0, 1, "no", 3]


GIVEN_UP: dict[str, Any] = {"error": "GiveUp: x", "gave_up": "x", "status": 200}
RANKS: list[tuple[str, list[dict[str, Any]], Any]] = [
    ("successes: the one of the latest attempt", [{"attempt": 1, "value": "a"}, {"attempt": 2, "value": "b"}], "b"),
    ("a success, whatever follows", [{"attempt": 1, "value": "a"}, {"attempt": 2, "error": "no"}], "a"),
    ("failures: the one of the latest attempt", [{"attempt": 9, "error": "9"}, {"attempt": 10, "error": "10"}], "10"),
    ("an attempt without a number is before the first", [{"attempt": None, "error": "?"}, {"error": "1"}], "1"),
    ("who gave up", [GIVEN_UP, {"attempt": 7, "error": "no"}], "GiveUp: x"),
    ("who gave up last", [GIVEN_UP, {**GIVEN_UP, "attempt": 2, "error": "GiveUp: y"}], "GiveUp: y"),
    ("a success after a giving up", [GIVEN_UP, {"attempt": 2, "value": "a"}], "a"),
    ("a success, and somebody gave up later", [{"value": "a"}, {**GIVEN_UP, "attempt": 2}], "a"),
    ("of one attempt always the same", [{"value": "a"}, {"value": "b"}], "b"),
]


@pytest.mark.parametrize(("what", "stored", "counts"), RANKS, ids=[what for what, *_ in RANKS])
def test_which_of_several_results_counts(
    bucket: Counting, outbox: Outbox, batch: str, what: str, stored: list[dict[str, Any]], counts: Any
) -> None:
    """It is the same whenever each of them comes, in one object or in several."""
    for order in itertools.permutations(stored):
        for together in (False, True):
            other = Counting(f"memory://stored-{next(_numbers)}")
            fresh = spool(outbox, chunks(range(3)), name=f"{what} {next(_numbers)}").batch
            results = StoredResults(outbox, other, fresh)
            for number, words in enumerate(order):
                lines(other, fresh, f"{number}.jsonl", result(fresh, **words))
                if not together:
                    results.sync()
            results.sync()
            assert values(results, fresh, 1) == [counts]


def test_lines_that_are_no_results_cost_only_themselves(store: Counting, outbox: Outbox, batch: str) -> None:
    """Damaged ones, those of other batches, and values of any kind; how many there are is remembered."""
    deep = pack_result(result("00000000", value="?")).replace(b'"?"', b"[" * 1_020 + b"]" * 1_020) + b"\n"
    bad: list[Any] = [b"{", b"7\n", b"null\n", b"\xff\n", b"[1]\n", b'{"task": null}\n', deep, result("00000000")]
    lines(store, batch, "0.jsonl", result(batch, 0, value=0), b"\n", *bad[1:], result(batch, 1, value=1))
    lines(store, batch, "1.jsonl", bad[0], b"\n", result(batch, 2, value=2))
    results = StoredResults(outbox, store, batch)
    assert results.problem() is None
    assert results.sync() is None
    assert results.sync() is None
    assert values(results, batch) == [0, 1, 2]
    assert results.problem() == (
        f"{len(bad)} lines in objects there are no results of this batch: damaged, or not written by its handler"
    )


def test_results_need_the_tag_of_their_task(
    store: Counting, outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under any key of the batch; when another home makes it anew, what did not count by the old key is read again."""
    monkeypatch.undo()
    assert StoredResults(outbox, store, batch).sync() is None  # nobody has sent it
    claim(outbox, store, batch)
    first, second = own_key(outbox, batch), bytes(16)
    tags = [tag_of(first, task(batch, 0)), tag_of(second, task(batch, 1)), tag_of(first, task(batch, 0)), None]
    lines(store, batch, "0.jsonl", *(result(batch, row, value=row, tag=tag) for row, tag in enumerate(tags)))
    results = StoredResults(outbox, store, batch)
    results.sync()
    assert values(results, batch, 4) == [0, None, None, None]
    store.put(f"batches/{batch}/claim", orjson.dumps({"recipe": b"recipe".hex(), "key": second.hex()}))
    lines(store, batch, "1.jsonl", result(batch, 4, value=4, tag=tag_of(second, task(batch, 4))))
    results.sync()
    assert values(results, batch, 5) == [0, 1, None, None, 4]
    assert outbox.results.bad(batch) == 2


def test_threads_that_learn_a_key_at_once(
    bucket: Counting, outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reads the new claim while another one stores lines that do not count by the old key: they are read again."""
    monkeypatch.undo()
    claim(outbox, bucket, batch)
    new, add = bytes(16), outbox.results.add
    bucket.put(f"batches/{batch}/claim", orjson.dumps({"recipe": b"recipe".hex(), "key": new.hex()}))
    lines(bucket, batch, "0.jsonl", result(batch, value=7, tag=tag_of(new, task(batch))))
    results = StoredResults(outbox, bucket, batch)

    def add_late(*words: Any) -> None:
        monkeypatch.undo()
        batch_keys(outbox, bucket, batch, again=True)
        add(*words)

    monkeypatch.setattr(outbox.results, "add", add_late)
    results.sync()
    assert values(results, batch, 1) == [7]


def test_a_torn_line_is_read_when_it_is_whole(folder: Counting, outbox: Outbox, batch: str) -> None:
    """A handler writes it meanwhile, or was killed; lines before it count at once."""
    whole = pack_result(result(batch, 1, value=1)) + b"\n"
    lines(folder, batch, "0.jsonl", result(batch, 0, value=0), whole[:-9])
    results = StoredResults(outbox, folder, batch)
    results.sync()
    assert values(results, batch) == [0, None, None]
    folder.append(f"results/{batch}/0.jsonl", whole[-9:])
    results.sync()
    assert values(results, batch) == [0, 1, None]
    assert results.problem() is None


def test_large_objects_are_read_in_parts(
    store: Counting, outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within little memory; a line may be larger than a part, up to a limit."""
    monkeypatch.setattr(stored_results, "_TOGETHER", 1_000)
    monkeypatch.setattr(stored_results, "_LONGEST", 5_000)
    texts = ["a", "b" * 3_000, *"cdefghijklmnopqrstuv"]
    made = [result(batch, row, value=text) for row, text in enumerate(texts)]
    lines(store, batch, "0.jsonl", *made[:5], b'"' + b"x" * 12_000 + b'"\n', *made[5:])
    lines(store, batch, "1.jsonl", result(batch, 50, value="last"))
    results = StoredResults(outbox, store, batch)
    assert results.sync() is None
    assert values(results, batch, 22) == texts
    assert values(results, batch, 51)[50] == "last"
    assert results.problem()


def test_an_object_that_cannot_be_read_costs_its_rows(folder: Counting, outbox: Outbox, batch: str) -> None:
    """The others are read, the error names it, and it is read as soon as that is possible."""
    for row in range(3):
        lines(folder, batch, f"{row}.jsonl", result(batch, row, value=row))
    path = Path(folder.url, f"results/{batch}/1.jsonl")
    content = path.read_bytes()

    def break_it() -> None:
        path.unlink(missing_ok=True)
        path.mkdir(exist_ok=True)

    folder.on_list = break_it
    results = StoredResults(outbox, folder, batch)
    error: Any = results.sync()
    assert str(path) in str(error) or f"results/{batch}/1.jsonl" in str(error)
    assert values(results, batch) == [0, None, 2]
    folder.on_list = lambda: None
    path.rmdir()
    path.write_bytes(content)
    assert results.sync() is None
    assert values(results, batch) == [0, 1, 2]


def test_an_object_that_was_packed_after_its_listing_is_found(
    bucket: Counting, outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missing then: the store is listed again. One that is listed and never there is an error at last."""
    lines(bucket, batch, "0.jsonl", result(batch, 0, value=0))
    results = StoredResults(outbox, bucket, batch)

    def pack() -> None:
        bucket.on_list = lambda: None
        lines(bucket, batch, "p.jsonl", result(batch, 0, value=0))
        bucket.delete([f"results/{batch}/0.jsonl"])

    bucket.on_list = pack
    assert results.sync() is None
    assert (bucket.listings, values(results, batch, 1)) == (2, [0])
    monkeypatch.setattr(bucket, "get_ranges", lambda ranges: [None] * len(ranges))
    lines(bucket, batch, "1.jsonl", result(batch, 1, value=1))
    assert "1.jsonl is listed in" in str(results.sync())


def names(store: Store, batch: str) -> list[str]:
    """Return the names of the objects with results of a batch."""
    return [path.removeprefix(f"results/{batch}/") for page in store.pages(f"results/{batch}/") for path in page]


def test_a_batch_is_packed_into_few_objects(bucket: Counting, outbox: Outbox, batch: str) -> None:
    """Successes and failures apart, lines unchanged; this home reads no pack, and another one the packs alone."""
    writer = ResultWriter(bucket)
    for row in range(30):
        writer.put(result(batch, row, value=row))
        writer.put(result(batch, 100 + row, error="no"))
    lines(bucket, batch, "fff.jsonl", b"damaged\n")
    before = contents(bucket, batch)
    results = StoredResults(outbox, bucket, batch)
    results.sync()
    while results.pack():
        pass
    failures, *others = sorted(names(bucket, batch))
    assert failures.startswith("-e/p")
    assert [name[0] for name in others] == ["f", "p"]  # what is damaged stays as it is
    assert contents(bucket, batch) == before
    bucket.read = []
    results.sync()
    assert bucket.read == []
    again = spool(outbox, chunks(range(3)), name="again").batch  # knows nothing yet
    fresh = StoredResults(outbox, bucket, batch)
    outbox.results.forget(batch, list(outbox.results.sizes(batch)))
    fresh.sync()
    assert len(bucket.read) == 3
    assert values(fresh, batch, 30) == list(range(30))
    assert not StoredResults(outbox, bucket, again).pack()


def contents(store: Store, batch: str) -> list[bytes]:
    """Return all lines of a batch's results, sorted."""
    objects = store.get_many([f"results/{batch}/{name}" for name in names(store, batch)])
    return sorted(line for data in objects for line in (data or b"").splitlines())


def test_a_home_that_may_not_delete_packs_once(bucket: Counting, outbox: Outbox, batch: str) -> None:
    """Its pack stays beside the objects; nothing is lost, and it makes no further ones."""
    for row in range(20):
        ResultWriter(bucket).put(result(batch, row, value=row))
    results = StoredResults(outbox, bucket, batch)
    results.sync()
    bucket.refuses = StoreError
    with pytest.raises(StoreError):
        results.pack()
    assert not results.pack()
    assert len(names(bucket, batch)) == 21
    results.sync()
    assert values(results, batch, 20) == list(range(20))


def test_no_pack_of_a_deleted_batch_stays(
    bucket: Counting, outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is deleted while its objects are read."""
    for row in range(20):
        ResultWriter(bucket).put(result(batch, row, value=row))
    results, read = StoredResults(outbox, bucket, batch), bucket.get_ranges
    results.sync()

    def get_ranges(ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        found = read(ranges)
        bucket.delete_all(f"results/{batch}/")
        outbox.batches.delete(batch)
        return found

    monkeypatch.setattr(bucket, "get_ranges", get_ranges)
    with pytest.raises(BatchNotFoundError):
        results.pack()
    assert names(bucket, batch) == []


#: Fifty with `--hypothesis-profile=long`.
SEEDS = range(50 if settings.default is settings.get_profile("long") else 12)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_homes_read_and_pack_at_once(outbox: Outbox, tmp_path: Path, seed: int) -> None:
    """While results come late: both have the same in the end, and a third one that reads what is left of the store."""
    draw, place = random.Random(seed), f"memory://homes-{next(_numbers)}"
    batch = spool(outbox, chunks(range(5))).batch
    expected: dict[int, int] = {}

    def write() -> None:
        writer = ResultWriter(Store(place))
        for _ in range(120):
            row, attempt = draw.randrange(60), draw.randrange(1, 9)
            failed = draw.random() < 0.2
            writer.put(result(batch, row, attempt, value=attempt, error="no" if failed else None))
            if not failed:
                expected[row] = max(expected.get(row, 0), attempt)

    def read_and_pack(home: Outbox, written: threading.Event) -> None:
        results = StoredResults(home, Store(place), batch)
        last = False
        while not last:
            last = written.is_set()
            assert results.sync() is None
            while results.pack():
                pass

    with Outbox(tmp_path / "other" / "outbox.sqlite3") as other, Outbox(tmp_path / "third" / "o.sqlite3") as third:
        for home in (other, third):
            assert spool(home, chunks(range(5))).batch == batch
        written = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            homes = [pool.submit(read_and_pack, home, written) for home in (outbox, other)]
            pool.submit(write).result()
            written.set()
            for one in homes:
                one.result()
        read = {}
        for home in (outbox, other, third):
            results = StoredResults(home, Store(place), batch)
            results.sync()
            read[home] = values(results, batch, 60)
    assert read[outbox] == read[other] == read[third]
    assert {row: value for row, value in enumerate(read[third]) if isinstance(value, int)} == expected
    assert len(names(Store(place), batch)) < 60


def test_deleting_a_batch_removes_what_was_read(outbox: Outbox, batch: str, bucket: Counting) -> None:
    """Of it alone, and its number is never another batch's."""
    other = spool(outbox, chunks(range(3)), name="other").batch
    for one in (batch, other):
        lines(bucket, one, "0.jsonl", *(result(one, row, value=row) for row in range(20)))
        StoredResults(outbox, bucket, one).sync()
    outbox.batches.delete(batch)
    outbox.sweep()
    left = {"results": 20, "objects": 1}
    assert left.items() <= tables(outbox.path).items()
    assert outbox.results.count(other) == 20
    with pytest.raises(BatchNotFoundError):
        StoredResults(outbox, bucket, batch).sync()

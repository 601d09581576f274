"""Who can write to a folder of a store cannot lead its users to files outside of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store import folder as folder_module
from cloudtasks_nb.store.batches import delete_batch, read_records
from cloudtasks_nb.store.store import Range, Store
from tests.raising import raises

PATH = "results/1a2b3c4d/-e/x.jsonl"
LEVELS = ["results", "results/1a2b3c4d", "results/1a2b3c4d/-e", PATH]

#: What a colleague puts in the place of a file or a folder, of which `outside` is yours.
ODD: dict[str, Callable[[Path, Path], object]] = {
    "link to a folder": lambda place, outside: place.symlink_to(outside),
    "link to a file": lambda place, outside: place.symlink_to(outside / "results"),
    "link to nothing": lambda place, outside: place.symlink_to(outside / "nothing"),
    "loop": lambda place, _: place.symlink_to(place),
    "pipe": lambda place, _: os.mkfifo(place),
}


def _ranges(store: Store) -> object:
    (one,) = store.get_ranges([Range(PATH, 0, None)])
    if isinstance(one, StoreError):
        raise one
    return one


VERBS: dict[str, Callable[[Store], Any]] = {
    "put": lambda store: store.put(PATH, b"mine"),
    "claim": lambda store: store.claim(PATH, b"mine"),
    "create": lambda store: store.create(PATH, b"mine"),
    "append": lambda store: store.append(PATH, b"mine"),
    "get": lambda store: store.get(PATH),
    "get_ranges": _ranges,
    "list": lambda store: list(store.pages("results/1a2b3c4d/")),
    "list all": lambda store: list(store.pages("")),
    "delete": lambda store: store.delete([PATH]),
    "delete_all": lambda store: store.delete_all("results/1a2b3c4d/"),
    "delete_batch": lambda store: delete_batch(store, "1a2b3c4d"),
}


@pytest.fixture(params=["by descriptors", "by paths"], autouse=True)
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name files as this system can, and as Windows does."""
    monkeypatch.setattr(folder_module, "_BY_DESCRIPTOR", request.param == "by descriptors")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Give a folder of yours with files that have the names of objects."""
    folder = tmp_path / "outside"
    for path in (PATH, "1a2b3c4d/-e/x.jsonl", "-e/x.jsonl", "x.jsonl"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"yours")
    return folder


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_followed_out_of_a_store(level: str, odd: str, verb: str, outside: Path, tmp_path: Path) -> None:
    """A verb that would use a link or a pipe is refused, names it, and changes nothing outside; none waits."""
    place, before = tmp_path / "store" / level, _contents(outside)
    place.parent.mkdir(parents=True)
    ODD[odd](place, outside)
    with raises(StoreError, f"{level} is a (link|device, a pipe)", hint="a store follows no link"):
        VERBS[verb](Store(tmp_path / "store"))
    assert _contents(outside) == before
    assert place.is_symlink() or place.is_fifo()


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """No verb that uses one file takes a folder; nothing in it is lost."""
    store = Store(tmp_path)
    store.put(f"{PATH}/inner", b"1")
    for verb in ("put", "append", "get", "get_ranges", "delete"):
        with raises(StoreError, rf"{PATH} cannot be \w+ in .*: x.jsonl is a folder"):
            VERBS[verb](store)
    assert store.get(f"{PATH}/inner") == b"1"


def test_a_file_with_a_second_name_is_not_appended_to(outside: Path, tmp_path: Path) -> None:
    """A hard link to a file of yours looks like an object; what appends begins another object."""
    place = tmp_path / "store" / PATH
    place.parent.mkdir(parents=True)
    os.link(outside / PATH, place)
    assert not Store(tmp_path / "store").append(PATH, b"mine")
    assert (outside / PATH).read_bytes() == b"yours"


@pytest.mark.parametrize("path", ["results/../x", "../x", "results//x", "results/."])
def test_a_path_does_not_lead_out_of_a_store(path: str, tmp_path: Path) -> None:
    """Names of folders above, as a forged record may have them, are no names."""
    (tmp_path / "store" / "results").mkdir(parents=True)
    verbs: list[Callable[[Store], Any]] = [
        lambda store: store.get(path),
        lambda store: store.put(path, b"1"),
        lambda store: store.delete([path]),
    ]
    for verb in verbs:
        with raises(StoreError, "is no name of a file"):
            verb(Store(tmp_path / "store"))


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    """Whoever names a store has chosen where it leads."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "store")
    store.put("batches/1a2b3c4d/record.json", b"{}")
    assert read_records(store) == {"1a2b3c4d": b"{}"}
    delete_batch(store, "1a2b3c4d")
    assert read_records(store) == {}


def test_names_that_are_no_text_are_no_objects(tmp_path: Path) -> None:
    """They cannot be stored in an outbox; a batch is deleted with them."""
    store = Store(tmp_path)
    store.put(PATH, b"1")
    for name in (b"two\nlines", b"\xff", b"x.jsonl#12ab"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/results/1a2b3c4d/" + name)).touch()
    assert [path for page in store.pages("results/") for path in page] == [PATH]
    delete_batch(store, "1a2b3c4d")
    assert list((tmp_path / "results").iterdir()) == []

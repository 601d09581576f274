"""A folder or a bucket of objects: the same behaviour for each kind."""

import asyncio
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store import store as store_module
from cloudtasks_nb.store.store import Found, Range, Store
from tests.cases import cases
from tests.processes import run
from tests.raising import raises
from tests.unit.store.conftest import google_key
from tests.web import Reply, http_server


def test_what_was_put_is_there(store: Store) -> None:
    """An object comes back as it was put last; one that does not exist is None."""
    store.put("a/one.json", b"1")
    store.put("a/one.json", b"2")
    assert store.get("a/one.json") == b"2"
    assert store.get("a/two.json") is None
    assert store.get_many(["a/two.json", "a/one.json", "a/two.json"]) == [None, b"2", None]
    assert Store(store.url).get("a/one.json") == b"2"


def test_an_object_is_claimed_once(store: Store) -> None:
    """Who comes later learns that, and changes nothing; whoever creates an object does so under a name of its own."""
    assert [store.claim("a/x", data) for data in (b"1", b"2")] == [True, False]
    store.create("a/y", b"3")
    assert store.get_many(["a/x", "a/y"]) == [b"1", b"3"]


#: One thread lists what another one writes and deletes.
SHARED = """
import threading
from cloudtasks_nb.store.store import Store

def look():
    while not ended.is_set():
        list(store.pages("a/"))

store, ended, paths = Store("memory://shared"), threading.Event(), [f"a/{number}" for number in range(100)]
looking = threading.Thread(target=look)
looking.start()
for _ in range(100):
    for path in paths:
        store.put(path, b"x")
    store.delete(paths)
ended.set()
looking.join()
"""


def test_threads_share_what_is_in_memory() -> None:
    """With the lowest release of the library the whole process stood still, where no limit of a test is heard."""
    ended = run(sys.executable, "-c", SHARED)
    assert ended.returncode == 0, ended.stderr


def test_an_object_is_appended_to_in_a_folder(tmp_path: Path) -> None:
    """What was created grows, and the listing says so; what does not exist is not made, and nothing stays beside it."""
    store = Store(tmp_path)
    store.create("a/x", b"1")
    assert [store.append(path, b"23") for path in ("a/x", "a/y")] == [True, False]
    assert list(store.found("a/")) == [[Found("a/x", 3)]]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    with raises(StoreError, r"a/x cannot be written in .*File exists"):
        store.create("a/x", b"4")
    with raises(StoreError, r"a cannot be written in .*: a is a folder"):
        store.append("a", b"4")
    assert store.get("a/x") == b"123"


def test_parts_of_objects_are_read(store: Store) -> None:
    """One that does not exist is None, and a part ends where the object ends."""
    store.put("a/x", b"hello")
    ranges = [Range("a/x", 1, 3), Range("a/x", 2, None), Range("a/y", 0, 9), Range("a/x", 3, 99)]
    assert store.get_ranges(ranges) == [b"el", b"llo", None, b"lo"]


def test_an_object_that_cannot_be_read_is_an_error_among_the_others(tmp_path: Path) -> None:
    """Of a file that is a folder, for example; whoever wants whole objects gets the error raised."""
    store = Store(tmp_path)
    store.put("a/x", b"1")
    (tmp_path / "a" / "y").mkdir()
    first, second = store.get_ranges([Range("a/x", 0, 1), Range("a/y", 0, 1)])
    assert first == b"1"
    assert "a/y cannot be read" in str(second)
    with raises(StoreError, "a/y cannot be read"):
        store.get_many(["a/x", "a/y"])


def test_objects_are_listed_page_by_page(store: Store) -> None:
    """All objects of a prefix are listed, and only they."""
    paths = [f"a/{n:02}.json" for n in range(25)]
    for path in [*paths, "ab/x", "b/x"]:
        store.put(path, b"12")
    pages = list(store.pages("a/"))
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [{found.size for found in page} for page in store.found("a/")] == [{2}] * 3
    assert sorted(path for page in pages for path in page) == paths
    assert list(store.pages("none/")) == []


def test_objects_are_deleted(store: Store) -> None:
    """Objects are gone, and those that never were do not matter, wherever they stand."""
    for path in ("a/1", "a/2", "a/3"):
        store.put(path, b"x")
    store.delete(["a/0", "a/1", "a/x", "a/2"])
    assert list(store.pages("a/")) == [["a/3"]]
    store.delete([])


@pytest.mark.usefixtures("bucket_servers")
@pytest.mark.parametrize("url", ["s3://nobody/x", "gs://nobody/x"])
def test_a_bucket_that_does_not_exist(url: str) -> None:
    """A missing bucket is an error, also where a missing object is none."""
    store = Store(url)
    calls = (lambda: store.put("a", b"1"), lambda: store.create("a", b"1"), lambda: store.get("a"))
    for call in (*calls, lambda: store.get_many(["a", "b"]), lambda: list(store.pages("a/"))):
        with raises(StoreError, rf"cannot be \w+ in {url}: .*bucket", hint="check the name of the bucket"):
            call()


PLACES: list[tuple[Any, str]] = [
    *(("gs://team/tasks/", "gs://team/tasks"), ("S3://team", "s3://team"), ("az://box/x", "az://box/x")),
    *((place, "/data/store") for place in ("/data/store", Path("/data/store"))),
    ("file:///data/my%20store", "/data/my store"),
    ("~/store", os.path.expanduser("~/store")),  # noqa: PTH111 - the same by another way
    ("store", os.path.abspath("store")),  # noqa: PTH100 - as above
]


@pytest.mark.parametrize(("place", "url"), PLACES)
def test_a_store_has_one_url(place: Any, url: str) -> None:
    """Messages and comparisons use one form of a place."""
    assert Store(place).url == url
    assert repr(Store(place)) == f"<Store {url}>"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Every use of a folder that is a file is an error with the cause."""
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "store")
    for call in (
        lambda: store.put("a", b""),
        lambda: store.create("a", b""),
        lambda: store.get("a"),
        lambda: list(store.pages("a/")),
    ):
        with raises(StoreError, "cannot be", hint="CLOUDTASKS_NB_STORE"):
            call()


def test_the_rights_of_a_folder_are_those_of_the_user(tmp_path: Path) -> None:
    """The folder and its files are made under the umask, so that colleagues may share them where it allows that."""
    before = os.umask(0o027)
    try:
        Store(tmp_path / "store").put("a/x", b"1")
        Store(tmp_path / "other").create("a/x", b"1")
    finally:
        os.umask(before)
    for folder in (tmp_path / "store", tmp_path / "other"):
        assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o750
        assert stat.S_IMODE((folder / "a" / "x").stat().st_mode) == 0o640


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the times that a store waits."""
    short = timedelta(milliseconds=300)
    monkeypatch.setattr(store_module, "_CLIENT_OPTIONS", {"connect_timeout": short, "timeout": short})
    monkeypatch.setattr(store_module, "_RETRIES", store_module._RETRIES | {"max_retries": 1, "retry_timeout": short})


@pytest.fixture(params=["refuses", "hangs", "answers 500", "denies"])
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a server that is of no use."""
    if request.param in {"refuses", "hangs"}:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield f"http://127.0.0.1:{1 if request.param == 'refuses' else listening.getsockname()[1]}"
        return
    with http_server(lambda _: Reply(status=500 if request.param == "answers 500" else 403)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.usefixtures("bucket_servers", "impatient")
def test_a_server_of_no_use_is_an_error(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call ends with an error when the server refuses, hangs, fails or denies; nothing waits for ever."""
    monkeypatch.setenv("GOOGLE_BASE_URL", broken)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", google_key(broken))
    store = Store("gs://team/x")
    for call in (lambda: store.put("a", b"1"), lambda: store.get("a"), lambda: store.get_many(["a"])):
        with raises(StoreError, r"a cannot be \w+ in gs://team/x", hint="gcloud auth application-default login"):
            call()


def test_a_call_ends_within_seconds() -> None:
    """What the docstring promises: no retry begins after 10 s, and a request takes 10 s at most."""
    assert store_module._RETRIES["retry_timeout"] == store_module._CLIENT_OPTIONS["timeout"] == timedelta(seconds=10)


@pytest.mark.usefixtures("bucket_servers")
@cases(
    ("put", lambda store: store.put("a/x", b"1")),
    ("put", lambda store: store.claim("a/x", b"1")),
    ("get", lambda store: store.get("a/x")),
    ("list", lambda store: list(store.pages("a/"))),
    ("delete", lambda store: store.delete(["a/x"])),
    ("get_async", lambda store: store.get_many(["a/x"])),
)
def test_a_library_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[[Store], object]
) -> None:
    """It is left behind, and the call ends with an error."""
    never = threading.Event()

    async def wait(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(obstore, name, wait if name.endswith("async") else lambda *_, **__: never.wait())
    monkeypatch.setattr(store_module, "_PATIENCE", 0.01)
    with raises(
        StoreError, r"a/x? cannot be \w+ in gs://team/x: (no answer in 0.01 s|TimeoutError)", hint="the network"
    ):
        call(Store("gs://team/x"))
    never.set()


#: A process that forks another one after it has used a bucket.
FORKED = """
import os
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store.store import Store

store = Store("s3://team/forked")
store.put("x", b"1")
child = os.fork()
if not child:
    try:
        store.get("x")
    except StoreError as error:
        assert "was forked from one that had used a bucket" in str(error)
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert store.get("x") == b"1"
"""


@pytest.mark.usefixtures("bucket_servers")
def test_a_bucket_is_refused_in_a_forked_process() -> None:
    """The connections of its parent do not work there: a call would wait for ever."""
    done = run(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED)
    assert (done.returncode, done.stderr) == (0, "")

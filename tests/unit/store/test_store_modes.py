"""Who can read what is stored in a folder: in the home its owner alone, elsewhere who can read the folder itself."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtasks_nb._settings import store_place
from cloudtasks_nb.store.store import Store
from tests.cases import cases

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")


@pytest.fixture(params=[0, 0o022, 0o077], ids=oct, autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write under different masks."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def write(store: Store) -> None:
    """Write objects in each way that there is."""
    store.put("results/a/1.json", b"{}")
    store.put("results/a/1.json", b"{} again")
    store.create("results/b/2.jsonl", b"{}\n")
    store.append("results/b/2.jsonl", b"{}\n")
    store.claim("batches/a/claim", b"key")


def modes(folder: Path) -> set[tuple[bool, str]]:
    """Return the modes that are below a folder: of folders, which are True, and of files."""
    found = [*folder.rglob("*")]
    assert len(found) == 8
    return {(one.is_dir(), oct(stat.S_IMODE(one.stat().st_mode))) for one in found}


@pytest.mark.parametrize("there", [True, False])
def test_a_store_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:  # noqa: FBT001 - a case
    """It is for its owner alone, also where the home and the store were made by others, and open."""
    home = tmp_path / "home"
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    if there:
        for folder in (home, home / "store"):
            folder.mkdir()
            folder.chmod(0o755)
    write(Store(store_place(None)))
    assert [stat.S_IMODE(one.stat().st_mode) for one in (home, home / "store")] == [0o700] * 2
    assert modes(home / "store") == {(True, "0o700"), (False, "0o600")}


@cases(0o700, 0o750, 0o755, 0o770, 0o2770)
def test_a_store_elsewhere_has_the_rights_of_its_folder(tmp_path: Path, mode: int) -> None:
    """Who can read or write the folder can do so below it, whatever the mask of who writes; its group is kept."""
    (tmp_path / "team").mkdir()
    (tmp_path / "team").chmod(mode)
    write(Store(tmp_path / "team"))
    assert modes(tmp_path / "team") == {(True, oct(mode)), (False, oct(mode & 0o666))}

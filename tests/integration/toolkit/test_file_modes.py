"""Who may read the files that the toolkit and the emulator write, as SECURITY.md says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Let files be readable for everybody unless their writer cares."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    """Return the permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("usual_umask")
def test_what_holds_secrets_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home, outbox, handler secret and emulator folder are private; a store is as the umask says, to be shared."""
    home, data, store = tmp_path / "home", tmp_path / "data", tmp_path / "store"
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    with ct.local(data, store=store) as tasks, ct.serve(str.upper, name="upper", store=store) as handler:
        queue = tasks.queue("reports", create=True)
        batch = queue.fan_out(pd.DataFrame({"day": ["d1"]}), url=handler, body="{day}")
        assert batch.wait("60s").succeeded == 1
        assert {mode(path) for path in (home, home / "locks", data)} == {0o700}
        assert {mode(path) for path in (home / "handlers.key", *home.glob("outbox.sqlite3*"))} == {0o600}
        shared = [path for path in store.rglob("*") if path.is_file()]
        assert any(path.parent.parent.name == "results" for path in shared)
        assert {mode(path) for path in shared} == {0o644}


@pytest.mark.usefixtures("usual_umask")
def test_the_default_store_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are not shared lie in the home, which its owner alone can enter."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / "home"))
    with ct.local(tmp_path / "data") as tasks:
        assert Path(tasks.store).is_relative_to(tmp_path / "home")
        tasks.queue("reports", create=True).fan_out(pd.DataFrame({"day": ["d1"]}), url="http://127.0.0.1:9/x").cancel()
        assert mode(tmp_path / "home") == 0o700

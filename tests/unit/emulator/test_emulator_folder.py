"""The folder of an emulator: what is in it while the emulator runs, and what becomes of folders that are left."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from cloudtasks_nb.emulator.folder import Folder


def test_the_endpoint_is_that_of_a_running_emulator(tmp_path: Path) -> None:
    """What a killed emulator wrote about itself is not believed; what a running one writes is removed at its end."""
    endpoint = tmp_path / "endpoint.json"
    endpoint.write_text("{}")
    with Folder(tmp_path) as folder:
        assert not endpoint.exists()
        folder.announce({"grpc": "127.0.0.1:1"})
        assert endpoint.read_text() == '{"grpc":"127.0.0.1:1"}'
    assert not endpoint.exists()


def test_folders_of_killed_emulators_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only temporary ones, and none whose emulator runs or is just beginning."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = ("cloudtasks-killed", "cloudtasks-runs", "cloudtasks-new", "cloudtasks-mine")
    killed, runs, new, mine = (tmp_path / name for name in names)
    for folder in (killed, runs, new, mine):
        folder.mkdir()
        if folder is not mine:
            (folder / "temporary").touch()
        if folder is not new:
            os.utime(folder, (1, 1))
    with FileLock(runs / "emulator.lock"):
        os.utime(runs, (1, 1))
        with Folder(None) as found:
            assert set(tmp_path.iterdir()) == {runs, new, mine, found.path}

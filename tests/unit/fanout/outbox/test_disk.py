"""What kind of disk the outbox is on."""

from pathlib import Path

import pytest

from cloudtasks_nb.fanout import disk
from tests.cases import cases

MOUNTS = """\
overlay / overlay rw 0 0
/dev/vda /data ext4 rw 0 0
server:/home /home nfs4 rw 0 0
x /home/me/my\\040disk ext4 rw 0 0
drive /content/drive fuse.drive rw 0 0
remote: /mnt/remote fuse.rclone rw 0 0
dav /mnt/dav fuse rw 0 0
share /mnt/share virtiofs rw 0 0
/dev/sdb1 /mnt/stick fuseblk rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this a machine with many kinds of disks."""
    made = tmp_path / "mounts"
    made.write_text(MOUNTS)
    monkeypatch.setattr(disk, "MOUNTS", made)
    return made


@cases(
    ("/srv/home/o", False, "the layer of a container"),
    ("/homes/o", False, "the layer of a container"),
    ("/dev/shm/o", False, "in memory"),  # noqa: S108 - nothing is written there
    ("/data/o", False, None),
    ("/home/me/o", True, None),
    ("/home/me/my disk/o", False, None),
    ("/content/drive/MyDrive/o", True, None),
    ("/mnt/remote/o", True, None),
    ("/mnt/dav/o", True, None),
    ("/mnt/share/o", True, None),
    ("/mnt/stick/o", False, None),
)
@pytest.mark.usefixtures("mounts")
def test_the_mount_decides(file: str, *, network: bool, temporary: str | None) -> None:
    """All of FUSE and virtiofs count as network file systems; memory and the layer of a container are temporary."""
    assert (disk.on_network(Path(file)), disk.temporary_kind(Path(file))) == (network, temporary)


def test_a_system_that_does_not_tell(mounts: Path) -> None:
    """Without a list of mounts the disk counts as a lasting one of this machine."""
    mounts.unlink()
    assert (disk.on_network(Path("/o")), disk.temporary_kind(Path("/o"))) == (False, None)

"""Files below a folder, reached without following a link: others may write to the folder, and name files of yours."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from cloudtasks_nb._settings import home

__all__ = ["Folder", "Found", "OddFileError"]

#: Else, on Windows, a file is named by its whole path, of which each part is looked at before.
_BY_DESCRIPTOR = {os.open, os.stat, os.mkdir, os.unlink, os.rmdir} <= os.supports_dir_fd
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)  # a link to a folder on Windows
_UNFINISHED = re.compile(r".*#[0-9a-f]+")  # names of files that are being written
_NO_NAMES = ("", ".", "..")
_PRIVATE = 0o700


class Found(NamedTuple):
    """An object that was listed."""

    path: str
    size: int  #: bytes


class OddFileError(OSError):
    """What stands in the place of a file or a folder is a link, a device or the like."""


class _Opened:
    """A folder that is open; closed at the end of the context."""

    def __init__(self, place: str, descriptor: int | None) -> None:
        self._place, self.fd = place, descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd is not None:
            os.close(self.fd)

    def name(self, name: str) -> str:
        """Return how the system's calls name a file in it, together with `fd`."""
        if name in _NO_NAMES:
            raise OddFileError(f"{self._place}/{name} is no name of a file")
        return f"{self._place}/{name}" if self.fd is None else name

    def look(self, name: str, *, folder: bool = False) -> os.stat_result:
        """Return the facts of a file or a folder in it; refuse what is something else."""
        found = os.stat(self.name(name), dir_fd=self.fd, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind not in {stat.S_IFREG, stat.S_IFDIR} or getattr(found, "st_reparse_tag", 0) == _JUNCTION:
            what = "link" if kind in {stat.S_IFLNK, stat.S_IFDIR} else "device, a pipe or a socket"
            raise OddFileError(f"{self._place}/{name} is a {what}")
        if folder != (kind == stat.S_IFDIR):
            raise NotADirectoryError(f"{name} is no folder") if folder else IsADirectoryError(f"{name} is a folder")
        return found

    def folder(self, name: str) -> _Opened:
        """Open a folder in it."""
        place = f"{self._place}/{name}"
        if self.fd is None:
            self.look(name, folder=True)
            return _Opened(place, None)
        try:
            return _Opened(place, os.open(self.name(name), _FOLDER | os.O_NOFOLLOW, dir_fd=self.fd))
        except OSError:
            self.look(name, folder=True)  # its error says more
            raise

    def file(self, name: str, flags: int) -> int:
        """Open a file in it that exists; return its descriptor."""
        if self.fd is None:
            self.look(name)
        try:
            descriptor = os.open(self.name(name), flags | _FILE, dir_fd=self.fd)
        except OSError:
            self.look(name)
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self.look(name)
        return descriptor

    def entries(self) -> Iterator[tuple[str, os.stat_result, bool]]:
        """Yield name and facts of what is in it, and whether that is a folder."""
        with os.scandir(self._place if self.fd is None else self.fd) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    is_folder = entry.is_dir(follow_symlinks=False)
                    yield entry.name, self.look(entry.name, folder=is_folder), is_folder


class Folder:
    """Files below a folder, by paths such as ``results/1a2b3c4d/x.json``; itself it may be a link.

    All methods raise `OSError`, and `OddFileError` for a link, a device and the like anywhere below the folder.

    Parameters
    ----------
    root : str
        Its path; created by the first method that writes.
    private : bool
        Nobody else may read or write it, or what is made in it. Otherwise what is made has the rights of the folder.
    """

    def __init__(self, root: str, *, private: bool) -> None:
        self._root, self._private = root, private
        self._closed = False  # whether the rights of others were taken away, if it is private

    def read(self, path: str, start: int, end: int | None) -> bytes | None:
        """Return a part of a file; None if there is none."""
        with (
            suppress(FileNotFoundError),
            self._parent(path) as (folder, name),
            os.fdopen(folder.file(name, os.O_RDONLY), "rb", buffering=0) as file,
        ):
            file.seek(start)
            return file.read(-1 if end is None else end - start)
        return None

    def dated(self, path: str) -> tuple[bytes, float] | None:
        """Return the content of a file, and when it was modified, in seconds since 1970; None if there is none."""
        with (
            suppress(FileNotFoundError),
            self._parent(path) as (folder, name),
            os.fdopen(folder.file(name, os.O_RDONLY), "rb", buffering=0) as file,
        ):
            return file.read(), os.fstat(file.fileno()).st_mtime
        return None

    def append(self, path: str, data: bytes) -> bool:
        """Append to a file; return False if there is none, or it has a second name, which may be anywhere.

        An error may leave a part of the data.
        """
        with suppress(FileNotFoundError), self._parent(path) as (folder, name):
            descriptor = folder.file(name, os.O_WRONLY | os.O_APPEND)
            only = os.fstat(descriptor).st_nlink == 1
            _write(descriptor, data if only else b"")
            return only
        return False

    def create(self, path: str, data: bytes) -> None:
        """Write a file that does not exist, without another one beside it; an error leaves none."""
        with self._parent(path, make=True) as (folder, name):
            descriptor = self._new(folder, name)
            try:
                _write(descriptor, data)
            except BaseException:
                os.unlink(folder.name(name), dir_fd=folder.fd)
                raise

    def put(self, path: str, data: bytes, *, new: bool = False) -> bool:
        """Write a file, complete for everybody who can see it; `new`: return False if there is one already."""
        with self._parent(path, make=True) as (folder, name):
            unfinished = f"{name}#{secrets.token_hex(8)}"
            descriptor = self._new(folder, unfinished)
            source, target = folder.name(unfinished), folder.name(name)
            try:
                _write(descriptor, data)
                if not new:
                    os.replace(source, target, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
                    return True
                os.link(source, target, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            except FileExistsError:
                return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(source, dir_fd=folder.fd)
            return True

    def found(self, prefix: str) -> Iterator[Found]:
        """Yield the files in a folder, or in one below it."""
        with suppress(FileNotFoundError), self._opened([part for part in prefix.split("/") if part]) as folder:
            yield from _files(folder, prefix)

    def children(self, prefix: str) -> tuple[list[str], dict[str, float]]:
        """Return the names of the folders in a folder, and those of its files with the times of their modification."""
        folders, files = list[str](), dict[str, float]()
        with suppress(FileNotFoundError), self._opened([part for part in prefix.split("/") if part]) as folder:
            for name, facts, is_folder in folder.entries():
                if is_folder:
                    folders.append(name)
                elif _is_ours(name):
                    files[name] = facts.st_mtime
        return folders, files

    def delete(self, path: str) -> None:
        """Delete a file; one that does not exist is ignored."""
        with suppress(FileNotFoundError), self._parent(path) as (folder, name):
            folder.look(name)
            os.unlink(folder.name(name), dir_fd=folder.fd)

    def delete_all(self, prefix: str) -> None:
        """Delete a folder with all that is in it."""
        *parents, name = prefix.rstrip("/").split("/")
        with suppress(FileNotFoundError), self._opened(parents) as parent:
            with parent.folder(name) as folder:
                _clear(folder)
            os.rmdir(parent.name(name), dir_fd=parent.fd)

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[_Opened, str]]:
        """Give the open folder of a file, and the file's name; `make`: refuse what has that name and is no file."""
        *parents, name = path.split("/")
        with self._opened(parents, make=make) as folder:
            if make:
                with suppress(FileNotFoundError):
                    folder.look(name)
            yield folder, name

    @contextmanager
    def _opened(self, parts: list[str], *, make: bool = False) -> Iterator[_Opened]:
        """Open a folder below the root, part by part; `make` creates what does not exist."""
        folder = self._open_root(make=make)
        try:
            for part in parts:
                inner = self._made(folder, part) if make else folder.folder(part)
                folder.__exit__()
                folder = inner
            yield folder
        finally:
            folder.__exit__()

    def _open_root(self, *, make: bool) -> _Opened:
        mode = _PRIVATE if self._private else 0o777
        if make and self._private and not self._closed:
            home()  # which others lose their rights on
        if make and not os.path.isdir(self._root):  # noqa: PTH112 - a Path takes longer, and each write looks
            Path(self._root).mkdir(mode, parents=True, exist_ok=True)
        opened = _Opened(self._root, os.open(self._root, _FOLDER) if _BY_DESCRIPTOR else None)
        if make and self._private and not self._closed:
            _allow(opened.fd, mode)
            self._closed = True
        return opened

    def _made(self, folder: _Opened, name: str) -> _Opened:
        """Open a folder in another one, and make it if it does not exist."""
        try:
            return folder.folder(name)
        except FileNotFoundError:
            mode = self._mode(folder)
            with suppress(FileExistsError):
                os.mkdir(folder.name(name), mode, dir_fd=folder.fd)
            made = folder.folder(name)
            _allow(made.fd, mode)
            return made

    def _new(self, folder: _Opened, name: str) -> int:
        """Make a file, and return its descriptor."""
        mode = self._mode(folder) & 0o666
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
        descriptor = os.open(folder.name(name), flags, mode, dir_fd=folder.fd)
        _allow(descriptor, mode)
        return descriptor

    def _mode(self, folder: _Opened) -> int:
        """Return the rights of what is made in a folder: those of the folder, whatever the process would take away."""
        if self._private or folder.fd is None:
            return _PRIVATE
        return stat.S_IMODE(os.fstat(folder.fd).st_mode)


def _allow(descriptor: int | None, mode: int) -> None:
    """Set the rights that the process has taken away by its umask."""
    if descriptor is not None and sys.platform != "win32":
        with suppress(OSError):  # some mounts have no rights, or refuse to change them
            os.fchmod(descriptor, mode)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        while left:  # a disk that fills takes a part, and refuses the rest
            left = left[file.write(left) :]


def _files(folder: _Opened, path: str) -> Iterator[Found]:
    """Yield the files in an open folder; those whose names are no text of ours are none."""
    for name, facts, is_folder in folder.entries():
        if is_folder:
            with suppress(FileNotFoundError), folder.folder(name) as inner:
                yield from _files(inner, f"{path}{name}/")
        elif _is_ours(name):
            yield Found(f"{path}{name}", facts.st_size)


def _is_ours(name: str) -> bool:
    """Return whether a file is an object: its name is text, and it is complete."""
    return name.isprintable() and not _UNFINISHED.fullmatch(name)


def _clear(folder: _Opened) -> None:
    """Delete all that is in an open folder."""
    for name, _, is_folder in [*folder.entries()]:
        with suppress(FileNotFoundError):
            if not is_folder:
                os.unlink(folder.name(name), dir_fd=folder.fd)
                continue
            with folder.folder(name) as inner:
                _clear(inner)
            os.rmdir(folder.name(name), dir_fd=folder.fd)

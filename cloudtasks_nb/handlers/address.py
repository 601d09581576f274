"""The URL of a served function, derived from its name and the home, so that a restarted kernel has the same URL."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock

from cloudtasks_nb.errors import HandlerError

__all__ = ["Address", "bind_address", "derive_address", "name_from_url"]

_HOST = "127.0.0.1"
_FIRST_PORT, _PORTS = 20_000, 10_000
_SECRET_FILE = "handlers.key"  # noqa: S105 - the name of the file, not its content
_SECRET_BYTES = 32
_URL = re.compile(rf"http://{re.escape(_HOST)}:\d{{5}}/(?P<name>[^/?#]+)/[0-9a-f]{{32}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One URL on this machine."""

    port: int
    path: str  #: not percent-encoded
    lasting: bool  #: whether it is the same after a restart of the kernel

    @property
    def url(self) -> str:
        """The URL to send tasks to."""
        return f"http://{_HOST}:{self.port}{quote(self.path)}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The accepted values of the Host header."""
        return f"{_HOST}:{self.port}", f"localhost:{self.port}"


def derive_address(home: Path, name: str) -> Address:
    """Return the lasting address of a name.

    The path begins with the name, so that a task's URL is readable; its second part cannot be guessed.

    Raises
    ------
    HandlerError
        If the home's secret cannot be read or created.
    """
    digest = hashlib.sha256(f"{home.resolve()}\0{name}".encode()).digest()
    token = hmac.new(_secret(home), name.encode(), hashlib.sha256).hexdigest()[:32]
    return Address(
        port=_FIRST_PORT + int.from_bytes(digest[:8]) % _PORTS,
        path=f"/{name}/{token}",
        lasting=True,
    )


def name_from_url(home: Path, url: str) -> str | None:
    """Return the name that has this URL as its lasting address; None if no name of this home has it.

    Raises
    ------
    HandlerError
        If the home's secret cannot be read or created.
    """
    match = _URL.fullmatch(url)
    name = match and unquote(match["name"])
    return name if name and derive_address(home, name).url == url else None


def bind_address(home: Path, name: str, *, lasting: bool) -> tuple[Address, socket.socket]:
    """Bind a socket to the address of a name; to a new address if `lasting` is False or the port is in use.

    Raises
    ------
    HandlerError
        If the home's secret cannot be read or created.
    """
    if lasting:
        address = derive_address(home, name)
        with contextlib.suppress(OSError):
            return address, _bind(address.port)
    sock = _bind(0)
    port = sock.getsockname()[1]
    return Address(port=port, path=f"/{name}/{secrets.token_hex(16)}", lasting=False), sock


def _bind(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows this option would let two processes share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_HOST, port))
        # Listen now, not when the server starts: until then another process can still take the port.
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def _secret(home: Path) -> bytes:
    """Read the secret in the home folder; if it does not exist, create it, readable only by its owner."""
    file = home / _SECRET_FILE
    try:
        with FileLock(home / f"{_SECRET_FILE}.lock", mode=0o600):
            if not file.exists():
                _write(file, secrets.token_bytes(_SECRET_BYTES))
        if os.name == "posix" and file.stat().st_mode & 0o077:
            file.chmod(0o600)
        secret = file.read_bytes()
    except OSError as error:
        problem, hint = f"cannot be read or written: {error.strerror}", "set CLOUDTASKS_NB_HOME to a folder of your own"
        raise _secret_error(file, problem, hint) from error
    if len(secret) != _SECRET_BYTES:
        hint = "delete it and serve again; tasks that were sent before will not reach their functions"
        raise _secret_error(file, "is damaged", hint)
    return secret


def _secret_error(file: Path, problem: str, hint: str) -> HandlerError:
    return HandlerError(f"the secret in the handlers' URLs, {file}, {problem}", resource=str(file), hint=hint)


def _write(file: Path, secret: bytes) -> None:
    # The file is renamed when it is complete, so that a crash leaves no incomplete secret. mkstemp sets mode 0600.
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")
    with os.fdopen(handle, "wb") as stream:
        stream.write(secret)
    Path(temporary).replace(file)

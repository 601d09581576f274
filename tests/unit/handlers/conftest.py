"""A function to serve, a client, handlers that are closed, and an issuer of tokens with its certificates."""

import http.client
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from google.auth import crypt, jwt

from cloudtasks_nb.handlers import verify
from tests.web import Reply, Request, http_server

ACCOUNT = "runner@demo.iam.gserviceaccount.com"
AUDIENCE = "https://reports.example/run"
Notebook = Callable[[str], ModuleType]
NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Response:
    """The response to one request."""

    status: int
    headers: dict[str, str]
    body: bytes


def report(day: str, origin: str = "JFK") -> dict[str, str]:
    """Serve as an ordinary function."""
    if day == "never":
        raise LookupError(f"no such day: {day}")
    return {"day": day, "origin": origin}


class Gate:
    """Holds the functions that call `wait` until the test opens it."""

    def __init__(self) -> None:
        self._entered, self._open = threading.Event(), threading.Event()

    def wait(self) -> bool:
        """Wait until the gate is open; return whether it is."""
        self._entered.set()
        return self._open.wait(240)

    def function(self, result: str) -> Callable[[], str]:
        """Return a function that waits, and then returns `result`."""
        return lambda: result if self.wait() else "nobody opened the gate"

    def entered(self) -> bool:
        """Return once a function waits."""
        return self._entered.wait(240)

    def open(self) -> None:
        """Let all functions go on."""
        self._open.set()


def post(url: str, body: bytes | None = b"{}", *, method: str = "POST", **headers: str) -> Response:
    """Send one request; header names have underscores for hyphens."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=240)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, parts.path, body, named)
        response = connection.getresponse()
        return Response(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture
def home() -> Path:
    """Return the home of this test."""
    return Path(os.environ["CLOUDTASKS_NB_HOME"])


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """Define what code defines, in a module that is not installed, as a notebook's `__main__` is not."""

    def define(code: str) -> ModuleType:
        path = tmp_path / f"notebook_{next(NUMBERS)}.py"
        path.write_text(code)
        module = ModuleType(path.stem)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, path.stem, module)
        exec(compile(code, path, "exec"), vars(module))  # noqa: S102 - our own code
        return module

    return define


@dataclass
class Key:
    """A signing key with its certificate."""

    name: str
    made: trustme.CA = field(default_factory=lambda: trustme.CA(key_type=trustme.KeyType.RSA))

    def certificate(self) -> str:
        """Return the certificate as PEM, as Google publishes it."""
        return self.made.cert_pem.bytes().decode()

    def sign(self, claims: dict[str, Any]) -> str:
        """Return a signed token."""
        signer = crypt.RSASigner.from_string(self.made.private_key_pem.bytes(), self.name)
        return str(jwt.encode(signer, claims).decode())


@dataclass
class Issuer:
    """An issuer of tokens with its certificate endpoint."""

    key: Key
    other: Key  #: a key whose certificate is not published
    url: str = ""
    status: int = 200
    published: list[Key] = field(default_factory=list)
    content: bytes | None = None  #: what is published in place of certificates
    fetches: int = 0

    @property
    def certs_url(self) -> str:
        """What a connection to an emulator has, so that this is one."""
        return self.url

    def claims(self, **other: Any) -> dict[str, Any]:
        """Return the claims of a good token, save those given; None leaves one out."""
        now = int(time.time())
        good = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": ACCOUNT, "email_verified": True}
        good |= {"sub": "1", "iat": now, "exp": now + 3600}
        return {name: value for name, value in (good | other).items() if value is not None}

    def bearer(self, **other: Any) -> str:
        """Return the header's value for a token with these claims."""
        return f"Bearer {self.key.sign(self.claims(**other))}"


@pytest.fixture(scope="session")
def keys() -> tuple[Key, Key]:
    """Make keys once, since that is slow."""
    return Key("first"), Key("second")


@pytest.fixture
def issuer(keys: tuple[Key, Key]) -> Iterator[Issuer]:
    """Return an issuer whose certificates are served."""
    made = Issuer(key=keys[0], other=keys[1], published=[keys[0]])

    def answer(_: Request) -> Reply:
        made.fetches += 1
        certificates = {key.name: key.certificate() for key in made.published}
        return Reply(body=made.content or json.dumps(certificates).encode(), status=made.status)

    with http_server(answer) as port:
        made.url = f"http://127.0.0.1:{port}/certs"
        yield made


@pytest.fixture
def google_certs(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the certificates of the tests' issuer in place of Google's."""
    monkeypatch.setattr(verify, "GOOGLE_CERTS", issuer.url)

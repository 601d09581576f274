"""The URLs of handlers, and the file with the secret from which they are derived."""

import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers import address
from cloudtasks_nb.handlers.address import bind_address, derive_address, name_from_url
from tests.raising import raises


def test_the_same_home_and_name_give_the_same_address(tmp_path: Path) -> None:
    """An address is derived from the home, its secret and the name, and from nothing else."""
    first, again, other = (derive_address(tmp_path, name) for name in ("report", "report", "other"))
    assert (first, first.path == other.path) == (again, False)
    assert all(20_000 <= one.port < 30_000 for one in (first, other))
    assert urlsplit(first.url).path == first.path
    assert first.url.startswith(f"http://127.0.0.1:{first.port}/report/")
    assert len(first.path.rsplit("/", 1)[1]) == 32


def test_an_address_outlives_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a home, its secret and a name is this one in every release: tasks that wait were sent there."""
    monkeypatch.setattr(address, "_secret", lambda _home: bytes(32))
    url = "http://127.0.0.1:28001/report/742c9983348e5740308aeb8ceeec9a61"
    assert derive_address(Path("/no/home"), "report").url == url


def test_two_homes_have_different_addresses(tmp_path: Path) -> None:
    """Two users of one machine have neither the same port nor the same path."""
    homes = [tmp_path / str(number) for number in range(20)]
    for home in homes:
        home.mkdir()
    found = [derive_address(home, "report") for home in homes]
    assert len({one.path for one in found}) == 20
    assert len({one.port for one in found}) > 15


def test_a_name_is_escaped_in_the_url_alone(tmp_path: Path) -> None:
    """A name with any characters makes a valid URL."""
    found = derive_address(tmp_path, "größe & ?#")
    assert urlsplit(found.url).query == ""
    assert unquote(urlsplit(found.url).path) == found.path
    assert found.url.isascii()


@pytest.mark.parametrize("name", ["report", "größe & ?#", "{a}"])
def test_the_name_of_an_address(tmp_path: Path, name: str) -> None:
    """A lasting address leads back to its name; another path, port or home does not."""
    url = derive_address(tmp_path, name).url
    (tmp_path / "other").mkdir()
    assert name_from_url(tmp_path, url) == name
    for other in (f"{url}?x=1", url.replace("127.0.0.1:2", "127.0.0.1:3"), f"{url[:-4]}0000", "https://svc/run"):
        assert name_from_url(tmp_path, other) is None
    assert name_from_url(tmp_path / "other", url) is None


def test_only_the_owner_can_read_the_secret(tmp_path: Path) -> None:
    """The secret's file is made with mode 0600, and brought back to it."""
    first = derive_address(tmp_path, "report")
    file = tmp_path / "handlers.key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    assert derive_address(tmp_path, "report") == first
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_secret_of_no_use_is_named(tmp_path: Path) -> None:
    """Half a secret would silently change every URL; one that cannot be read leads to the variable to set."""
    file = tmp_path / "handlers.key"
    file.write_bytes(b"short")
    with raises(HandlerError, "is damaged", resource=str(file)):
        derive_address(tmp_path, "report")
    file.unlink()
    file.mkdir()
    with raises(HandlerError, "cannot be read or written", hint="CLOUDTASKS_NB_HOME"):
        derive_address(tmp_path, "report")


def test_a_port_in_use_gives_a_new_address(tmp_path: Path) -> None:
    """A port on which something else listens is not shared."""
    first, held = bind_address(tmp_path, "report", lasting=True)
    with held:
        second, sock = bind_address(tmp_path, "report", lasting=True)
        with sock:
            assert (first.lasting, second.lasting) == (True, False)
            assert second.port == sock.getsockname()[1] != first.port
            assert second.path != first.path
    third, sock = bind_address(tmp_path, "report", lasting=True)
    sock.close()
    assert third == first


def test_temporary_addresses_need_no_secret(tmp_path: Path) -> None:
    """A temporary handler needs no secret, and its port is bound at once."""
    temporary, sock = bind_address(tmp_path, "lambda", lasting=False)
    with sock, socket.socket() as other:
        assert not (tmp_path / "handlers.key").exists()
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", temporary.port))

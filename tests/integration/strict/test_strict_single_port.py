"""`--strict --single-port`: TLS ends at the one port, and tokens and roles are those of two ports."""

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from cloudtasks_nb.testing import StrictEmulator, strict_emulator
from tests.integration.conftest import PATIENCE
from tests.integration.strict.test_strict_tokens import test_google_by_its_own_names

#: This test runs here, too: clients that know only Google's addresses reach both protocols through the proxy.
__all__ = ["test_google_by_its_own_names"]


@pytest.fixture(scope="module")
def started() -> Iterator[StrictEmulator]:
    """Run one strict emulator with one port for the file."""
    with strict_emulator("--single-port") as emulator:
        assert emulator.http == f"https://{emulator.grpc}"
        yield emulator


@pytest.mark.parametrize(("offered", "chosen"), [(["h2"], "h2"), (["h2", "http/1.1"], "http/1.1"), ([], None)])
def test_tls_chooses_the_protocol(emulator: StrictEmulator, offered: list[str], chosen: str | None) -> None:
    """A client that offers HTTP/1.1 gets it, since REST has no other; gRPC offers h2 alone, and gets it."""
    address = urlsplit(emulator.http)
    context = ssl.create_default_context(cafile=emulator.environment["REQUESTS_CA_BUNDLE"])
    if offered:
        context.set_alpn_protocols(offered)
    with (
        socket.create_connection((address.hostname or "", address.port or 0), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == chosen

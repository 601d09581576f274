"""`--single-port`: every client uses the same address, whatever protocol it speaks."""

import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, StartEmulator, Target, options

ONE_PORT = options("--single-port")


def connected(emulator: Emulator, stack: ExitStack) -> socket.socket:
    """Connect to the port, and send nothing."""
    host, _, port = emulator.http.rpartition(":")
    return stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))


@ONE_PORT
def test_both_protocols_have_one_address(emulator: Emulator, queue: str) -> None:
    """The ready line has the same host and port twice; what is created over gRPC is found over REST."""
    assert emulator.ready["http"] == f"http://{emulator.ready['grpc']}"
    assert emulator.request("GET", "/health") == {"status": "ok", "instance": emulator.ready["instance"]}
    assert emulator.request("GET", f"/v2/{queue}")["name"] == queue


@ONE_PORT
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_toolkit_connects(
    emulator: Emulator, target: Target, monkeypatch: pytest.MonkeyPatch, queue: str, protocol: str
) -> None:
    """`CLOUD_TASKS_EMULATOR_HOST` with that address is enough for `ct.connect`, its clock and its handlers' tokens."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.ready["grpc"])
    endpoint = None if protocol == "grpc" else emulator.ready["http"]
    with ct.connect("demo", "us-central1", endpoint=endpoint, transport=protocol) as tasks:
        tasks.queue(queue.rpartition("/")[2]).enqueue(target.url, {"day": "2013-01-01"})
        [received] = target.wait()
        assert received.body == b'{"day":"2013-01-01"}'
        assert tasks.certs_url == f"{emulator.ready['http']}/oauth2/v1/certs"


def test_silent_clients_do_not_delay_the_end(start_emulator: StartEmulator, stack: ExitStack) -> None:
    """A stop disconnects clients that have sent nothing, half a request, or gRPC's first bytes."""
    emulator = start_emulator("--single-port")
    silent, begun, half = (connected(emulator, stack) for _ in range(3))
    begun.sendall(b"PRI * HT")
    half.sendall(b"GET /health HTTP/1.1\r\n")
    assert list(emulator.client.list_queues(parent=LOCATION)) == []
    assert emulator.stop() == 0
    for client in (silent, begun, half):
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connected(emulator, stack)


def test_tls_clients_come_and_go_silently(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """A client of gRPC over TLS that ends its connection is disconnected, and the emulator complains of nothing."""
    emulator = start_emulator("--single-port", "--strict", "--data-dir", str(tmp_path))
    trusted = ssl.create_default_context(cafile=emulator.ready["ca"])
    host, _, port = emulator.ready["grpc"].rpartition(":")
    with trusted.wrap_socket(socket.create_connection((host, int(port)), PATIENCE), server_hostname=host) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert client.recv(1)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):  # not decrypted any more
            pass
    assert emulator.errors() == ""
    assert emulator.stop() == 0

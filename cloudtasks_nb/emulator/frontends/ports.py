"""Why an address cannot be listened on."""

from __future__ import annotations

import errno

from cloudtasks_nb.errors import EmulatorError, PortInUseError

__all__ = ["cannot_listen", "host_and_port"]


def host_and_port(host: str, port: int) -> str:
    """Return the two as one text; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(error: OSError, host: str, port: int, option: str) -> EmulatorError:
    """Return what to raise when `host` and `port` cannot be listened on; `option` chooses another port."""
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"port {port} is in use", resource=str(port), hint=f"choose another one: {option} 0 takes a free one"
        )
    address = host_and_port(host, port)
    return EmulatorError(f"cannot listen on {address}: {error.strerror or error}", resource=address)

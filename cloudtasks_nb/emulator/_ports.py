"""Why an address cannot be listened on."""

from __future__ import annotations

import errno

from cloudtasks_nb.errors import EmulatorError, PortInUseError

__all__ = ["cannot_listen"]


def cannot_listen(error: OSError, host: str, port: int, option: str) -> EmulatorError:
    """Return what to raise when `host` and `port` cannot be listened on; `option` chooses another port."""
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"port {port} is in use", resource=str(port), hint=f"choose another one: {option} 0 takes a free one"
        )
    return EmulatorError(f"cannot listen on {host}:{port}: {error.strerror or error}", resource=f"{host}:{port}")

"""Write down whoever is called outside this machine: loaded by every Python that the test server starts."""

import os
import sys
from typing import Any

_LOG = os.environ.get("OUTSIDE_CALLS")
_HERE = ("127.", "::1", "localhost", "0.0.0.0")  # noqa: S104 - compared with other hosts, not bound


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and not host.startswith(_HERE):
        with open(_LOG or os.devnull, "a", encoding="utf-8") as log:  # noqa: PTH123 - a hook imports as little as it can
            log.write(f"{event} {host}\n")


if _LOG:
    sys.addaudithook(_hook)

"""Let threads do something at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def at_once(work: Callable[[], Any], times: int = 2) -> list[Any]:
    """Do the same in several threads that begin together, and return what they return."""
    ready = threading.Barrier(times)

    def begin(_: int) -> Any:
        ready.wait()
        return work()

    with ThreadPoolExecutor(times) as pool:
        return [*pool.map(begin, range(times))]

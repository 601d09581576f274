"""When a call is repeated: after which codes, and after which pauses."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["LOST", "RETRIED", "RETRIED_SOME", "backoff"]

#: Codes after which it is not known whether the call was carried out.
LOST = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})

#: Codes after which the same request of a batch may succeed.
RETRIED = frozenset({"ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"})

#: Codes of a broken connection that may also be a lasting fault of the service: repeated a few times.
RETRIED_SOME = frozenset({"CANCELLED", "DATA_LOSS", "INTERNAL", "UNKNOWN"})


def backoff(*, first: float = 0.25, longest: float = 30.0) -> Iterator[float]:
    """Yield seconds to wait after each failure: a random number between 0 and a bound that doubles ("full jitter").

    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ for the reason.
    """
    bound = first
    while True:
        yield random.uniform(0, bound)  # noqa: S311 - jitter is no secret
        bound = min(longest, 2 * bound)

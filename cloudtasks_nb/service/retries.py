"""When a call is repeated: after which codes, and after which pauses."""

from __future__ import annotations

from google.api_core.retry import exponential_sleep_generator

__all__ = ["LOST", "RETRIED", "RETRIED_SOME", "backoff"]

#: Codes after which it is not known whether the call was carried out.
LOST = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})

#: Codes after which the same request of a batch may succeed.
RETRIED = frozenset({"ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"})

#: Codes of a broken connection that may also be a lasting fault of the service: repeated a few times.
RETRIED_SOME = frozenset({"CANCELLED", "DATA_LOSS", "INTERNAL", "UNKNOWN"})

#: Yields seconds to wait after each failure: a random number between 0 and a bound that doubles ("full jitter"), from a
#: first to a longest one: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
backoff = exponential_sleep_generator

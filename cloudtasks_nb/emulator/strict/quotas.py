"""Counts calls against the quotas of the services."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cloudtasks_nb.emulator.model.methods import Method, Quota
from cloudtasks_nb.emulator.strict.refusals import rate_limited

__all__ = ["Quotas"]

_MINUTE = 60.0


class Quotas:
    """Counts the calls of the last minute.

    Parameters
    ----------
    clock : callable
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[tuple[Quota, str, str], deque[float]] = {}

    def count(self, method: Method, project: str, resource: str) -> None:
        """Count a call.

        Raises
        ------
        RefusedError
            ``RESOURCE_EXHAUSTED`` if there were too many; then it is not counted.
        """
        quota = method.quota
        if quota is None:
            return
        parts = resource.split("/")
        region = parts[3] if parts[2:3] == ["locations"] and parts[3:] else "global"
        now, calls = self._clock(), self._calls.setdefault((quota, project, region), deque())
        while calls and calls[0] <= now - _MINUTE:
            calls.popleft()
        if len(calls) >= quota.value:
            raise rate_limited(
                method.host, project, metric=quota.metric, limit=quota.limit, value=quota.value, region=region
            )
        calls.append(now)

"""The quotas of the services (https://cloud.google.com/tasks/docs/quotas, https://cloud.google.com/logging/quotas)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cloudtasks_nb.emulator.access.permissions import Method
from cloudtasks_nb.emulator.access.refusals import rate_limited

__all__ = ["Quotas"]

_MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quota:
    metric: str
    limit: str
    value: int  #: calls a minute


_LISTS = _Quota(metric="List requests", limit="List requests per minute per region", value=600)
_RUNS = _Quota(metric="Run task requests", limit="Run task requests per minute per region", value=60)
_LOG_READS = _Quota(metric="Read requests", limit="Read requests per minute", value=60)
_OF = {
    "ListQueues": _LISTS,
    "ListTasks": _LISTS,
    "ListLocations": _LISTS,
    "RunTask": _RUNS,
    "ListLogEntries": _LOG_READS,
}


class Quotas:
    """Counts the calls of the last minute.

    Parameters
    ----------
    clock : callable
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[tuple[_Quota, str, str], deque[float]] = {}

    def count(self, method: Method, project: str, resource: str) -> None:
        """Count a call.

        Raises
        ------
        RefusedError
            ``RESOURCE_EXHAUSTED`` if there were too many; then it is not counted.
        """
        quota = _OF.get(method.name)
        if quota is None:
            return
        parts = resource.split("/")
        region = parts[3] if parts[2:3] == ["locations"] and parts[3:] else "global"
        now, calls = self._clock(), self._calls.setdefault((quota, project, region), deque())
        while calls and calls[0] <= now - _MINUTE:
            calls.popleft()
        if len(calls) >= quota.value:
            raise rate_limited(
                method.service, project, metric=quota.metric, limit=quota.limit, value=quota.value, region=region
            )
        calls.append(now)

"""The message classes of the APIs as plain protobuf: proto-plus objects cost ten times the rest of a call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from google.cloud.logging_v2.types import log_entry, logging
from google.cloud.tasks_v2 import types as types_v2
from google.cloud.tasks_v2beta3 import types as types_beta
from google.cloud.tasks_v2beta3.types import queue as queue_beta

__all__ = ["beta", "logs", "v2"]


def _plain(module: Any) -> SimpleNamespace:
    """Return the protobuf classes behind a module's proto-plus classes, by their names."""
    wrappers = {name: getattr(module, name) for name in module.__all__}
    return SimpleNamespace(**{name: cls.pb() for name, cls in wrappers.items() if hasattr(cls, "pb")})


v2: Any = _plain(types_v2)
beta: Any = _plain(types_beta)
beta.QueueStats = queue_beta.QueueStats.pb()
logs: Any = SimpleNamespace(
    LogEntry=log_entry.LogEntry.pb(),
    ListLogEntriesRequest=logging.ListLogEntriesRequest.pb(),
    ListLogEntriesResponse=logging.ListLogEntriesResponse.pb(),
)

"""ListLogEntries over the operations log."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.emulator.api.entries import PARTS, Entries
from cloudtasks_nb.emulator.api.filter import And, Compare, Node, Or, compile_filter, parse_filter, parse_time
from cloudtasks_nb.emulator.api.pages import page_token, read_number
from cloudtasks_nb.emulator.model.clock import Clock
from cloudtasks_nb.emulator.model.pb import logs
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.wire import len_field
from cloudtasks_nb.emulator.store.oplog import Kind, Record
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["LogCalls"]

_DEFAULT_PAGE, _MAX_PAGE = 50, 1000
# A call looks at so many entries; then it answers with what it found and a token, as Cloud Logging does.
_MAX_SCANNED = 100_000
_ORDERS = {"": True, "timestamp": True, "timestamp asc": True, "timestamp desc": False}
_PROJECT = re.compile(r"projects/([^/]+)(/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What an entry must be at least to pass a filter; the filter itself decides."""

    since: int = 0  #: microseconds since 1970
    received_since: int = 0
    kinds: frozenset[int] = frozenset(kind.value for kind in Kind)
    queues: frozenset[str] | None = None  #: short ids; None is any


class LogCalls:
    """Answers the calls of Cloud Logging that read the operations log.

    Parameters
    ----------
    store : Store
        Whose log.
    clock : Clock
        Entries that were received later than now are not there yet.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def list_log_entries(self, wire: bytes) -> bytes:
        """Return a page of entries."""
        request = logs.ListLogEntriesRequest.FromString(wire)
        ascending = _ORDERS.get(request.order_by)
        if ascending is None:
            raise RefusedError("INVALID_ARGUMENT", f'order_by "{request.order_by}" is not supported.')
        if request.page_size < 0:
            raise RefusedError("INVALID_ARGUMENT", "page_size cannot be negative.")
        node = parse_filter(request.filter)
        entries = Entries(self._store.contents.names)
        keep, scope = compile_filter(node, entries.getter), _scope(node)
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        query = hashlib.sha256(f"{list(request.resource_names)}{request.filter}{request.order_by}".encode()).hexdigest()
        queues = self._queues(request.resource_names, scope)
        start = read_number(request.page_token, query)
        found: list[bytes] = []
        last = 0
        records = self._records(scope, queues, start, ascending=ascending)
        for record in itertools.islice(records, _MAX_SCANNED):
            last = record.seq
            if keep(record):
                found.append(len_field(1, entries.wire(record)))
                if len(found) == size:
                    break
        more = next(records, None) is not None
        return b"".join(found) + (len_field(2, page_token(str(last), query).encode()) if more else b"")

    def _queues(self, resources: Any, scope: _Scope) -> list[int]:
        projects = {match[1] for resource in resources if (match := _PROJECT.fullmatch(resource))}
        if not projects or len(projects) < len({resource.split("/")[1] for resource in resources if "/" in resource}):
            raise RefusedError("INVALID_ARGUMENT", "resource_names must name projects.")
        chosen = []
        for q, name in self._store.contents.names.items():
            queue = QueueName.parse(name)
            if queue.project in projects and (scope.queues is None or queue.queue.casefold() in scope.queues):
                chosen.append(q)
        return chosen

    def _records(self, scope: _Scope, queues: list[int], start: int, *, ascending: bool) -> Iterator[Record]:
        """Return the entries that may pass, in order of time."""
        # An entry is received at most the longest delay after its time, and its place is not before its time.
        low = max(scope.since, scope.received_since - self._store.log.longest_delay, 0)
        high = (1 << 62) - 1
        if start and ascending:
            low = start + 1
        elif start:
            high = start - 1
        return self._store.log.read(
            low, high, queues=queues, kinds=scope.kinds, now=self._clock.now(), ascending=ascending
        )


def _scope(node: Node) -> _Scope:
    """Read from a filter what all entries that pass it have in common."""
    parts = node.nodes if isinstance(node, And) else (node,)
    since = received = 0
    kinds, queues = _Scope().kinds, None
    for part in parts:
        if isinstance(part, Compare) and part.op in {">", ">=", "="}:
            if part.path == ("timestamp",):
                since = max(since, parse_time(part.value) // 1000)
            elif part.path in {("receiveTimestamp",), ("receive_timestamp",)}:
                received = max(received, parse_time(part.value) // 1000)
            elif part.path == ("resource", "labels", "queue_id") and part.op == "=":
                named = frozenset([part.value.casefold()])
                queues = named if queues is None else queues & named
        kinds &= _kinds(part)
    return _Scope(since=since, received_since=received, kinds=kinds, queues=queues)


def _kinds(node: Node) -> frozenset[int]:
    """Return the kinds of entries that can pass."""
    every = _Scope().kinds
    if isinstance(node, Or):
        return frozenset().union(*map(_kinds, node.nodes))
    if isinstance(node, And):
        return every.intersection(*map(_kinds, node.nodes))
    if isinstance(node, Compare) and len(node.path) > 1 and node.path[0] in {"jsonPayload", "json_payload"}:
        kind = PARTS.get(node.path[1])
        return every if kind is None else frozenset([kind.value])
    return every

"""The part of a client that panels use: its connection, queues and batches, and whether they may change anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, Unpack

import pandas as pd

from cloudtasks_nb._frames import QUEUES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QueueKeywords
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.panels.forms.code import ASK, quoted
from cloudtasks_nb.service.connection import Connection

__all__ = ["PanelContext", "QueueVerbs"]


class QueueVerbs(Protocol):
    """The methods of `cloudtasks_nb.Queue` that panels call."""

    def pause(self) -> object:
        """Stop dispatching."""

    def resume(self) -> object:
        """Dispatch again."""

    def purge(self) -> object:
        """Delete all tasks."""

    def update(self, **settings: Unpack[QueueKeywords]) -> object:
        """Change settings."""

    def run(self, df: Any) -> pd.DataFrame:
        """Dispatch tasks now."""

    def delete_tasks(self, df: Any) -> pd.DataFrame:
        """Delete tasks."""

    def enqueue(self, *args: Any, **words: Any) -> pd.DataFrame:
        """Create a task."""

    def fan_out(self, *args: Any, **words: Any) -> Any:
        """Plan or send a task for each row."""

    def backfill(self, *args: Any, **words: Any) -> Any:
        """Plan or send a task for each period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelContext:
    """The connection, queues and batches that a panel works with."""

    connection: Connection
    catalog: Catalog
    open_queue: Callable[[QueueName], QueueVerbs]  #: returns a queue by its full name
    queues: Callable[[], pd.DataFrame]  #: lists the queues to show, in a frame like that of `tasks.queues()`
    read_only: bool = False
    tz: Any = None  #: the zone of times; None: that of the browser
    create: Callable[[str], object] | None = None  #: makes a queue of this short name; None: of one queue only
    new_settings: Mapping[str, Any] = field(default_factory=dict)  #: what `create` sets

    @classmethod
    def of_queue(cls, name: QueueName, *, connection: Connection, **fields: Any) -> Self:
        """Return a context with a single queue, and other `fields`."""

        def queues() -> pd.DataFrame:
            values = connection.wait_for(lambda: connection.watcher.read_queue(name))
            return frame(QUEUES, {word: [value] for word, value in values.items()}, index="queue")

        return cls(connection=connection, queues=queues, **fields)

    @property
    def local(self) -> bool:
        """Whether the connection is to an emulator."""
        return self.connection.endpoint.local

    @property
    def badge(self) -> str:
        """The text of the badge: LOCAL for an emulator, else the project."""
        return "LOCAL" if self.local else f"{self.connection.endpoint.project}"

    def name(self, queue: str) -> QueueName:
        """Return the full name of a queue from its short (or full) name."""
        return QueueName.parse(queue if "/" in queue else f"{self.connection.endpoint.parent()}/queues/{queue}")

    def queue(self, queue: str) -> QueueVerbs:
        """Return a queue by its short (or full) name."""
        return self.open_queue(self.name(queue))

    def line(self, queue: str, verb: str, *args: Any, **words: Any) -> str:
        """Return the line of Python that calls a method of a queue: ``tasks.queue("reports").update(rate=5)``."""
        parts = [*map(quoted, args), *(f"{word}={quoted(value)}" for word, value in words.items())]
        line = f"tasks.queue({quoted(queue)}).{verb}({', '.join(parts)})"
        return f"import {ASK.partition('.')[0]}; {line}" if ASK in line else line

"""The queues that a panel watches, with what could not be read and when; and the banner while nothing answers."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.times import time_html
from cloudtasks_nb.errors import CloudTasksError, EndpointError
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.watch import Snapshot, Subscription, Watcher

__all__ = ["Banner", "Watching"]


class Watching:
    """Watches queues for one panel. Its methods may be called from any thread.

    Parameters
    ----------
    watcher : Watcher
    listener : callable
        Called on the background loop with each snapshot of a queue that is watched then.
    """

    def __init__(self, watcher: Watcher, listener: Callable[[Snapshot], object]) -> None:
        self._watcher, self._listener = watcher, listener
        self._lock = threading.RLock()
        self._subscriptions: dict[QueueName, Subscription] = {}
        self._read: dict[QueueName, float] = {}  # when each was read last, also of those that are watched no more
        self.last = 0.0  #: when the service answered last, seconds since 1970; 0: not yet
        self.unreachable = False  #: whether nothing answers at the endpoint, by the newest snapshot
        self.showing_unreachable = False  #: whether the error that the panel shows says that the service did not answer
        self._errors: dict[QueueName, tuple[CloudTasksError, ...]] = {}  # of the newest snapshot of each

    def update(self, wanted: Mapping[QueueName, int | None], every: float) -> None:
        """Watch these queues and no others, each with the time from which to read its log."""
        with self._lock:
            for queue, subscription in list(self._subscriptions.items()):
                if wanted.get(queue, -1) != subscription.since or subscription.every != every:
                    self._subscriptions.pop(queue).close()
            for queue, since in wanted.items():
                if queue not in self._subscriptions:
                    self._subscriptions[queue] = self._watcher.subscribe(
                        queue, self._received, since=since, every=every
                    )

    def record_answer(self, at: float, queue: QueueName | None = None) -> None:
        """Record that the service answered at a time, in seconds since 1970; with a queue, that its state was read."""
        with self._lock:
            self.last = max(at, self.last)
            if queue is not None:
                self._read[queue] = max(at, self._read.get(queue, 0.0))

    @property
    def at(self) -> float:
        """When the oldest of the shown data was read, seconds since 1970; 0: nothing was read yet."""
        with self._lock:
            return min((self._read[queue] for queue in self._subscriptions if queue in self._read), default=0.0)

    @property
    def warning(self) -> str:
        """What could not be read, and what helps."""
        with self._lock:
            found = [error for queue in self._subscriptions for error in self._errors.get(queue, ())]
        return "; ".join(dict.fromkeys(map(_one_line, found)))

    def _received(self, snapshot: Snapshot) -> None:
        with self._lock:
            if snapshot.queue not in self._subscriptions:
                return
            self._errors[snapshot.queue] = snapshot.errors
            self.unreachable = any(isinstance(error, EndpointError) for error in snapshot.errors)
            if not snapshot.errors:
                self._read[snapshot.queue] = self.last = snapshot.at / 1e6
        self._listener(snapshot)


def _one_line(error: CloudTasksError) -> str:
    return error.message if error.hint is None else f"{error.message} \u2192 {error.hint}"


class Banner(widgets.HBox):
    """Says since when nothing answers; hidden while the service answers.

    Parameters
    ----------
    endpoint : Endpoint
        What does not answer.
    again : Button, optional
        Starts the emulator again.
    """

    def __init__(self, endpoint: Endpoint, again: widgets.Button | None = None) -> None:
        self._endpoint = endpoint
        self.text = widgets.HTML()
        super().__init__([self.text, *([again] if again else [])])
        self.add_class("ctn-banner")
        self.hide()

    @property
    def shown(self) -> bool:
        """Whether it can be seen."""
        return self.layout.display is None

    def show(self, since: float) -> None:
        """Say that nothing has answered since a time, in seconds since 1970; 0: it is not known since when."""
        what = "The emulator" if self._endpoint.local else "Cloud Tasks"
        when = f" since {time_html(datetime.fromtimestamp(since, UTC))}" if since else ""
        then = "Figures are of then. " if since else ""
        rest = html.escape(then + self._consequence())
        self.text.value = f'<div role="alert"><b>{what} does not answer{when}.</b> {rest}</div>'
        self.layout.display = None

    def hide(self) -> None:
        """Say nothing."""
        self.layout.display, self.text.value = "none", ""

    def _consequence(self) -> str:
        if self._endpoint.folder is not None:
            return "Its tasks are safe in the folder."
        if self._endpoint.http is not None:
            return "It was temporary, so its tasks are lost: run the cells again from ct.local() on."
        if self._endpoint.local:
            return f"Start it again at {self._endpoint.target}."
        return "The tasks are safe there."

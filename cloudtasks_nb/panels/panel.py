"""What all panels share.

How to write one::

    class QueuesPanel(Panel):
        def __init__(self, context: PanelContext, *, framed: bool = True) -> None:
            super().__init__(context, "Queues", framed=framed)
            self.table = self.hold(Table([Column("queue"), Column("state", kind="state")], key="queue"))
            self.pause = self.button("Pause", self._pause, changes=True, tip="Stop dispatching")
            self.fill(self.row(self.pause), self.prompt, self.table)

        def watched(self):                    # whose snapshots `apply` gets, while somebody sees the panel
            return {self.context.name("reports"): None}

        def apply(self, snapshot):            # on the background loop: quick, no call that waits
            self.table.patch(...)

        def refresh(self):                    # read anew what is shown; may wait
            self.table.load(self.context.queues())

        def static(self):                     # what an export shows
            return self.table.html()

        def _pause(self):                     # a click, in a thread of its own: may wait, may raise
            self.context.queue("reports").pause()
            self.notify("paused reports", line=self.context.line("reports", "pause"))

- A click runs `work` in a thread of its own, one at a time for a panel; its buttons are disabled meanwhile. What the
  verbs say and how far they are stands in the foot. With ``quick=True`` it runs where the click came, for what only
  changes the screen or asks with `ask`.
- Whatever raises is shown in the foot: from `button` and `control` callbacks, from `apply`, from `spawn`, from held
  tables. Code that is called in another way goes through `guarded`.
- What changes anything is a button with ``changes=True``, laid out by `row`: `read_only` leaves it out and blocks it.
- Traits may be set from any thread. A panel never polls: `watched` and `apply`, or `wake` when it comes into sight.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.panels.acting import Acting
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.service.watch import Snapshot, Subscription

__all__ = ["PACES", "Panel"]

#: Seconds between two looks, as offered; 0 is off.
PACES = (("off", 0.0), ("1 s", 1.0), ("2 s", 2.0), ("5 s", 5.0), ("10 s", 10.0), ("30 s", 30.0))
_LOCAL_PACE, _GOOGLE_PACE = 2.0, 5.0


class Panel(Acting):
    """One panel; `refresh()` reads anew what it shows, `close()` ends it.

    Parameters
    ----------
    context : PanelContext
        The connection, and whether anything may be changed.
    title : str
        What stands in its header.
    queue : str, optional
        Short id of the queue that it is about.
    framed : bool
        False: a part of a larger panel, which has header, pace and refresh button for it.

    What a panel does on a click it has from `Acting`: `button`, `row`, `ask`, `spawn`, `tell` and so on.
    """

    def __init__(self, context: PanelContext, title: str, *, queue: str | None = None, framed: bool = True) -> None:
        self.context = context
        self.queue = queue
        self._framed = framed
        self._closed = False
        self._every = _LOCAL_PACE if context.local else _GOOGLE_PACE
        self._lock = threading.RLock()  # over the subscriptions, and over what a panel keeps of its own
        self._subscriptions: dict[QueueName, Subscription] = {}
        self._pace = widgets.Dropdown(options=PACES, value=self._every, description="Every", layout={"width": "auto"})
        self._pace.tooltip = "How often what is shown is read anew while it is seen"
        super().__init__(title, read_only=context.read_only)
        self.add_class("ctn-panel")
        self.footer.on_visible = self._seen

    # What a panel has of its own.

    def watched(self) -> Mapping[QueueName, int | None]:
        """Return the queues to watch; with each, from when on its log is read (microseconds since 1970), or None."""
        return {}

    def apply(self, snapshot: Snapshot) -> None:
        """Show what the watcher saw. On the background loop: quick, and no call that waits."""

    def wake(self) -> None:
        """Do what is to be done when the panel comes into sight; must not wait: `spawn`."""

    def switched(self) -> None:
        """Show what there is of another queue, `self.queue`; must not wait: `spawn`."""

    def paced(self) -> None:
        """Do what is to be done when `every` has changed."""

    def refresh(self) -> None:
        """Read anew what is shown."""
        self.look()

    def static(self) -> str:
        """Return what is shown as HTML that needs no kernel; everything escaped."""
        return ""

    # What panels use.

    def fill(self, *parts: widgets.Widget, controls: tuple[widgets.Widget, ...] = ()) -> None:
        """Lay the panel out: its parts from top to bottom; `controls` stand in the header.

        Questions are asked where `self.prompt` stands among the parts, best below the buttons that ask; else below all.
        """
        head = [self._header(controls)] if self._framed else []
        prompt = [] if self.prompt in parts else [self.prompt]
        self.children = [*head, *parts, *prompt, self.footer]

    def hold(self, table: Table) -> Table:
        """Show here what the callbacks of a table raise."""
        table.on_error = self.fail
        return table

    def use(self, queue: str | None) -> None:
        """Be about another queue."""
        if queue != self.queue:
            self.queue = queue
            self.prompt.hide()
            self.footer.alert, self.footer.status, self.footer.at = {}, "", 0.0
            self.rewatch()
            self.guarded(self.switched)

    def look(self) -> None:
        """Have the watcher look at the watched queues as soon as it can."""
        for queue in self.watched():
            self.context.watcher.refresh(queue)

    def rewatch(self) -> None:
        """Watch what `watched` returns now, if anybody sees the panel; to be called when that has changed."""
        with self._lock:
            wanted = dict(self.watched()) if self.live else {}
            for queue, subscription in list(self._subscriptions.items()):
                if wanted.get(queue, -1) != subscription.since or subscription.every != self._every:
                    self._subscriptions.pop(queue).close()
            for queue, since in wanted.items():
                if queue not in self._subscriptions:
                    self._subscriptions[queue] = self.context.watcher.subscribe(
                        queue, self._hear, since=since, every=self._every
                    )

    # What everybody uses.

    @property
    def live(self) -> bool:
        """Whether it is being refreshed: somebody sees it, and refreshing is not off."""
        return not self._closed and self.footer.visible and self._every > 0

    @property
    def every(self) -> float:
        """Seconds between two looks, 1 to 30; 0 is off."""
        return self._every

    @every.setter
    def every(self, seconds: float) -> None:
        if seconds and not 1 <= seconds <= 30:  # noqa: PLR2004 - as the message says
            raise InvalidInputError(f"every={seconds!r} is not 1 to 30 seconds", hint="0 is off")
        self._every = float(seconds)
        self._offer_pace()
        self.footer.rest = "" if seconds else "refreshing is off"
        self.rewatch()
        self.paced()

    def shown(self) -> None:
        """Take it that somebody sees the panel, until a browser tells: in a long cell it cannot."""
        if not self.footer.heard:
            self.footer.see(visible=True)

    def renew(self) -> None:
        """Begin to `refresh`, in a thread of its own: what the Refresh button does."""
        self.start(self.refresh, changes=False)

    def close(self) -> None:
        """End it: nothing is watched any more, and what is on the screen goes."""
        if getattr(self, "_closed", True):  # also when it was never finished, or is collected
            return
        self._closed = True
        self.rewatch()
        self.end(self._pace)
        super().close()
        # ipywidgets takes it away from a closed widget, so that showing one would raise a TypeError.
        self.__dict__.pop("_repr_mimebundle_", None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title} [{self.context.badge}]{' (closed)' if self._closed else ''}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        title = f"<div><b>{html.escape(self.title)}</b> {_badge(self.context.badge)}</div>" if self._framed else ""
        if self._closed:
            return {"text/plain": repr(self), "text/html": f"{title}<div>(closed)</div>{self.static()}"}
        bundle = super()._repr_mimebundle_(**options)
        self.shown()
        bundle["text/html"] = title + self.static()  # for exports and viewers that have no kernel
        return bundle

    def _header(self, controls: tuple[widgets.Widget, ...]) -> widgets.HBox:
        pace = self._pace
        self.control(pace, self._choose_pace)
        again = self.button("Refresh", self.renew, changes=False, quick=True, tip="Read anew what is shown")
        kind = "local" if self.context.local else "google"
        badges = _badge(self.context.badge, kind) + (_badge("read-only", "quiet") if self.context.read_only else "")
        title = widgets.HTML(f'<span class="ctn-heading">{html.escape(self.title)}</span>{badges}')
        return widgets.HBox([title, widgets.HBox([*controls, pace, again]).add_class("ctn-row")]).add_class(
            "ctn-header"
        )

    def _offer_pace(self) -> None:
        """Show the present pace as chosen, also one that was not offered."""
        pace, every = self._pace, self._every
        if every not in dict(pace.options).values():
            pace.options = (*PACES, (f"{every:g} s", every))  # which chooses the first
            self._every = every
        pace.value = every

    def _choose_pace(self) -> None:
        if self._pace.value != self._every:
            self.every = self._pace.value

    def _seen(self) -> None:
        if self.footer.visible:
            self.guarded(self.wake)
        self.guarded(self.rewatch)

    def _hear(self, snapshot: Snapshot) -> None:
        if snapshot.queue not in self._subscriptions:
            return  # what was watched before
        self.footer.trouble = "; ".join(_trouble(error) for error in snapshot.errors)
        self.guarded(self.apply, snapshot)
        if not snapshot.errors:
            self.footer.at = snapshot.at / 1e6


def _trouble(error: CloudTasksError) -> str:
    return error.message if error.hint is None else f"{error.message} \u2192 {error.hint}"


def _badge(text: str, kind: str = "quiet") -> str:
    return f'<span class="ctn-badge ctn-{kind}">{html.escape(text)}</span>'

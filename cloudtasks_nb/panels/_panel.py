"""What all panels share.

How to write one::

    class QueuesPanel(Panel):
        def __init__(self, scene: Scene, *, framed: bool = True) -> None:
            super().__init__(scene, "Queues", framed=framed)
            self.table = self.hold(Table([Column("queue"), Column("state", kind="state")], key="queue"))
            self.pause = self.button("Pause", self._pause, changes=True, tip="Stop dispatching")
            self.fill(self.row(self.pause), self.table)

        def watched(self):                    # whose snapshots `apply` gets, while somebody sees the panel
            return {self.scene.name("reports"): None}

        def apply(self, snapshot):            # on the background loop: quick, no call that waits
            self.table.patch(...)

        def refresh(self):                    # read anew what is shown; may wait
            self.table.load(self.scene.queues())

        def static(self):                     # what an export shows
            return self.table.html()

        def _pause(self):                     # a click, in a thread of its own: may wait, may raise
            self.scene.queue("reports").pause()
            self.tell("paused reports", line=self.scene.line("reports", "pause"))

- A click runs `work` in a thread of its own, one at a time for a panel; its buttons are disabled meanwhile. What the
  verbs say and how far they are stands in the foot. With ``quick=True`` it runs where the click came, for what only
  changes the screen or asks with `ask`.
- Whatever raises is shown in the foot: from `button` and `control` callbacks, from `apply`, from `spawn`, from held
  tables. Code that is called in another way goes through `guarded`.
- What changes anything is a button with ``changes=True``, laid out by `row`: `read_only` leaves it out and blocks it.
- Traits may be set from any thread. A panel never polls: `watched` and `apply`, or `wake` when it comes into sight.
"""

from __future__ import annotations

import concurrent.futures
import html
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ipywidgets as widgets

from cloudtasks_nb import _loop
from cloudtasks_nb._listener import Listener, hearing
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._watch import Snapshot, Subscription
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.panels._prompt import Prompt, Question
from cloudtasks_nb.panels._scene import Scene
from cloudtasks_nb.panels._table import Table
from cloudtasks_nb.panels._told import Told

__all__ = ["PACES", "Panel"]

T = TypeVar("T", bound=widgets.Widget)

#: Seconds between two looks, as offered; 0 is off.
PACES = (("off", 0.0), ("1 s", 1.0), ("2 s", 2.0), ("5 s", 5.0), ("10 s", 10.0), ("30 s", 30.0))
_LOCAL_PACE, _GOOGLE_PACE = 2.0, 5.0


@dataclass(slots=True, kw_only=True)
class _Knob:
    work: Callable[[], object]
    changes: bool = False
    quick: bool = False
    able: bool = True  # when the panel is not busy


class Panel(widgets.VBox):
    """One panel; `refresh()` reads anew what it shows, `close()` ends it.

    Parameters
    ----------
    scene : Scene
        The connection, and whether anything may be changed.
    title : str
        What stands in its header.
    queue : str, optional
        Short id of the queue that it is about.
    framed : bool
        False: a part of a larger panel, which has header, pace and refresh button for it.

    Attributes
    ----------
    told : Told
        The foot: status, error, line of Python, age.
    prompt : Prompt
        The question that is being asked, if any.
    stopping : threading.Event
        Set when what goes on shall stop: long `work` looks at it between its steps.
    """

    def __init__(self, scene: Scene, title: str, *, queue: str | None = None, framed: bool = True) -> None:
        self.scene = scene
        self.queue = queue
        self.told = Told()
        self.prompt = Prompt()
        self.prompt.on_change = self._asks
        self.title = title
        self._framed = framed
        self._closed = False
        self._every = _LOCAL_PACE if scene.local else _GOOGLE_PACE
        self._busy = threading.Lock()
        self._lock = threading.RLock()  # over the subscriptions
        self._knobs: dict[widgets.Button, _Knob] = {}
        self._stop = widgets.Button(description="Stop", layout={"width": "auto", "display": "none"})
        self.stopping = threading.Event()
        self._subscriptions: dict[QueueName, Subscription] = {}
        self._pending: set[concurrent.futures.Future[Any]] = set()
        super().__init__()
        self.add_class("ctn-panel")
        self.told.on_visible = self._seen

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
        """Lay the panel out: its parts from top to bottom; `controls` stand in the header."""
        head = [self._header(controls)] if self._framed else []
        self.children = [*head, *parts, self.prompt, self.told]

    def button(
        self,
        text: str,
        work: Callable[[], object],
        *,
        changes: bool,
        tip: str | None = None,
        look: str = "",
        quick: bool = False,
    ) -> widgets.Button:
        """Make a button that does `work`.

        Parameters
        ----------
        text : str
        work : callable
            Runs in a thread of its own; what it raises is shown.
        changes : bool
            Whether it changes anything that lasts: `read_only` leaves such buttons out and blocks them.
        tip : str, optional
            More about it, as a tooltip.
        look : {"", "primary", "danger"}
        quick : bool
            Run it in the thread of the click: only for what does not wait.
        """
        made = widgets.Button(description=text, tooltip=tip, button_style=look, layout={"width": "auto"})
        self._knobs[made] = _Knob(work=work, changes=changes, quick=quick)
        made.on_click(self._clicked)
        return made

    def stop_button(self) -> widgets.Button:
        """Make a button that is seen while something goes on, and sets `stopping`."""
        self._stop.on_click(lambda _: self.stopping.set())
        return self._stop

    def control(self, widget: T, changed: Callable[[], object]) -> T:
        """Call `changed` when the value of a field changes, in the thread of the change; what it raises is shown."""
        widget.observe(lambda _: self.guarded(changed), "value")
        return widget

    def hold(self, table: Table) -> Table:
        """Show here what the callbacks of a table raise."""
        table.on_error = self.fail
        return table

    def row(self, *parts: widgets.Widget) -> widgets.HBox:
        """Put widgets side by side, without those that change anything if that is not allowed."""
        shown = [
            part for part in parts if not (self.scene.read_only and part in self._knobs and self._knobs[part].changes)
        ]
        return widgets.HBox(shown).add_class("ctn-row")

    def able(self, button: widgets.Button, yes: bool) -> None:  # noqa: FBT001 - able(button, bool(keys)) reads well
        """Say whether a button can be clicked when nothing else goes on."""
        self._knobs[button].able = yes
        button.disabled = self.told.busy or not yes

    def tell(self, status: str, *, line: str | None = None) -> None:
        """Say what was done, with the line of Python that does the same."""
        self.told.status = status
        if line is not None:
            self.told.line = line

    def fail(self, error: BaseException) -> None:
        """Show an error."""
        self.told.fail(error)

    def guarded(self, work: Callable[..., object], *args: Any) -> None:
        """Call something, and show what it raises."""
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, the person at the screen must see it
            self.fail(error)

    def ask(self, question: Question, work: Callable[[], object]) -> None:
        """Ask before `work`, which changes something, is done as by a button."""
        self.check_changes()
        self.prompt.show(question, lambda: self.start(work, changes=True))

    def start(self, work: Callable[[], object], changes: bool) -> None:  # noqa: FBT001 - _clicked passes it on
        """Do `work` in a thread of its own, with the buttons disabled; one at a time."""
        if changes:
            self.check_changes()
        if not self._busy.acquire(blocking=False):
            self.told.status = "still busy with what was clicked before"
            return
        self.told.alert = {}
        self.stopping.clear()
        self._set_busy(on=True)
        done = self._track(concurrent.futures.Future())
        threading.Thread(target=self._work, args=(work, done), name=f"cloudtasks-nb {self.title}", daemon=True).start()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the background loop; what it raises is shown."""
        self._track(_loop.submit(work)).add_done_callback(self._spawned)

    def check_changes(self) -> None:
        """Raise InvalidInputError if nothing may be changed from here."""
        if self.scene.read_only:
            raise InvalidInputError("this panel is read-only", hint="open it without read_only=True to change anything")

    def use(self, queue: str | None) -> None:
        """Be about another queue."""
        if queue != self.queue:
            self.queue = queue
            self.prompt.hide()
            self.told.alert, self.told.status, self.told.at = {}, "", 0.0
            self.rewatch()
            self.guarded(self.switched)

    def look(self) -> None:
        """Have the watcher look at the watched queues as soon as it can."""
        for queue in self.watched():
            self.scene.watcher.look_now(queue)

    def rewatch(self) -> None:
        """Watch what `watched` returns now, if anybody sees the panel; to be called when that has changed."""
        with self._lock:
            wanted = dict(self.watched()) if self.live else {}
            for queue, subscription in list(self._subscriptions.items()):
                if wanted.get(queue, -1) != subscription.since or subscription.every != self._every:
                    self._subscriptions.pop(queue).close()
            for queue, since in wanted.items():
                if queue not in self._subscriptions:
                    self._subscriptions[queue] = self.scene.watcher.subscribe(
                        queue, self._hear, since=since, every=self._every
                    )

    # What everybody uses.

    @property
    def live(self) -> bool:
        """Whether it is being refreshed: somebody sees it, and refreshing is not off."""
        return self.told.visible and self._every > 0 and not self._closed

    @property
    def every(self) -> float:
        """Seconds between two looks, 1 to 30; 0 is off."""
        return self._every

    @every.setter
    def every(self, seconds: float) -> None:
        if seconds and not 1 <= seconds <= 30:  # noqa: PLR2004 - as the message says
            raise InvalidInputError(f"every={seconds!r} is not 1 to 30 seconds", hint="0 is off")
        self._every = float(seconds)
        self.told.rest = "" if seconds else "refreshing is off"
        self.rewatch()
        self.paced()

    def renew(self) -> None:
        """Begin to `refresh`, in a thread of its own: what the Refresh button does."""
        self.start(self.refresh, changes=False)

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until nothing goes on that was begun here."""
        deadline = time.monotonic() + timeout
        while self._pending:
            concurrent.futures.wait(list(self._pending), timeout=max(0.0, deadline - time.monotonic()))
            if self._pending and time.monotonic() > deadline:
                raise TimeoutError(f"{self.title} is still at work after {timeout:g} s")

    def close(self) -> None:
        """End it: nothing is watched any more, and what is on the screen goes."""
        if getattr(self, "_closed", True):  # also when it was never finished, or is collected
            return
        self._closed = True
        self.rewatch()
        for future in list(self._pending):
            future.cancel()
        for child in self.children:
            _close(child)
        super().close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title} [{self.scene.badge}]>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        title = f"<div><b>{html.escape(self.title)}</b> {_badge(self.scene.badge)}</div>" if self._framed else ""
        bundle["text/html"] = title + self.static()  # for exports and viewers that have no kernel
        return bundle

    def _header(self, controls: tuple[widgets.Widget, ...]) -> widgets.HBox:
        pace = widgets.Dropdown(options=PACES, value=self._every, description="Every", layout={"width": "auto"})
        pace.tooltip = "How often what is shown is read anew while it is seen"
        self.control(pace, lambda: setattr(self, "every", pace.value))
        again = self.button("Refresh", self.renew, changes=False, quick=True, tip="Read anew what is shown")
        kind = "local" if self.scene.local else "google"
        badges = _badge(self.scene.badge, kind) + (_badge("read-only", "quiet") if self.scene.read_only else "")
        title = widgets.HTML(f'<span class="ctn-heading">{html.escape(self.title)}</span>{badges}')
        return widgets.HBox([title, widgets.HBox([*controls, pace, again]).add_class("ctn-row")]).add_class(
            "ctn-header"
        )

    def _clicked(self, button: widgets.Button) -> None:
        knob = self._knobs[button]
        self.guarded(self._do if knob.quick else self.start, knob.work, knob.changes)

    def _do(self, work: Callable[[], object], changes: bool) -> None:  # noqa: FBT001 - as for start
        if changes:
            self.check_changes()
        work()

    def _work(self, work: Callable[[], object], done: concurrent.futures.Future[Any]) -> None:
        self.told.status = ""
        try:
            with hearing(Listener(said=self.tell, moved=self._moved)):
                work()
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it
            self.fail(error)
        finally:
            self._set_busy(on=False)
            self._busy.release()
            self._pending.discard(done)
            done.set_result(None)

    def _moved(self, what: str, count: int, total: int | None) -> None:
        self.told.status = f"{what}: {count:,}" + ("" if total is None else f" of {total:,}")

    def _set_busy(self, *, on: bool) -> None:
        for button, knob in self._knobs.items():
            button.disabled = on or not knob.able
        self._stop.layout.display = None if on else "none"
        self.told.busy = on

    def _track(self, future: concurrent.futures.Future[Any]) -> concurrent.futures.Future[Any]:
        self._pending.add(future)
        return future

    def _spawned(self, future: concurrent.futures.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)
        self._pending.discard(future)

    def _asks(self, title: str) -> None:
        self.told.asking = title

    def _seen(self) -> None:
        if self.told.visible:
            self.guarded(self.wake)
        self.guarded(self.rewatch)

    def _hear(self, snapshot: Snapshot) -> None:
        if snapshot.queue not in self._subscriptions:
            return  # what was watched before
        self.told.trouble = "; ".join(_trouble(error) for error in snapshot.trouble)
        self.guarded(self.apply, snapshot)
        if not snapshot.trouble:
            self.told.at = snapshot.at / 1e6


def _trouble(error: CloudTasksError) -> str:
    return error.message if error.hint is None else f"{error.message} \u2192 {error.hint}"


def _badge(text: str, kind: str = "quiet") -> str:
    return f'<span class="ctn-badge ctn-{kind}">{html.escape(text)}</span>'


def _close(widget: widgets.Widget) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()

"""The base class of all panels: layout, buttons, background work, questions, errors, and updates from the watcher.

How to write one::

    class QueuesPanel(Panel):
        def __init__(self, context: PanelContext, *, framed: bool = True) -> None:
            super().__init__(context, "Queues", framed=framed)
            self.table = self.attach(Table([Column("queue"), Column("state", kind="state")], key="queue"))
            self.pause = self.button("Pause", self._pause, changes=True, tip="Stop dispatching")
            self.fill(self.row(self.pause), self.table)

        def watched_queues(self):             # `apply` gets their snapshots while the panel is visible
            return {self.context.name("reports"): None}

        def apply(self, snapshot):            # on the background loop: must return quickly
            self.table.patch(...)

        def refresh(self):                    # reload the content; may wait
            self.table.load(self.context.queues())

        def static_html(self):                # the content of an export
            return self.table.html()

        def _pause(self):                     # a click, in a thread of its own: may wait, may raise
            self.context.queue("reports").pause()
            self.notify("paused reports", line=self.context.line("reports", "pause"))

- A click runs `work` in a thread of its own, one at a time for a panel; the panel's buttons are disabled meanwhile.
  Notes and progress of the client's methods are shown in the footer. ``inline=True`` runs the work in the thread of the
  click: only for work that changes the screen or asks a question with `ask`.
- Every exception is shown in the footer: from `button` and `control` callbacks, from `apply`, from `spawn`, from
  attached tables. Code that is called in another way goes through `guarded`.
- A button that changes anything has ``changes=True``, or is made by `change_button`. It is laid out by
  `row`: `read_only` leaves it out and blocks it.
- Traits may be set from any thread. A panel never polls: it uses `watched_queues` and `apply`, or `became_visible`.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import parse_zone
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.notify import Output, in_notebook
from cloudtasks_nb.errors import EndpointError, InvalidInputError, UnavailableError
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.code import quoted
from cloudtasks_nb.panels.forms.notebook import expression
from cloudtasks_nb.panels.owner import WidgetOwner
from cloudtasks_nb.panels.static_copy import StaticCopy
from cloudtasks_nb.panels.watching import Banner, Watching
from cloudtasks_nb.panels.widgets.fields import Dropdown
from cloudtasks_nb.panels.widgets.footer import Footer, Prompt, Question
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.panels.work import Work
from cloudtasks_nb.service.watch import Snapshot

__all__ = ["INTERVALS", "WIDE", "Panel"]

T = TypeVar("T", bound=widgets.Widget)

#: Layout of a field that fills the remaining width of its row.
WIDE = {"width": "auto", "flex": "1 1 12em"}
#: Choices of the seconds between two refreshes; 0 is off.
INTERVALS = (("off", 0.0), ("1 s", 1.0), ("2 s", 2.0), ("5 s", 5.0), ("10 s", 10.0), ("30 s", 30.0))
_LOCAL_INTERVAL, _GOOGLE_INTERVAL = 2.0, 5.0
_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(slots=True, kw_only=True)
class _Action:
    """The work of a button, and when it is allowed."""

    work: Callable[[], object]
    changes: bool
    inline: bool
    enabled: bool = True  #: whether it can be clicked while the panel is not busy


class _Owned(type(widgets.VBox)):  # type: ignore[misc]  # neither ipywidgets nor its metaclass has types
    """The metaclass of panels: each owns its widgets, and a constructor that raises leaves none open."""

    def __call__(cls, *args: Any, **words: Any) -> Any:
        owner = WidgetOwner()
        with owner.making():
            made: Any = cls.__new__(cls, *args, **words)
            made.owner = owner
            made.__init__(*args, **words)
        return made


class Panel(widgets.VBox, metaclass=_Owned):
    """A panel; `refresh()` reloads its content, `close()` ends it.

    Parameters
    ----------
    context : PanelContext
        The connection, and whether anything may be changed.
    title : str
        Title in the header.
    queue : str, optional
        Short id of the queue that the panel shows.
    framed : bool
        False: without header, interval and refresh button, as a part of a larger panel that has them.

    Attributes
    ----------
    footer : Footer
        Shows the status, errors, the equivalent Python code, the age of the content, and questions.
    prompt : Prompt
        Asks questions before work that cannot be undone.
    stopping : threading.Event
        Set when the current work should stop; long `work` checks it between its steps.
    """

    owner: WidgetOwner

    def __init__(self, context: PanelContext, title: str, *, queue: str | None = None, framed: bool = True) -> None:
        self.context = context
        self.title = title
        self.queue = queue
        self.board: Panel | None = None  #: the dashboard that it is a tab of
        self.footer = Footer("" if context.tz is None else str(parse_zone(context.tz)))
        self.prompt = Prompt(lambda question: self.footer.set_trait("question", question))
        self.footer.on_answer = lambda typed: self.guarded(self.prompt.answer, typed)
        self.copy = StaticCopy(self)
        self.watching = Watching(context.connection.watcher, self._on_snapshot)
        output = Output(message=self.notify, progress=self._show_progress)
        self._work = Work(
            title, output, set_busy=self._set_busy, failed=self.fail, spawned_failed=self._failed_in_background
        )
        self.stopping = self._work.stopping
        self._closed = False
        self._enabling = threading.RLock()
        self._actions: dict[widgets.Button, _Action] = {}
        self._lock = threading.RLock()  # for the data of derived panels
        self._every = _LOCAL_INTERVAL if context.local else _GOOGLE_INTERVAL
        #: The title with its badges, and below it that nothing answers; a part of a larger panel has neither.
        self.head = widgets.HTML() if framed else None
        self.banner = Banner(context.connection.endpoint, self._restart_button()) if framed else None
        self.interval = Dropdown(
            changed=lambda: self.guarded(self._choose_interval),
            options=INTERVALS,
            value=self._every,
            description="Every",
            layout={"width": "auto"},
        )
        self.interval.tooltip = "How often the panel is refreshed while it is visible"
        self._stop = widgets.Button(description="Stop", layout={"width": "auto", "display": "none"})
        self._stop.add_class("ctn-stop")
        self._stop.on_click(lambda _: self.stopping.set())
        super().__init__()
        self.add_class("ctn-panel")
        self.footer.panel = self.model_id
        self.footer.observe(lambda _: self.copy.follow(), "at")
        self.footer.on_visible = self._visibility_changed

    # Methods that derived panels override.

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queues to watch, each with the time from which to read its log (microseconds; None: no log)."""
        return {}

    def apply(self, snapshot: Snapshot) -> None:
        """Show a snapshot of a watched queue. Runs on the background loop, so it must return quickly."""

    def became_visible(self) -> None:
        """Update the content after the panel became visible. Must not wait: use `spawn`."""

    def queue_changed(self) -> None:
        """Show the new `self.queue`. Must not wait: use `spawn`."""

    def interval_changed(self) -> None:
        """React to a new value of `every`."""

    def refresh(self) -> None:
        """Reload the content."""
        self.poll_now()

    def static_html(self) -> str:
        """Return the content as HTML that needs no kernel; all values are escaped."""
        return ""

    def read_at(self) -> float:
        """Return when the content was read, seconds since 1970; 0: not yet."""
        return self.footer.at

    # Layout.

    def fill(self, *parts: widgets.Widget, controls: tuple[widgets.Widget, ...] = ()) -> None:
        """Lay the panel out: its parts from top to bottom, `controls` in the header."""
        head = [] if self.head is None else [self._header(self.head, controls), self.banner]
        self.children = [*head, *parts, self.footer]

    def attach(self, table: Table) -> Table:
        """Show exceptions of a table's callbacks in this panel."""
        table.on_error = self.fail
        return table

    def row(self, *parts: widgets.Widget) -> widgets.HBox:
        """Put widgets side by side; in a read-only panel without the buttons that change anything."""
        hidden = {button for button, action in self._actions.items() if action.changes and self.context.read_only}
        return widgets.HBox([part for part in parts if part not in hidden]).add_class("ctn-row")

    def button(
        self,
        text: str,
        work: Callable[[], object],
        *,
        changes: bool,
        tip: str | None = None,
        style: str = "",
        inline: bool = False,
    ) -> widgets.Button:
        """Make a button that runs `work`.

        Parameters
        ----------
        text : str
        work : callable
            Runs in a thread of its own; an exception is shown.
        changes : bool
            Whether it changes queues, tasks or batches: a read-only panel leaves such buttons out and blocks them.
        tip : str, optional
            Tooltip.
        style : {"", "primary", "danger"}
        inline : bool
            Run it in the thread of the click: only for work that does not wait.
        """
        made = widgets.Button(description=text, tooltip=tip or "", button_style=style, layout={"width": "auto"})
        self._actions[made] = _Action(work=work, changes=changes, inline=inline)
        made.on_click(lambda button: self.guarded(self._clicked, self._actions[button]))
        return made

    def change_button(self, text: str, work: Callable[[], object], tip: str = "", *, style: str = "") -> widgets.Button:
        """Make a button for a change: `work` runs in the thread of the click, and asks or starts what may wait."""
        return self.button(text, work, changes=True, inline=True, tip=tip, style=style)

    def stop_button(self) -> widgets.Button:
        """Return the button that sets `stopping`; it is visible only while work runs."""
        return self._stop

    def control(self, widget: T, changed: Callable[[], object]) -> T:
        """Call `changed` when the value of a field changes; show its exceptions."""
        widget.observe(lambda _: self.guarded(changed), "value")
        return widget

    def enable(self, button: widgets.Button, yes: bool) -> None:  # noqa: FBT001 - enable(button, bool(keys)) reads well
        """Set whether a button can be clicked while no work runs."""
        with self._enabling:  # so that another thread cannot overwrite this with an older result
            self._actions[button].enabled = yes
            button.disabled = self.footer.busy or not yes

    # Messages.

    def notify(self, status: str, *, line: str | None = None) -> None:
        """Show a status, and the equivalent line of Python."""
        self.footer.status = status
        if line is not None:
            self.footer.line = line

    def fail(self, error: BaseException) -> None:
        """Show an error; one that says that the service does not answer, until it answers again."""
        self.footer.fail(error)
        self.watching.showing_unreachable = isinstance(error, UnavailableError)
        if self.watching.showing_unreachable:
            self._show_unreachable(unreachable=isinstance(error, EndpointError))
            self.resubscribe()

    # Work.

    def guarded(self, work: Callable[..., object], *args: Any) -> None:
        """Call a function; show the exception if it raises one."""
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 - the user must see every error
            self.fail(error)

    def ask(self, question: Question, work: Callable[[], object]) -> None:
        """Ask a question, and run `work`, which changes something, if it is confirmed."""
        self.check_changes()
        self.prompt.ask(question, lambda: self.start(work, changes=True))

    def start(self, work: Callable[[], object], *, changes: bool) -> None:
        """Run `work` in a thread of its own, with the buttons disabled; does nothing if other work runs."""
        if changes:
            self.check_changes()
        if not self._work.start(work):
            self.footer.status = "busy: wait until the previous action has ended"

    def start_next(self, work: Callable[[], object]) -> None:
        """Run `work`, which changes nothing, as soon as no other work runs; it replaces other work that waits."""
        self._work.start_next(work)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the background loop; show the exception if it raises one."""
        self._work.spawn(work)

    @property
    def expression(self) -> str | None:
        """Python that is this panel in the notebook; None if no variable and no output of a cell leads to it."""
        if self.board is None:
            return expression(self)
        board = self.board.expression
        return None if board is None else f"{board}.parts[{quoted(self.title)}]"

    def check_changes(self) -> None:
        """Raise InvalidInputError if the panel is read-only."""
        if self.context.read_only:
            raise InvalidInputError("this panel is read-only", hint="open it without read_only=True to change anything")

    def settle(self, timeout: float = 240.0) -> None:
        """Wait until all work that the panel has started has ended."""
        self._work.settle(timeout)

    # Updates.

    @property
    def live(self) -> bool:
        """Whether the panel is refreshed: it is visible, and refreshing is not off."""
        return not self._closed and self.footer.visible and self._every > 0

    @property
    def every(self) -> float:
        """Seconds between two refreshes, 1 to 30; 0 is off."""
        return self._every

    @every.setter
    def every(self, seconds: float) -> None:
        if seconds and not 1 <= seconds <= 30:  # noqa: PLR2004 - the limits are in the message
            raise InvalidInputError(f"every={seconds!r} is not 1 to 30 seconds", hint="use 0 to switch refreshing off")
        self._every = float(seconds)
        options = self.interval.options
        known = self._every in dict(options).values()
        self.interval.offer(options if known else (*INTERVALS, (f"{self._every:g} s", self._every)), self._every)
        self.footer.paused = "" if seconds else "refreshing is off"
        (self._visibility_changed if self.live else self.resubscribe)()  # shows what has changed while it was off
        self.interval_changed()

    def use(self, queue: str | None) -> None:
        """Show another queue."""
        if queue != self.queue:
            self.queue = queue
            self.prompt.hide()
            self.footer.alert, self.footer.status, self.footer.warning, self.footer.at = {}, "", "", 0.0
            self.resubscribe()
            self.guarded(self.queue_changed)

    def poll_now(self) -> None:
        """Make the watcher read the watched queues as soon as possible."""
        for queue in self.watched_queues():
            self.context.connection.watcher.refresh(queue)

    def resubscribe(self) -> None:
        """Watch the queues that `watched_queues` returns, if the panel is live; call this when they have changed."""
        with self._lock:
            wanted = dict(self.watched_queues()) if self.live else {}
            if (
                self.live and self.watching.showing_unreachable and self.queue is not None
            ):  # the next snapshot ends the error
                wanted.setdefault(self.context.name(self.queue), None)
            self.watching.update(wanted, self._every)

    def assume_visible(self, *, visible: bool = True) -> None:
        """Assume that the panel is visible until the browser reports; while a cell runs, it cannot report."""
        if not self.footer.visibility_known:
            self.footer.set_visible(visible=visible)

    def start_refresh(self) -> None:
        """Run `refresh` in a thread of its own, as the Refresh button does."""
        self.start(self.refresh, changes=False)

    def close(self) -> None:
        """Close the panel: end its subscriptions, and remove its widgets."""
        if getattr(self, "_closed", True):  # no attribute: the constructor raised, or the panel is being collected
            return
        self._closed = True
        self.copy.close()
        self.resubscribe()
        self._work.close()
        self.owner.close()
        super().close()
        # ipywidgets removes it from a closed widget, so that showing one would raise a TypeError.
        self.__dict__.pop("_repr_mimebundle_", None)

    def _ipython_display_(self, **_options: Any) -> None:
        """Display the panel, and its static copy below it: one output shows a widget or HTML, not both.

        Raises
        ------
        NotImplementedError
            Where one output is enough: IPython then shows that of `_repr_mimebundle_`.
        """
        if self._closed or not in_notebook():
            raise NotImplementedError
        self.copy.display(*self._bundle())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title} [{self.context.badge}]{' (closed)' if self._closed else ''}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle, metadata = self._bundle(**options)
        return (bundle, metadata) if metadata else bundle

    def _bundle(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the MIME bundle and its metadata; a closed panel has HTML only."""
        if self._closed:
            return {"text/plain": repr(self), "text/html": self.copy.html(note="the panel is closed")}, {}
        # The footer's bundle has what Colab needs to show widgets that are not its own.
        bundle, metadata = self.footer._repr_mimebundle_(**options) or ({}, {})
        bundle[_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        self.assume_visible()
        bundle["text/plain"] = repr(self)
        bundle["text/html"] = self.copy.html()  # for exports and viewers that have no kernel
        return bundle, metadata

    def _header(self, head: widgets.HTML, controls: tuple[widgets.Widget, ...]) -> widgets.HBox:
        tip = "Reload the content"
        refresh = self.button("Refresh", self.start_refresh, changes=False, inline=True, tip=tip)
        self._show_head()
        tools = widgets.HBox([*controls, self.interval, refresh]).add_class("ctn-row")
        return widgets.HBox([head, tools]).add_class("ctn-header")

    def _show_head(self) -> None:
        """Show the title, and beside it what is special: where it is, and whether the clock was moved."""
        if self.head is None:
            return
        moved = self.context.connection.clock.known.advanced / 1e6
        badges = [_badge(self.context.badge, "local" if self.context.local else "google")]
        badges += [_badge("read-only")] if self.context.read_only else []
        badges += [_badge(f"clock +{duration_text(moved)}", "google")] if moved else []
        self.head.value = f'<span class="ctn-heading"><bdi>{html.escape(self.title)}</bdi></span>{"".join(badges)}'

    def _choose_interval(self) -> None:
        self.every = self.interval.value

    def _visibility_changed(self) -> None:
        if self.footer.visible:
            self.guarded(self.became_visible)
        self.guarded(self.resubscribe)

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self.footer.warning = self.watching.warning
        self._show_unreachable(unreachable=self.watching.unreachable)
        self.guarded(self.apply, snapshot)
        if not snapshot.errors:
            self.read_until(self.watching.at)
            self._answered()

    def read_until(self, at: float) -> None:
        """Show the age of the content: all of it was read at a time, in seconds since 1970, or later."""
        self.footer.at, self.footer.ahead = at, self.context.connection.clock.ahead / 1e3
        (self.board or self)._show_head()  # noqa: SLF001 - a panel too

    def _answered(self) -> None:
        """Remove the error that the service does not answer."""
        if not self.watching.showing_unreachable:
            return
        self.watching.showing_unreachable = False
        if text := self.footer.alert.get("text"):
            self.notify(f"The service answers again. Before: {text}")
            self.footer.alert = {}
        self.resubscribe()

    def _show_unreachable(self, *, unreachable: bool) -> None:
        """Say above everything that nothing answers; in a dashboard, above its tabs."""
        banner = (self.board or self).banner
        if banner is None:
            return
        if not unreachable:
            banner.hide()
        elif not banner.shown:
            self.footer.status = ""  # it may say that the service answers
            banner.show(self.watching.last)

    def _restart_button(self) -> widgets.Button | None:
        if self.context.connection.restart is None or self.context.read_only:
            return None
        return self.button("Start it again", self._restart, changes=True, style="primary")

    def _restart(self) -> None:
        assert self.context.connection.restart is not None  # noqa: S101 - else there is no button
        self.notify("starting the emulator again …")
        self.context.connection.restart()
        self.notify("started the emulator again", line=f"ct.local({quoted(self.context.connection.endpoint.folder)})")
        self.poll_now()

    def _clicked(self, action: _Action) -> None:
        if action.changes:
            self.check_changes()
        if action.inline:
            action.work()
        else:
            self.start(action.work, changes=False)

    def _show_progress(self, what: str, count: int, total: int | None) -> None:
        self.footer.status = f"{what}: {count:,}" + ("" if total is None else f" of {total:,}")

    def _set_busy(self, busy: bool) -> None:  # noqa: FBT001 - called by `Work`
        if busy:
            self.footer.alert, self.watching.showing_unreachable = {}, False
            self.footer.status = ""
        with self._enabling:
            for button, action in self._actions.items():
                button.disabled = busy or not action.enabled
            self._stop.layout.display = None if busy else "none"
            self.footer.busy = busy  # last: the browser then returns the focus to a button, which must be enabled

    def _failed_in_background(self, error: BaseException) -> None:
        """Show an error of background work; the banner shows that nothing answers."""
        if isinstance(error, EndpointError):
            self._show_unreachable(unreachable=True)
        else:
            self.fail(error)


def _badge(text: str, kind: str = "quiet") -> str:
    return f'<span class="ctn-badge ctn-{kind}">{html.escape(text)}</span>'

"""What is done on a click: one thing at a time, in a thread of its own, and whatever it raises is shown."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ipywidgets as widgets

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import Output, redirect
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.footer import Footer
from cloudtasks_nb.panels.widgets.prompt import Prompt, Question

__all__ = ["WIDE", "Acting", "close_whole"]

T = TypeVar("T", bound=widgets.Widget)

#: Layout of a field that takes what is left of its row.
WIDE = {"width": "auto", "flex": "1 1 12em"}


@dataclass(slots=True, kw_only=True)
class _Action:
    work: Callable[[], object]
    changes: bool = False
    quick: bool = False
    able: bool = True  # when the panel is not busy


class _AllOrNothing(type(widgets.VBox)):  # type: ignore[misc]  # ipywidgets has no types, its metaclass neither
    """What makes panels: of one that cannot be made nothing stays."""

    def __call__(cls, *args: Any, **words: Any) -> Any:
        made: Any = cls.__new__(cls, *args, **words)
        try:
            made.__init__(*args, **words)
        except BaseException:
            made.abandon()
            raise
        return made


class Acting(widgets.VBox, metaclass=_AllOrNothing):
    """A box with buttons, a foot that tells, and a prompt that asks.

    Parameters
    ----------
    title : str
        What it is called in errors and threads.
    read_only : bool
        Leave out and block whatever changes anything.

    Attributes
    ----------
    footer : Footer
        The foot: status, error, line of Python, age.
    prompt : Prompt
        The question that is being asked, if any.
    stopping : threading.Event
        Set when what goes on shall stop: long `work` looks at it between its steps.
    """

    def __init__(self, title: str, *, read_only: bool) -> None:
        self.title = title
        self.footer = Footer()
        self.prompt = Prompt()
        self.prompt.on_change = self._asks
        self.stopping = threading.Event()
        self._read_only = read_only
        self._busy = threading.Lock()
        self._enabling = threading.RLock()
        self._actions: dict[widgets.Button, _Action] = {}
        self._stop = widgets.Button(description="Stop", layout={"width": "auto", "display": "none"})
        self._stop.add_class("ctn-stop")
        self._stop.on_click(lambda _: self.stopping.set())
        self._pending: set[concurrent.futures.Future[Any]] = set()
        super().__init__()

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
        self._actions[made] = _Action(work=work, changes=changes, quick=quick)
        made.on_click(self._clicked)
        return made

    def stop_button(self) -> widgets.Button:
        """Return the button that is seen while something goes on, and sets `stopping`."""
        return self._stop

    def control(self, widget: T, changed: Callable[[], object]) -> T:
        """Call `changed` when the value of a field changes, in the thread of the change; what it raises is shown."""
        widget.observe(lambda _: self.guarded(changed), "value")
        return widget

    def row(self, *parts: widgets.Widget) -> widgets.HBox:
        """Put widgets side by side, without those that change anything if that is not allowed."""
        shown = [
            part for part in parts if not (self._read_only and part in self._actions and self._actions[part].changes)
        ]
        return widgets.HBox(shown).add_class("ctn-row")

    def able(self, button: widgets.Button, yes: bool) -> None:  # noqa: FBT001 - able(button, bool(keys)) reads well
        """Say whether a button can be clicked when nothing else goes on."""
        with self._enabling:  # what another thread found a moment ago must not be written after this
            self._actions[button].able = yes
            button.disabled = self.footer.busy or not yes

    def notify(self, status: str, *, line: str | None = None) -> None:
        """Say what was done, with the line of Python that does the same."""
        self.footer.status = status
        if line is not None:
            self.footer.line = line

    def fail(self, error: BaseException) -> None:
        """Show an error."""
        self.footer.fail(error)

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
            self.footer.status = "still busy with what was clicked before"
            return
        self.footer.alert = {}
        self.stopping.clear()
        self._set_busy(on=True)
        done = self._track(concurrent.futures.Future())
        done.set_running_or_notify_cancel()  # nobody can cancel a thread
        threading.Thread(target=self._work, args=(work, done), name=f"cloudtasks-nb {self.title}", daemon=True).start()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the background loop; what it raises is shown."""
        self._track(_loop.submit(work)).add_done_callback(self._spawned)

    def check_changes(self) -> None:
        """Raise InvalidInputError if nothing may be changed from here."""
        if self._read_only:
            raise InvalidInputError("this panel is read-only", hint="open it without read_only=True to change anything")

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until nothing goes on that was begun here."""
        deadline = time.monotonic() + timeout
        while self._pending:
            concurrent.futures.wait(list(self._pending), timeout=max(0.0, deadline - time.monotonic()))
            if self._pending and time.monotonic() > deadline:
                raise TimeoutError(f"{self.title} is still at work after {timeout:g} s")

    def end(self, *more: widgets.Widget) -> None:
        """Give up what waits, and close all that it is made of, also what was never laid out."""
        for future in list(self._pending):
            future.cancel()
        for part in (*self.children, *self._actions, self._stop, *more, self.layout):
            close_whole(part)

    def abandon(self) -> None:
        """Close what there is of a panel that could not be made: ipywidgets would keep it for ever."""
        with contextlib.suppress(AttributeError):  # parts that it does not have yet
            self.close()
        for part in list(_parts(self, {})):
            if part is not self:
                part.close()
        super().close()

    def _clicked(self, button: widgets.Button) -> None:
        action = self._actions[button]
        self.guarded(self._do if action.quick else self.start, action.work, action.changes)

    def _do(self, work: Callable[[], object], changes: bool) -> None:  # noqa: FBT001 - as for start
        if changes:
            self.check_changes()
        work()

    def _work(self, work: Callable[[], object], done: concurrent.futures.Future[Any]) -> None:
        self.footer.status = ""
        try:
            with redirect(Output(message=self.notify, progress=self._show_progress)):
                work()
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it
            self.fail(error)
        finally:
            self._set_busy(on=False)
            self._busy.release()
            self._pending.discard(done)
            done.set_result(None)

    def _show_progress(self, what: str, count: int, total: int | None) -> None:
        self.footer.status = f"{what}: {count:,}" + ("" if total is None else f" of {total:,}")

    def _set_busy(self, *, on: bool) -> None:
        with self._enabling:
            for button, action in self._actions.items():
                button.disabled = on or not action.able
            self._stop.layout.display = None if on else "none"
            self.footer.busy = on  # last: the browser then gives the focus back to a button that can have it

    def _track(self, future: concurrent.futures.Future[Any]) -> concurrent.futures.Future[Any]:
        self._pending.add(future)
        return future

    def _spawned(self, future: concurrent.futures.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)
        self._pending.discard(future)

    def _asks(self, title: str) -> None:
        self.footer.asking = title


def _parts(thing: Any, seen: dict[int, Any]) -> Iterator[widgets.Widget]:
    """Find the widgets in what something of this package, or a widget, has: also what was never laid out."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    inside: list[Any] = []
    if isinstance(thing, widgets.Widget):
        yield thing
        inside = list(vars(thing).values())  # its traits are among them, without making those that are not there yet
    elif isinstance(thing, Mapping):
        inside = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        inside = list(thing)
    elif type(thing).__module__.startswith(f"{__package__}.") and hasattr(thing, "__dict__"):
        inside = list(vars(thing).values())
    for one in inside:
        yield from _parts(one, seen)


def close_whole(widget: widgets.Widget) -> None:
    """Close a widget with what it is made of, which ipywidgets keeps."""
    parts = (*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None))
    for part in parts:
        if isinstance(part, widgets.Widget):
            close_whole(part)
    widget.close()

"""The notebook's magics: ``%load_ext cloudtasks_nb``, then ``%ct queues`` and ``%%ct enqueue QUEUE URL``."""

from __future__ import annotations

import math
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import methodcaller
from typing import Any

import orjson
from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class

from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.errors import CloudTasksError, ConfigurationError, InvalidInputError, QueueNotFoundError
from cloudtasks_nb.service import open_clients

__all__ = ["CloudTasksMagics", "QueueNames", "load_ipython_extension"]

#: The commands of ``%ct`` and of ``%%ct``, each with its arguments.
_LINE = {"queues": (), "tasks": ("QUEUE",), "batches": (), "panel": ()}
_CELL = {"enqueue": ("QUEUE", "URL")}

#: What an argument was probably meant for, where a command has none.
_INSTEAD = {
    "%ct queues": "%ct tasks {0} lists the tasks in a queue",
    "%ct batches": 'tasks.batch("{0}") is one batch',
    "%ct panel": 'tasks.queue("{0}").panel() is the widget of one queue',
}

#: The part of a line before the cursor that is completed: ``%ct …``, ``%%ct …``, ``frame = %ct …``.
_TYPED = re.compile(r"(?:.*=\s*)?(?P<sign>%%?)ct\s+(?P<done>(?:\S+\s+)*)(?P<begun>\S*)")


class QueueNames:
    """The names of a connection's queues, for completion; read in a thread, so that no keystroke waits for long.

    Parameters
    ----------
    patience : float
        Seconds that a call waits for an answer; a later answer is used by the next call.
    fresh : float
        Seconds for which an answer is used again.
    """

    def __init__(self, *, patience: float = 0.5, fresh: float = 3.0) -> None:
        self._patience = patience
        self._fresh = fresh
        self._known: weakref.WeakKeyDictionary[Client, tuple[float, list[str]]] = weakref.WeakKeyDictionary()
        self._asked: weakref.WeakKeyDictionary[Client, threading.Event] = weakref.WeakKeyDictionary()

    def of(self, client: Client, *, anew: bool = False) -> list[str]:
        """Return the names that are known in time; `anew` reads them even if the last answer is recent."""
        seen, names = self._known.get(client, (-math.inf, []))
        if not anew and time.monotonic() - seen < self._fresh:
            return names
        answered = self._asked.get(client)
        if answered is None:
            answered = self._asked[client] = threading.Event()
            threading.Thread(target=self._ask, args=(client, answered), name="cloudtasks-nb-names", daemon=True).start()
        answered.wait(self._patience)
        return self._known.get(client, (seen, names))[1]

    def _ask(self, client: Client, answered: threading.Event) -> None:
        names = self._known.get(client, (0.0, []))[1]
        with suppress(Exception):  # a broken connection is reported by the next call, not by Tab
            names = client.queues().index.tolist()
        self._known[client] = (time.monotonic(), names)
        self._asked.pop(client, None)
        answered.set()


@magics_class
class CloudTasksMagics(Magics):
    """``%ct`` and ``%%ct``."""

    def __init__(self, shell: InteractiveShell, names: QueueNames | None = None) -> None:
        super().__init__(shell)
        self._shell = shell
        self._names = names or QueueNames()

    @line_cell_magic
    def ct(self, line: str, cell: str | None = None) -> Any:
        """List queues and tasks, or enqueue a task.

        ::

            %ct queues                list the queues
            %ct tasks QUEUE           list the tasks in a queue
            %ct batches               list the batches that were sent from this machine
            %ct panel                 show the widget with all of it

            %%ct enqueue QUEUE URL    create one task, whose body is the rest of the cell:
            {"day": "2026-01-01"}     JSON if it is JSON, else text

        The connection is the notebook's variable ``tasks``, or else the one that was made last. The result is that of
        the method of the same name: ``frame = %ct tasks reports`` keeps it.
        """
        try:
            return self._run(line.split(), cell)
        except CloudTasksError as error:
            raise _without_traceback(error) from None

    def _run(self, parts: list[str], cell: str | None) -> Any:
        sign, commands = ("%ct", _LINE) if cell is None else ("%%ct", _CELL)
        if not parts:
            raise InvalidInputError(f"{sign} needs a command", hint=_usage())
        command, *arguments = parts
        if command not in commands:
            raise _unknown(sign, command)
        client = self.connection()
        if client is None:
            raise ConfigurationError(
                f"{sign} {command} has no connection",
                hint="import cloudtasks_nb as ct; tasks = ct.local(), or tasks = ct.connect(…)",
            )
        if len(arguments) != len(commands[command]):
            raise self._wrong_arguments(client, f"{sign} {command}", commands[command], arguments)
        try:
            return _METHODS[command](client, *arguments, *([] if cell is None else [cell]))
        except QueueNotFoundError as error:
            raise self._with_suggestion(client, error) from None

    def connection(self) -> Client | None:
        """Return the notebook's variable ``tasks``, or else the connection that was made last."""
        named = self._shell.user_ns.get("tasks")
        found = named if isinstance(named, Client) else open_clients.newest()
        return found if isinstance(found, Client) else None

    @context_matcher()
    def complete(self, context: CompletionContext) -> SimpleMatcherResult:
        """Return what can stand at the cursor: a command or the name of a queue; hide all other completions."""
        line = _TYPED.fullmatch(context.text_until_cursor)
        if line is None:
            return {"completions": []}
        possible = self._possible(_LINE if line["sign"] == "%" else _CELL, line["done"].split())
        found = [SimpleCompletion(text=word, type="magic") for word in possible if word.startswith(line["begun"])]
        return {"completions": found, "matched_fragment": line["begun"], "suppress": True, "ordered": True}

    def _possible(self, commands: Mapping[str, tuple[str, ...]], done: list[str]) -> list[str]:
        if not done:
            return list(commands)
        client = self.connection()
        takes_queue = commands.get(done[0], ())[len(done) - 1 : len(done)] == ("QUEUE",)
        return self._names.of(client) if takes_queue and client is not None else []

    def _wrong_arguments(
        self, client: Client, typed: str, wanted: tuple[str, ...], arguments: list[str]
    ) -> InvalidInputError:
        if not wanted:
            return InvalidInputError(
                f'{typed} has no arguments, but got "{arguments[0]}"',
                resource=arguments[0],
                hint=_INSTEAD[typed].format(arguments[0]),
            )
        names = self._names.of(client, anew=True) if len(arguments) < len(wanted) else []
        return InvalidInputError(
            f"the usage is {typed} {' '.join(wanted)}",
            hint="queues: " + ", ".join(names) if names else "%ct queues lists the queues",
        )

    def _with_suggestion(self, client: Client, error: QueueNotFoundError) -> QueueNotFoundError:
        short = (error.resource or "").rpartition("/")[2]
        return QueueNotFoundError(
            f"{error.message}{did_you_mean(short, self._names.of(client, anew=True))}",
            resource=error.resource,
            code=error.code,
            hint=error.hint,
        )


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add the magics and their completion to a shell; IPython calls this for ``%load_ext cloudtasks_nb``."""
    magics = CloudTasksMagics(shell)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.complete)


def _tasks(client: Client, queue: str) -> Any:
    return client.queue(queue).tasks()


def _enqueue(client: Client, queue: str, url: str, cell: str) -> Any:
    return client.queue(queue).enqueue(url, _body(cell))


_METHODS: dict[str, Callable[..., Any]] = {
    "queues": methodcaller("queues"),
    "tasks": _tasks,
    "batches": methodcaller("batches"),
    "panel": methodcaller("panel"),
    "enqueue": _enqueue,
}


def _body(cell: str) -> Any:
    """Return the JSON value of a cell, or its text if it is no JSON, a JSON text or null."""
    text = cell.strip("\n")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text or None
    return text if value is None or isinstance(value, str) else value


def _unknown(sign: str, command: str) -> InvalidInputError:
    other = "%%ct" if sign == "%ct" else "%ct"
    if command in (_CELL if sign == "%ct" else _LINE):
        where = "is the first line of a cell with the body" if other == "%%ct" else "is a line without a cell below"
        return InvalidInputError(f"{other} {command} {where}", resource=command, hint=_usage())
    suggestion = did_you_mean(command, [*_LINE, *_CELL])
    return InvalidInputError(f'{sign} has no "{command}"{suggestion}', resource=command, hint=_usage())


def _usage() -> str:
    line = " | ".join(" ".join([command, *wants]) for command, wants in _LINE.items())
    cell = " | ".join(" ".join([command, *wants]) for command, wants in _CELL.items())
    return f"%ct {line}, or %%ct {cell}"


def _without_traceback(error: CloudTasksError) -> CloudTasksError:
    """Make IPython show the lines of the error without a traceback, which has no line of the user."""
    shown = f"{type(error).__name__}: {error}".splitlines()
    error._render_traceback_ = lambda: shown  # type: ignore[attr-defined]  # IPython reads it from what is raised
    return error

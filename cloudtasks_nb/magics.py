"""The notebook's magics: ``%load_ext cloudtasks_nb``, then ``%ct queues`` and ``%%ct enqueue QUEUE URL``."""

from __future__ import annotations

import math
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class

from cloudtasks_nb._settings import did_you_mean, parse_json
from cloudtasks_nb.client.client import Client
from cloudtasks_nb.errors import CloudTasksError, ConfigurationError, InvalidInputError, QueueNotFoundError
from cloudtasks_nb.service import open_clients

__all__ = ["CloudTasksMagics", "QueueNames", "load_ipython_extension"]

#: The commands of ``%ct`` and of ``%%ct``, each with its arguments.
_LINE = {"queues": (), "tasks": ("QUEUE",), "batches": (), "panel": ()}
_CELL = {"enqueue": ("QUEUE", "URL")}

#: Hints for an argument that is given to a command without arguments.
_HINTS = {
    "%ct queues": "%ct tasks {0} lists the tasks in a queue",
    "%ct batches": 'tasks.batch("{0}") is one batch',
    "%ct panel": 'tasks.queue("{0}").panel() is the widget of one queue',
}

#: A line up to the cursor that can be completed: ``%ct …``, ``%%ct …``, ``frame = %ct …``.
_TYPED = re.compile(r"(?:.*=\s*)?(?P<sign>%%?)ct\s+(?P<words>(?:\S+\s+)*)(?P<prefix>\S*)")


class QueueNames:
    """The names of a connection's queues for completion; a thread reads them, so that completion does not block.

    Parameters
    ----------
    patience : float
        Seconds that a call waits for the thread; names that arrive later are used by the next call.
    fresh : float
        Seconds for which the names are not read again.
    """

    def __init__(self, *, patience: float = 0.5, fresh: float = 3.0) -> None:
        self._patience = patience
        self._fresh = fresh
        self._known: weakref.WeakKeyDictionary[Client, tuple[float, list[str]]] = weakref.WeakKeyDictionary()
        self._reading: weakref.WeakKeyDictionary[Client, threading.Event] = weakref.WeakKeyDictionary()

    def of(self, client: Client, *, anew: bool = False) -> list[str]:
        """Return the names that are known after `patience`; with `anew` they are read even if they are fresh."""
        read_at, names = self._known.get(client, (-math.inf, []))
        if not anew and time.monotonic() - read_at < self._fresh:
            return names
        finished = self._reading.get(client)
        if finished is None:
            finished = self._reading[client] = threading.Event()
            threading.Thread(
                target=self._read, args=(client, finished), name="cloudtasks-nb-names", daemon=True
            ).start()
        finished.wait(self._patience)
        return self._known.get(client, (read_at, names))[1]

    def _read(self, client: Client, finished: threading.Event) -> None:
        names = self._known.get(client, (0.0, []))[1]
        with suppress(Exception):  # completion shows no errors; the next call of a command does
            names = client.queues().index.tolist()
        self._known[client] = (time.monotonic(), names)
        self._reading.pop(client, None)
        finished.set()


@magics_class
class CloudTasksMagics(Magics):
    """The magics ``%ct`` and ``%%ct``, with their completion."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self._names = QueueNames()

    @line_cell_magic
    def ct(self, line: str, cell: str | None = None) -> Any:
        """List queues and tasks, or enqueue a task.

        The commands:

            %ct queues                list the queues
            %ct tasks QUEUE           list the tasks in a queue
            %ct batches               list the batches that were sent from this machine
            %ct panel                 show the widget of the connection

            %%ct enqueue QUEUE URL    create one task, whose body is the rest of the cell:
            {"day": "2026-01-01"}     JSON if it is JSON, else text

        The connection is the notebook's variable ``tasks``, or else the one that was made last. The result is that of
        the method of the same name: ``frame = %ct tasks reports`` keeps it.

        Examples
        --------
        >>> get_ipython().run_line_magic("load_ext", "cloudtasks_nb")  # in a cell: %load_ext cloudtasks_nb
        >>> queue = tasks.queue("reports", create=True)
        made queue reports with log_sampling_ratio=1.0 ...
        >>> get_ipython().run_line_magic("ct", "queues")["state"].item()  # in a cell: %ct queues
        'RUNNING'
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
        """Complete a command or the name of a queue at the cursor; all other completions are hidden."""
        line = _TYPED.fullmatch(context.text_until_cursor)
        if line is None:
            return {"completions": []}
        possible = self._completions(_LINE if line["sign"] == "%" else _CELL, line["words"].split())
        found = [SimpleCompletion(text=word, type="magic") for word in possible if word.startswith(line["prefix"])]
        return {"completions": found, "matched_fragment": line["prefix"], "suppress": True, "ordered": True}

    def _completions(self, commands: Mapping[str, tuple[str, ...]], words: list[str]) -> list[str]:
        if not words:
            return list(commands)
        client = self.connection()
        takes_queue = commands.get(words[0], ())[len(words) - 1 : len(words)] == ("QUEUE",)
        return self._names.of(client) if takes_queue and client is not None else []

    def _wrong_arguments(
        self, client: Client, typed: str, wanted: tuple[str, ...], arguments: list[str]
    ) -> InvalidInputError:
        if not wanted:
            return InvalidInputError(
                f'{typed} has no arguments, but got "{arguments[0]}"',
                resource=arguments[0],
                hint=_HINTS[typed].format(arguments[0]),
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
    """Add the magics and their completion to a shell; IPython calls this for ``%load_ext cloudtasks_nb``.

    Examples
    --------
    >>> get_ipython().run_line_magic("load_ext", "cloudtasks_nb")  # in a cell: %load_ext cloudtasks_nb
    >>> "ct" in get_ipython().magics_manager.magics["line"]
    True
    """
    magics = CloudTasksMagics(shell)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.complete)


_METHODS: dict[str, Callable[..., Any]] = {
    "queues": lambda client: client.queues(),
    "tasks": lambda client, queue: client.queue(queue).tasks(),
    "batches": lambda client: client.batches(),
    "panel": lambda client: client.panel(),
    "enqueue": lambda client, queue, url, cell: client.queue(queue).enqueue(url, _body(cell)),
}


def _body(cell: str) -> Any:
    """Return the JSON value of a cell; its text if it is not JSON, or if the value is null or a string."""
    text = cell.strip("\n")
    try:
        value = parse_json(text)
    except ValueError:
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
    """Make IPython show the error without a traceback, which would contain no line of the user's code."""
    shown = f"{type(error).__name__}: {error}".splitlines()
    error._render_traceback_ = lambda: shown  # type: ignore[method-assign]  # of this one error
    return error

"""Serve functions as handlers, and find the handlers of this process by name and URL."""

from __future__ import annotations

import inspect
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from cloudtasks_nb import _settings
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.address import bind_address, derive_address, handler_at, name_from_url
from cloudtasks_nb.handlers.call import TaskFunction, check_function
from cloudtasks_nb.handlers.convert import display_name
from cloudtasks_nb.handlers.failures import Kinds, check_kinds
from cloudtasks_nb.handlers.handler import Handler
from cloudtasks_nb.handlers.processes import ProcessPool
from cloudtasks_nb.handlers.verify import Verifier
from cloudtasks_nb.handlers.version import version_of
from cloudtasks_nb.service import open_clients
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.store.results import ResultWriter
from cloudtasks_nb.store.store import Store

__all__ = ["name_at", "serve", "served_as", "served_at"]

_NAME = re.compile(r"(?=.*[^.])[^/]{1,100}")  # one segment of a URL's path; only dots would be a relative path

_lock = threading.RLock()
#: The handlers of this process, by home and name.
_served: dict[tuple[str, str], Handler] = {}


@_settings.named
def serve(  # noqa: PLR0913 - the options of a handler, keyword-only behind the first
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    workers: int = 8,
    processes: int | None = None,
    give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
    service_account: str | None = None,
    audience: str | None = None,
    tasks: object | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Handler:
    """Serve a function as a target of tasks on this machine.

    A JSON object in a task's body becomes keyword arguments, an empty body no argument, and anything else the only
    argument. Arguments become the types with which parameters are annotated: dates and times (also those of pandas),
    durations, Decimal, UUID, Path, enums, dataclasses, arrays, and lists, dictionaries and unions of these. JSON has
    keys as text: ``dict[int, float]`` has integers again, and so it is with float, bool and None. An argument that
    cannot be converted is answered with 400.

    When the function returns, the task is done. When it raises, the answer is 500, and the queue tries again.
    `ct.GiveUp` and the exceptions of `give_up_on` end the task, and `ct.TryLater` has it tried again after a delay; so
    does an exception of an HTTP client with status 429 or 503 and ``Retry-After``.

    The URL follows from the name and is the same after a restart of the kernel, so that tasks which were queued before
    still reach the function. Serving another function under the same name replaces the first one.

    What the function returned or raised is stored before the task is answered, so that `batch.results()` and
    `queue.wait(task)` have it after a restart and on every machine that reaches the store. A result is what JSON holds;
    frames become lists of records, and numpy, dates, Decimal, Enum and dataclasses are known. Another result is an
    error of the task, with status 500. So is a store that does not answer within about 40 seconds: the task is tried
    again. Results of a batch that gather during a write are written together, in a folder to one file of this process
    for each batch. There, a stored result survives the end of the kernel; a power loss within seconds can lose it, as
    any file that was just written. An attempt of a task that is of no batch has a file of its own in ``results/tasks``
    of the store. These stay until you delete that folder; a bucket's lifecycle rule can do so.

    Parameters
    ----------
    fn : callable
        A plain or an async function.
    name : str, optional
        The handler's name; the function's own name when left out. A lambda without one gets a new URL each time.
    workers : int
        How many calls run at a time, in threads of this kernel. They suit functions that wait, for a network or a disk,
        and those of numpy and pandas that release Python's interpreter lock. Python code that computes is no faster in
        threads, and slows the kernel down. One that forks processes itself, as ``multiprocessing.Pool`` does on Linux,
        needs ``workers=1``: from Python 3.12 on, filelock refuses forks of two threads at the same time. A queue whose
        `max_concurrent` is larger, twice as large for example, has the next request ready when a call ends.
    processes : int, optional
        How many calls run at a time, each in a process of its own, for functions that compute; `workers` does not count
        then. The function is copied when it is served: global names that it uses keep their values of that moment,
        and what it changes stays in its process. Arguments and results are JSON, and an exception is its traceback,
        so these always travel. If a process dies, for want of memory for example, its task is answered with 500, and
        the next call starts another. The processes end with the kernel.
    give_up_on : class or several, optional
        Exceptions after which the row has failed at once, with their message as its cause: ``(KeyError, ValueError)``.
        Their subclasses count, too; one that says when to try again, as `ct.TryLater` does, is tried again. Always
        given up are ``NameError``, ``ModuleNotFoundError``, ``SyntaxError`` and ``NotImplementedError``, which no other
        attempt can mend. It is not part of the `version` of the function. As with `ct.GiveUp`, the task is answered
        with 200, and the batch reads in the store that it has failed.
    service_account : str, optional
        Only tasks that carry an OIDC token of this account are accepted.
    audience : str, optional
        The audience that the token must have; when left out the origin of the handler's URL, or the whole URL.
    tasks : Client, optional
        The connection whose emulator issues the tokens and whose store is used; the newest connection when left out.
    store : path or str, optional
        Where the results of batches are stored: a folder or a bucket, the same as in ``ct.connect(..., store=...)``.
        By default that of the connection; before there is one, ``CLOUDTASKS_NB_STORE`` or a folder in the home.

    Returns
    -------
    Handler
        With `url`, `calls()` and `close()`.

    Raises
    ------
    HandlerError
        If the function cannot be served, or not copied into a process; if `give_up_on` is no class of exceptions.
    ConfigurationError
        If the home, which the URL is derived from, cannot be created.
    InvalidInputError
        If `store` is not a folder or a bucket.

    Examples
    --------
    >>> def double(x):
    ...     return 2 * x
    >>> handler = ct.serve(double)
    >>> batch = queue.fan_out(pd.DataFrame({"x": [1, 2, 3]}), url=handler)
    >>> batch.wait()
    3 rows: 3 succeeded
    >>> prices = {"JFK": 7, "LGA": 9}
    >>> handler = ct.serve(lambda day, origin: prices[origin], name="price", give_up_on=(KeyError,))
    >>> batch = queue.fan_out(df, url=handler)
    >>> batch.wait()
    3 rows: 2 succeeded, 1 failed
    >>> batch.failed()[["origin", "attempts", "last_message"]]
        origin  attempts     last_message
    row
    2      EWR         1  KeyError: 'EWR'
    """
    check_function(fn)
    _check(name=name, workers=workers, service_account=service_account, audience=audience)
    kinds = check_kinds(give_up_on)
    pool = None if processes is None else _process_pool(fn, processes, kinds)
    certs_url = None if service_account is None else _certs_url(tasks)
    connection = open_clients.newest() if tasks is None else tasks
    place = _settings.store_place(store if store is not None else getattr(connection, "store", None))
    results = ResultWriter(Store(place, Auth().storage_token))
    lasting_name = name or _own_name(fn)
    version = version_of(fn)
    function = TaskFunction(fn=fn, verifier=None, results=results, processes=pool, give_up_on=kinds, version=version)

    def task_function(url: str) -> TaskFunction:  # the default audience is the URL, which is known later
        if service_account is None or certs_url is None:
            return function
        # The whole URL is the audience that Cloud Tasks sets, for tasks that other clients made.
        origin = "/".join(url.split("/", 3)[:3])
        accepted = [audience] if audience else [origin, url]
        verifier = Verifier(service_account=service_account, audience=accepted, certs_url=certs_url)
        return replace(function, verifier=verifier)

    workers = processes or workers  # one thread waits for each process
    with _lock:
        if lasting_name is None:
            temporary = f"{display_name(fn).strip('<>')}-{secrets.token_hex(4)}"
            handler, message = _open(temporary, task_function, workers, lasting=False)
        else:
            handler, message = _replace(lasting_name, task_function, workers) or _open(
                lasting_name, task_function, workers, lasting=True
            )
    if message:
        notify(message)
    return handler


def served_at(url: str) -> Handler | None:
    """Return the handler of this process that has this URL, without its query; None if there is none.

    Examples
    --------
    >>> from cloudtasks_nb.handlers import served_at
    >>> served_at(handler.url) is handler
    True
    """
    address = url.partition("?")[0]
    with _lock:
        return next((handler for handler in _served.values() if handler.url == address), None)


def served_as(fn: Callable[..., Any]) -> Handler | None:
    """Return the open handler of this process that calls a function; None if there is none."""
    with _lock:
        return next((handler for handler in _served.values() if handler.function is fn and not handler.closed), None)


def name_at(url: str) -> str | None:
    """Return the name of the handler that has this URL, even if it is not served now; None if no handler has it.

    Raises
    ------
    ConfigurationError, HandlerError
        If the home, or its secret, cannot be read or made.
    """
    handler = served_at(url)
    return handler.name if handler is not None and handler.url == url else name_from_url(_settings.home(), url)


def _replace(name: str, task_function: Callable[[str], TaskFunction], workers: int) -> tuple[Handler, str] | None:
    """Have an open handler call a function; return it with a message if that is another one; None: none is open."""
    handler = _served.get((str(_settings.home()), name))
    if handler is None or handler.closed:
        return None
    before, known = handler.function, handler.version
    handler.replace(task_function(handler.url), workers)
    same = known is not None and known == handler.version and not handler.uncovered
    if handler.function is before or same:
        return handler, ""
    return handler, f"{name} is served already: the function was replaced, the URL stays {handler.url}"


def _open(
    name: str, task_function: Callable[[str], TaskFunction], workers: int, *, lasting: bool
) -> tuple[Handler, str]:
    """Open a handler; return with it a message if its URL will not stay the same, else an empty text."""
    home = _settings.home()
    key = (str(home), name)

    def forget(handler: Handler) -> None:
        with _lock:
            if _served.get(key) is handler:
                del _served[key]

    address, sock = bind_address(home, name, lasting=lasting)
    _served[key] = handler = Handler(
        name=name, address=address, sock=sock, function=task_function(address.url), workers=workers, on_close=forget
    )
    if handler.lasting:
        return handler, ""
    if lasting and handler_at(port := derive_address(home, name).port):
        why = f"another kernel serves {name} at port {port}"
        hint = "they reach that kernel; handler.close() there, then ct.serve here gets the old URL"
    elif lasting:
        why = f"port {port} of {name} is in use"
        hint = "stop the program that uses it and serve again to get the old URL"
    else:
        why, hint = "a function without a name of its own", 'name="..." gives it a URL that stays'
    return handler, f"{why}: {handler.url} is new, tasks that were sent before will not reach it; {hint}"


def _own_name(fn: Callable[..., Any]) -> str | None:
    """Return the name of a function if it is the same after a restart; None for a lambda and other names."""
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else None


def _check(*, name: Any, workers: Any, service_account: Any, audience: Any) -> None:
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name) and name.isprintable()):
        raise HandlerError(f"name={name!r} cannot be a handler's name", hint='use a word: name="report"')
    if not _settings.is_count(workers):
        raise HandlerError(f"workers={workers!r} is not a number of threads", hint="use 1 or more; 8 is the default")
    if service_account is not None and not (isinstance(service_account, str) and service_account):
        raise HandlerError(
            f"service_account={service_account!r} is not an e-mail address",
            hint="use the account whose tokens the tasks carry: sa@my-project.iam.gserviceaccount.com",
        )
    if audience is not None and service_account is None:
        raise HandlerError(
            "audience= alone checks nothing",
            resource=str(audience),
            hint="add service_account=, the account whose tokens are accepted",
        )


def _process_pool(fn: Callable[..., Any], count: Any, give_up_on: Kinds) -> ProcessPool:
    if not _settings.is_count(count):
        raise HandlerError(f"processes={count!r} is not a number of processes", hint="use 1 or more, or leave it out")
    if inspect.iscoroutinefunction(fn):
        name = display_name(fn)
        raise HandlerError(
            f"{name} is an async function, which waits rather than computes: it cannot run in processes",
            resource=name,
            hint="leave processes= out: its calls run at the same time in one thread",
        )
    return ProcessPool(fn, count, give_up_on)


def _certs_url(tasks: object | None) -> Callable[[], str | None]:
    """Return a function that returns the URL of the certificates which verify the tokens; None for Google's."""
    client: Any = open_clients.newest() if tasks is None else tasks
    if client is None:
        raise HandlerError(
            "there is no connection whose tokens could be verified",
            hint="make one before, tasks = ct.local(), or give one: ct.serve(fn, service_account=..., tasks=tasks)",
        )
    # Not hasattr: it would evaluate the property, which needs a running emulator.
    if "certs_url" not in dir(client):
        raise HandlerError(
            f"tasks={type(client).__name__} is not a connection",
            resource=type(client).__name__,
            hint="give what ct.local() or ct.connect() returned",
        )
    return lambda: client.certs_url

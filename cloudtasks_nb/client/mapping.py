"""`queue.map`: what tasks call, the rows of any data, and the results of a batch when it has ended."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import SUCCESSES
from cloudtasks_nb._settings import wrong_argument
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, PreconditionError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.live import Card
from cloudtasks_nb.fanout.batch.versions import advise
from cloudtasks_nb.fanout.plan.identity import key_head
from cloudtasks_nb.fanout.plan.inputs import has_columns
from cloudtasks_nb.handlers.convert import display_name, parameters_of, signature
from cloudtasks_nb.service.connection import Connection

__all__ = ["body_for", "callee", "check_choice", "finish", "read_values", "rows_for", "short_interrupts"]

_MOST = 2  # times that a row of an earlier version is computed again
_KEPT = 'stale="resend" computes {} again'
_CHANGED = "computing {} again twice did not help: the function changed meanwhile, or another version of it answers too"


def callee(connection: Connection, fn: Any, options: Mapping[str, Any], **served: Any) -> Any:
    """Return what tasks call for a function: a handler, which is made here unless `fn` is one, or a deployment.

    Parameters
    ----------
    options : mapping
        Those of `fan_out`.
    **served
        Those of `ct.serve` alone; None and () are its defaults.

    Raises
    ------
    InvalidInputError
        If `fn` is a function of this machine and the service is Google's, or options have nothing to do.
    HandlerError
        If it cannot be served.
    """
    given: dict[str, Any] = {name: value for name, value in served.items() if value not in (None, ())}
    if hasattr(fn, "url"):
        if given:
            raise InvalidInputError(
                f"{' and '.join(given)}: {fn.name} is served already",
                resource=fn.name,
                hint=f"give {next(iter(given))}= where it was made, or the function itself: queue.map(fn, …)",
            )
        return fn
    name = display_name(fn)
    if connection.transport.google and callable(fn):
        raise InvalidInputError(
            f"Google cannot call {name}: it is a function of this machine",
            resource=name,
            hint=f"service = ct.deploy({name}, …, run=True) makes a service of it: queue.map(service, …)",
        )
    from cloudtasks_nb.handlers.serving import serve  # noqa: PLC0415 - loads aiohttp, which only handlers need

    given |= {one: options[one] for one in ("service_account", "audience") if options[one] is not None}
    named = None if name.isidentifier() else options["name"]
    return serve(fn, name=named, tasks=connection, store=connection.store.url, **given)


def read_values(data: Any) -> Any:
    """Return values of an iterator or a set as a list, and frames as they are, which may be larger than memory."""
    if isinstance(data, (set, frozenset)):  # in the same order in every kernel, as far as its values have one
        with suppress(TypeError):
            return sorted(data)
    if isinstance(data, (AbstractSet, ValuesView, deque)):
        return [*data]
    if not isinstance(data, Iterator) or has_columns(data):
        return data
    first = [*islice(data, 1)]
    return chain(first, data) if any(map(_is_part, first)) else [*first, *data]


def rows_for(fn: Callable[..., Any], data: Any) -> Any:
    """Return values as rows with the column of the first parameter of a function, and other data as it is.

    Raises
    ------
    InvalidInputError
        If there are values, and the function has no parameter with a name, or if they have several dimensions.

    Examples
    --------
    >>> rows_for(lambda day: day, pd.Series(["2013-01-01"], index=["first"]))
                  day
    first  2013-01-01
    """
    if _is_array(data) and hasattr(data, "to_pylist"):  # pandas would round its integers beside a missing value
        data = data.to_pylist()
    if _is_array(data):
        if getattr(data, "ndim", 1) != 1:
            raise InvalidInputError(
                f"an array of {data.ndim} dimensions is no list of values",
                resource=type(data).__name__,
                hint="give a DataFrame: its columns are the arguments",
            )
        series = hasattr(data, "to_frame") and not isinstance(data, pd.Index)
        return (data if series else pd.Series(data)).to_frame(_first_parameter(fn))
    if not isinstance(data, (list, tuple, range)) or any(map(_is_part, data)):
        return data
    name = _first_parameter(fn)
    return [{name: value} for value in data] or pd.DataFrame(columns=[name])


def body_for(fn: Callable[..., Any], rows: Any, data: Any, body: Any) -> Any:
    """Return the body of tasks: of values, an index with a name is no argument, and a parameter may have no name.

    Parameters
    ----------
    rows : object
        What `rows_for` has made of the data.
    data, body : object
        As they were given.
    """
    if body is not None or rows is data:
        return body
    name, parameters = _first_parameter(fn), parameters_of(fn)
    if signature(fn) is None or (parameters.mismatch((), [name]) and not parameters.mismatch((None,), ())):
        return f"{{{name}}}"
    return [name] if isinstance(rows, pd.DataFrame) and any(level is not None for level in rows.index.names) else None


def check_choice(name: str, choice: Any) -> None:
    """Refuse what is not an answer to the question what becomes of some rows.

    Raises
    ------
    InvalidInputError
        If it is neither "resend" nor "keep".
    """
    if choice not in ("resend", "keep"):
        hint = f'{name}="resend" sends such rows again, {name}="keep" leaves them as they are'
        raise wrong_argument(name, choice, 'is neither "resend" nor "keep"', hint)


@contextmanager
def short_interrupts() -> Iterator[None]:
    """Have an interrupt show no frame of this package in a notebook, and few in a script."""
    try:
        yield
    except KeyboardInterrupt:
        short: Any = KeyboardInterrupt()
        short._render_traceback_ = lambda: ["KeyboardInterrupt"]  # IPython asks for it
        raise short from None


def finish(batch: Batch, *, stale: str, failed: str) -> pd.DataFrame:
    """Send the rows of a batch again that are to be, wait, and return the results.

    Rows that were in flight when the function changed are sent again, too. If the waiting ends early, a line says how
    to come back to the batch.
    """
    view = batch_view(batch)
    code = view.code = f'tasks.batch("{batch.id}")'
    sent = Counter[bytes]()  # how often a row was computed again, by what the ids of its tasks have in common
    try:
        with Card(view) as card:
            if stale == "resend":
                _resend_stale(batch, sent)
            if failed == "resend" and (rows := batch.progress().failed):
                notify(f"sending {counted(rows, 'failed rows')} again")
                batch.retry_failed()
            view.wait(card)
            while stale == "resend" and _resend_stale(batch, sent, ": an earlier version ended {} meanwhile"):
                view.wait(card)
            with advise(_KEPT if stale == "keep" else _CHANGED):
                found = batch.results()
            card.draw()
    except (KeyboardInterrupt, CloudTasksError):
        again = f"the same cell waits for it again, batch = {code} finds it, {code}.cancel() cancels it"
        notify(f"batch {batch.id} was not cancelled: {again}")
        raise
    found.attrs["batch"] = batch.id
    if left := int((~found["state"].isin(SUCCESSES)).sum()):
        notify(f'{left:,} did not succeed: batch = {code} finds their batch, failed="resend" sends failed ones again')
    return found


def _resend_stale(batch: Batch, sent: Counter[bytes], why: str = "") -> bool:
    """Compute the rows again that an earlier version of the function has computed; return whether there are any.

    Each of them twice at most, as the function may change again and again. A line says how many, and `why`, where "{}"
    stands for them.
    """
    try:
        rows = batch.stale()
    except PreconditionError:  # the function has no source, and so no version
        return False
    rows = rows.loc[[sent[key_head(task)] < _MOST for task in rows["task"]]]
    if rows.empty:
        return False
    sent.update(map(key_head, rows["task"]))
    failed, them = batch.progress().failed or 0, "it" if len(rows) == 1 else "them"
    few = f'; stale="keep", failed="resend" computes only the {failed:,} that failed'
    more = why or (few if 0 < failed < len(rows) else '; stale="keep" keeps {}')
    notify(f"computing {counted(len(rows), 'rows')} again{more.format(them)}")
    batch.resend(rows)
    return True


def _is_part(one: Any) -> bool:
    """Return whether an item of the data is a row, or a frame, and not the value of an argument."""
    return isinstance(one, Mapping) or has_columns(one) or hasattr(one, "compute")


def _is_array(data: Any) -> bool:
    """Return whether it is an array or a Series, also of Polars and pyarrow, and has no columns."""
    if not hasattr(data, "__array__"):  # such as a LazyFrame, which warns when its columns are looked up
        return False
    return not (hasattr(data, "columns") or getattr(getattr(data, "dtype", None), "names", None))


def _first_parameter(fn: Callable[..., Any]) -> str:
    """Return the name of the first parameter."""
    found, name = signature(fn), display_name(fn)
    if found is None:  # such as int
        return "value"
    hint = "give a DataFrame: its columns are the arguments"
    for one in found.parameters.values():
        if one.kind is one.VAR_POSITIONAL:
            hint = f'queue.map(lambda value: {name}(value), …, name="{name}")'
        elif one.kind is not one.VAR_KEYWORD:
            return one.name
    raise InvalidInputError(f"{name} has no parameter that values could be for", resource=name, hint=hint)

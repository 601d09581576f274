"""`queue.map`: what tasks call, the rows of any data, and the results of a batch when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, PreconditionError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.handlers.convert import display_name, signature
from cloudtasks_nb.service.connection import Connection

__all__ = ["body_for", "callee", "check_stale", "resend_stale", "rows_for", "wait_for_results"]


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


def body_for(rows: Any, data: Any, body: Any) -> Any:
    """Return the body of tasks: of values, an index with a name is no argument.

    Parameters
    ----------
    rows : object
        What `rows_for` has made of the data.
    data, body : object
        As they were given.
    """
    values = rows is not data and isinstance(rows, pd.DataFrame)
    if body is None and values and any(name is not None for name in rows.index.names):
        return [*rows.columns]
    return body


def check_stale(stale: Any) -> None:
    """Refuse what is not an answer to the question what becomes of rows of an earlier version.

    Raises
    ------
    InvalidInputError
        If it is neither "resend" nor "keep".
    """
    if stale not in ("resend", "keep"):
        raise InvalidInputError(
            f'stale={stale!r} is neither "resend" nor "keep"',
            resource="stale",
            hint='stale="keep" keeps what an earlier version of the function has computed',
        )


def resend_stale(batch: Batch) -> None:
    """Compute the rows again that an earlier version of the function has computed, and say so."""
    try:
        rows = batch.stale()
    except PreconditionError:  # the function has no source, and so no version
        return
    if len(rows):
        notify(f'computing {counted(len(rows), "rows")} again; stale="keep" keeps them')
        batch.resend(rows)


def wait_for_results(batch: Batch) -> pd.DataFrame:
    """Wait for a batch and return its results; if the waiting ends early, print how to come back to the batch."""
    try:
        batch.wait()
    except (KeyboardInterrupt, CloudTasksError):
        again = f'batch = tasks.batch("{batch.id}") has its verbs, such as batch.cancel()'
        notify(f"batch {batch.id} was not cancelled: the same cell waits for it again, and {again}")
        raise
    return batch.results()


def _is_part(one: Any) -> bool:
    """Return whether an item of the data is a row, or a frame, and not the value of an argument."""
    return isinstance(one, (Mapping, pd.DataFrame)) or hasattr(one, "__arrow_c_stream__") or hasattr(one, "compute")


def _is_array(data: Any) -> bool:
    """Return whether it is an array or a Series, also of Polars and pyarrow, and has no columns."""
    if not hasattr(data, "__array__"):  # such as a LazyFrame, which warns when its columns are looked up
        return False
    return not (hasattr(data, "columns") or getattr(getattr(data, "dtype", None), "names", None))


def _first_parameter(fn: Callable[..., Any]) -> str:
    found = signature(fn)
    for parameter in () if found is None else found.parameters.values():
        if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            return parameter.name
    name = display_name(fn)
    raise InvalidInputError(
        f"{name} has no parameter that values could be for",
        resource=name,
        hint="give a DataFrame: its columns are the arguments",
    )

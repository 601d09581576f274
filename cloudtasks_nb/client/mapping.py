"""`queue.map`: what tasks call, the rows of any data, and the results of a batch when it has ended."""

from __future__ import annotations

import datetime as dt
import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import SUCCESSES
from cloudtasks_nb._settings import wrong_argument
from cloudtasks_nb.display.notify import Output, notify, redirect
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, DuplicateRowsError, InvalidInputError, PreconditionError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.live import Card
from cloudtasks_nb.fanout.batch.versions import advise
from cloudtasks_nb.fanout.plan.identity import key_head
from cloudtasks_nb.fanout.plan.inputs import frames, has_columns, read_input
from cloudtasks_nb.fanout.plan.recipe import Recipe, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from cloudtasks_nb.fanout.plan.url import UrlFunction
from cloudtasks_nb.handlers.convert import display_name, parameters_of, signature
from cloudtasks_nb.handlers.version import version_of
from cloudtasks_nb.service.connection import Connection

__all__ = [
    "arguments",
    "callee",
    "check_choice",
    "fan_out_once",
    "finish",
    "read_values",
    "rows_for",
    "short_interrupts",
    "target",
]

_SEVERAL = 2  # parameters
_SHOWN = 300  # most characters of data in a hint
_SILENT = Output(message=lambda _: None, progress=lambda *_: None)
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
                hint="give it where it was made, or map the function itself",
            )
        return fn
    name = display_name(fn)
    if connection.transport.google and callable(fn):
        raise InvalidInputError(
            f"Google cannot call {name}: it is a function of this machine",
            resource=name,
            hint="deploy it with ct.deploy, and map what that returns",
        )
    from cloudtasks_nb.handlers.serving import serve  # noqa: PLC0415 - loads aiohttp, which only handlers need

    given |= {one: options[one] for one in ("service_account", "audience") if options.get(one) is not None}
    named = None if _is_name(fn) else options.get("name") or _lasting_name(fn)
    with redirect(_SILENT):  # that the function replaces an earlier one is what the cell says
        return serve(fn, name=named, tasks=connection, store=connection.store.url, **given)


def target(connection: Connection, url: Any, options: Mapping[str, Any]) -> Any:
    """Return the target of tasks: a plain function as a handler that serves it, anything else as it is.

    Raises
    ------
    InvalidInputError, HandlerError
        As `callee`.
    """
    plain = callable(url) and not hasattr(url, "url") and not isinstance(url, UrlFunction)
    return callee(connection, url, options) if plain else url


def _is_name(fn: Any) -> bool:
    name = getattr(fn, "__name__", None)
    return isinstance(name, str) and name.isidentifier()


def _lasting_name(fn: Any) -> str | None:
    """Return a name for a function without one, such as a lambda, that is the same after a restart; None: unknown."""
    digits = version_of(fn).digits
    return digits and f"{display_name(fn).strip('<>')}-{digits}"


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


def _columns_of(fn: Callable[..., Any], iterables: Sequence[Any]) -> pd.DataFrame:
    """Return the rows for several iterables: a column for each of the first parameters of a function, as `map` has it.

    Raises
    ------
    InvalidInputError
        If they have different lengths, or the function has fewer parameters with names.

    Examples
    --------
    >>> _columns_of(lambda a, b: a + b, [[1, 2], [3, 4]])
       a  b
    0  1  3
    1  2  4
    """
    found, name = signature(fn), display_name(fn)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
    names = [one.name for one in found.parameters.values() if one.kind in kinds] if found else []
    if len(names) < len(iterables):
        letters = ", ".join("abcdefghijklmnopqrstuvwxyz"[: len(iterables)])
        raise InvalidInputError(
            f"{name} has {counted(len(names), 'parameters')} with names for {len(iterables)} iterables",
            resource=name,
            hint=f"give a function that names its parameters {letters}",
        )
    values = [[*one] for one in map(read_values, iterables)]
    lengths = [*map(len, values)]
    if len({*lengths}) > 1:
        raise InvalidInputError(
            f"the iterables have different lengths: {' and '.join(f'{one:,}' for one in lengths)}",
            resource=name,
            hint="give as many values of each parameter",
        )
    return pd.DataFrame({column: _column(one) for column, one in zip(names, values, strict=False)})


def _column(values: list[Any]) -> pd.Series[Any]:
    """Return values as a column that has their types, as far as a column holds them without a change."""
    kinds = {type(one) for one in values}
    return pd.Series(values, dtype=None if len(kinds) == 1 and kinds <= {int, float, str, bool} else object)


def _check_tuples(fn: Callable[..., Any], data: Any) -> None:
    """Refuse a list of tuples for a function that needs as many arguments: each tuple would be one argument.

    Raises
    ------
    InvalidInputError
        With the same call with a list for each parameter.
    """
    found = signature(fn)
    sizes = {len(one) if isinstance(one, tuple) else 0 for one in data} if isinstance(data, list) else set()
    if found is None or len(sizes) != 1:
        return
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    needed = [one for one in found.parameters.values() if one.kind in kinds and one.default is one.empty]
    if len(needed) != next(iter(sizes)) or len(needed) < _SEVERAL:
        return
    name = display_name(fn)
    lists = ", ".join(repr([*column]) for column in zip(*data, strict=True))
    raise InvalidInputError(
        f"{name} needs {len(needed)} arguments, and each tuple of the list is one",
        resource=name,
        hint=f"queue.map({name}, {lists})" if len(lists) <= _SHOWN else "give a list for each parameter",
    )


def arguments(fn: Callable[..., Any], iterables: Sequence[Any], body: Any) -> tuple[Any, Any]:
    """Return rows for the arguments of a function, and the body of their tasks.

    Parameters
    ----------
    iterables : sequence
        The data, or the values of one parameter each.
    body : object
        As it was given.

    Raises
    ------
    InvalidInputError
        If the data has no such rows.
    """
    data = read_values(iterables[0]) if len(iterables) == 1 else _columns_of(fn, iterables)
    _check_tuples(fn, data)
    rows = rows_for(fn, data)
    return rows, _body_for(fn, rows, data, body)


def fan_out_once(fan_out: Callable[..., Batch], rows: Any, options: dict[str, Any]) -> tuple[Batch, _Repeats | None]:
    """Fan out the first of equal rows; return the batch, and which rows are equal, if some are.

    Raises
    ------
    DuplicateRowsError
        If rows have the same `key`, or the data can be read only once.
    """
    try:
        batch = fan_out(rows, **options)
    except DuplicateRowsError:
        repeats = _find_repeats(rows, options)
        if repeats is None:
            raise
        return fan_out(repeats.rows, **options), repeats
    if hasattr(rows, "__len__") and batch.progress().total < len(rows):  # the batch of this name had them before
        return batch, _find_repeats(rows, options)
    return batch, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repeats:
    """Which rows of the input are equal, as tasks."""

    rows: Any  #: the first of each, as data
    places: Sequence[int]  #: for each row of the input the place of its equal in `rows`
    index: pd.Index | None  #: of the input, if it is a frame whose labels are unique and no positions

    def spread(self, found: pd.DataFrame) -> pd.DataFrame:
        """Return the results of the first rows for all rows of the input."""
        every, names = found.iloc[[*self.places]], found.index.names
        if self.index is None:
            every.index = pd.RangeIndex(len(every), name="row")
        else:
            every.index = self.index.set_names(names)
        every.attrs.update(found.attrs)
        return every


def _find_repeats(rows: Any, options: Mapping[str, Any]) -> _Repeats | None:
    """Find the rows that make the same task; None if there are none, or the data can be read only once.

    Parameters
    ----------
    options : mapping
        Those of the fan-out, with `url`.
    """
    if options.get("key") is not None or (isinstance(rows, Iterator) and not has_columns(rows)):
        return None
    recipe, data = compile_recipe(options), read_input(rows)
    chunks = plan_chunks(data, recipe, now=dt.datetime.now(dt.UTC), errors="skip")
    known: dict[bytes, int] = {}
    places = [known.setdefault(key, len(known)) for chunk in chunks for key in chunk.keys]
    if len(known) == len(places):
        return None
    firsts, seen = list[int](), 0
    for row, place in enumerate(places):
        if place == seen:
            firsts.append(row)
            seen += 1
    index = None
    if isinstance(rows, pd.DataFrame):
        counts = isinstance(rows.index, pd.RangeIndex) and rows.index.name is None
        index = rows.index if rows.index.is_unique and not counts else None
        kept: Any = rows.iloc[firsts].reset_index(drop=True) if counts else rows.iloc[firsts]
    elif isinstance(rows, (list, tuple)):
        kept = [rows[row] for row in firsts]
    else:
        kept = _some(data, recipe, frozenset(firsts))
    return _Repeats(rows=kept, places=places, index=index)


def _some(data: Any, recipe: Recipe, chosen: AbstractSet[int]) -> Iterator[pd.DataFrame]:
    """Yield the rows of data at these positions."""
    first = 0
    for frame in frames(data, recipe.choose):
        yield frame.loc[[row in chosen for row in range(first, first + len(frame))]].reset_index(drop=True)
        first += len(frame)


def _body_for(fn: Callable[..., Any], rows: Any, data: Any, body: Any) -> Any:
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
            if failed == "resend" and batch.progress().failed:
                before = view.before
                batch.retry_failed()
                view.before = before
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
            hint = f"give a function of one value that calls {name}"
        elif one.kind is not one.VAR_KEYWORD:
            return one.name
    raise InvalidInputError(f"{name} has no parameter that values could be for", resource=name, hint=hint)

"""Turn the rows of the input into chunks of tasks: templates rendered, identities digested, every row checked."""

from __future__ import annotations

import datetime as dt
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, repeat
from typing import Any

import orjson
import pandas as pd
from google.cloud.tasks_v2 import types

from cloudtasks_nb._names import TYPES_HEADER
from cloudtasks_nb._settings import wrong_argument
from cloudtasks_nb.errors import InvalidInputError, RowsError
from cloudtasks_nb.fanout.plan.body import canonical, suggest_body
from cloudtasks_nb.fanout.plan.columns import Block, Table
from cloudtasks_nb.fanout.plan.inputs import frames
from cloudtasks_nb.fanout.plan.preview import Preview, shown_names
from cloudtasks_nb.fanout.plan.recipe import BREAK, Recipe, compile_recipe
from cloudtasks_nb.fanout.plan.templates import Problems
from cloudtasks_nb.fanout.wire import TAG_BYTES, http_requests, split_task, tasks
from cloudtasks_nb.service.convert import HTTP_METHODS, default_audience, micros, retry_message
from cloudtasks_nb.store.types import header_text

__all__ = ["Chunk", "Forecast", "literal_task", "plan_chunks", "plan_row", "read_message", "read_target", "read_task"]

#: Bytes of a stored task that the service accepts, less what it adds itself (the name, times and its User-Agent header)
#: and the header with the tag of a row's task.
_LARGEST_TASK = 1_048_569 - 700 - TAG_BYTES
_BYTES = 1 << 20  # of the tasks in a chunk; one of a single row may have more
_REQUEST = 100  # tasks of a call; a slice of a block has a multiple of them if its tasks are small enough
_NAMED = 5  # rows that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Up to 2,000 rows of a frame of the input, rendered; all sequences have one item a row, in input order."""

    rows: Sequence[int]  #: position of each row in the whole input
    keys: Sequence[bytes]  #: 16 bytes that identify the row in its batch (what ``key=`` names, digested)
    #: 16 bytes over method, url, headers and body, of which 8 count: equal ones send the same request; zeros for a
    #: rejected row
    digests: Sequence[bytes]
    #: `google.cloud.tasks.v2.Task` on the wire, without its name; empty for a row that is rejected, or of another home
    tasks: Sequence[bytes]
    shown: bytes  #: the columns of the input that `batch.tasks()` shows, encoded by `Preview`; opaque elsewhere
    labels: bytes = b""  #: those of the index, encoded by `Preview`; opaque elsewhere, empty if they are not known
    rejected: Mapping[int, str] = field(default_factory=dict)  #: index in this chunk -> why the row is no task


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What spooling the rows of a dry run would do; sequences and indexes are about the first rows of the input."""

    tasks: Sequence[str | None]  #: ids; None: it cannot be known, or there would be none
    problems: Mapping[int, str]  #: why a row would not be sent
    sendable: int  #: how many of all rows would be sent
    duplicates: int  #: how many of all rows have the key of an earlier row
    states: Sequence[str] = ()  #: "new", or the state of the row that the batch has
    known: Mapping[str, int] = field(default_factory=dict)  #: where or in which state -> how many are there already
    new: str | None = None  #: id of the batch, if this home does not have it
    refusal: str = ""  #: text of the error for which no row would be sent; empty: they would be sent


def _digest(data: bytes) -> bytes:
    """Return the 16 bytes that stand for what a row sends, or for the cells of its key."""
    return hashlib.blake2b(data, digest_size=16).digest()


class _Renderer:
    """Renders blocks by one recipe.

    Parameters
    ----------
    now : datetime.datetime
        From when delays count.
    complete : bool
        Whether all rows are in one frame, so that its index has the labels of all.
    """

    def __init__(self, recipe: Recipe, now: dt.datetime, *, complete: bool) -> None:
        self.missing: set[str] = set()  #: columns whose missing cells are why rows cannot become tasks
        self._recipe = recipe
        self._now = now
        self._complete = complete
        self._reasons: dict[object, str | None] = {}  # by names in a body: why a handler's function does not take them
        self._request = types.HttpRequest.pb()(http_method=HTTP_METHODS.index(recipe.method))
        settings = types.Task.pb()()  # the same for all rows
        if recipe.dispatch_deadline is not None:
            settings.dispatch_deadline.FromTimedelta(recipe.dispatch_deadline)
        if recipe.retry is not None:
            settings.retry_config.CopyFrom(retry_message(recipe.retry))
        due = recipe.schedule.fixed(now)
        self._settings = settings.SerializeToString() + (b"" if due is None else _schedule_time(due))

    def render(self, block: Block) -> Iterator[Chunk]:
        """Turn the rows of a block into tasks, in several chunks only where these are too large together."""
        problems = Problems()
        urls, stand_ins = self._recipe.url.render(block, problems)
        bodies, identities = self._recipe.body.render(block, problems)
        self._check_calls(bodies, block, problems)
        heads = self._heads(block, problems)
        moments = self._recipe.schedule.render(block, self._now, problems)
        typed = self._typed(block, heads)
        made = http_requests(urls, heads if typed is None else typed, bodies)
        same = urls is stand_ins and bodies is identities and typed is None
        digests = list(map(_digest, made if same else http_requests(stand_ins, heads, identities)))
        times = repeat(b"") if moments is None else map(_schedule_time, moments)
        ready = tasks(made, self._tokens(urls), times, self._settings)
        keys = self._keys(block, digests, problems)
        for index, task in enumerate(ready):
            if len(task) > _LARGEST_TASK:
                problems.add(index, f"{len(task):,} bytes are too many for a task; the service takes up to 1 MiB")
        for index in problems.reasons:  # without a key, the position of a row that is no task identifies it
            digests[index], ready[index] = bytes(16), b""
            if self._recipe.key is None:
                keys[index] = _digest(b"rejected %d" % (block.first + index))
        self.missing |= problems.missing
        shown = Preview.of(block, self._recipe.columns_used, complete=self._complete)
        labels = shown.only_labels()
        for start, stop in _slices(ready):
            rejected = {index - start: why for index, why in problems.reasons.items() if start <= index < stop}
            yield Chunk(
                rows=range(block.first + start, block.first + stop),
                keys=keys[start:stop],
                digests=digests[start:stop],
                tasks=ready[start:stop],
                shown=shown.encode(start, stop),
                labels=labels.encode(start, stop),
                rejected=rejected,
            )

    def _check_calls(self, bodies: Sequence[bytes], block: Block, problems: Problems) -> None:
        """Check that the function of a handler takes what the bodies give, once for each set of names.

        Raise InvalidInputError if no row fits to the function; note those that do not fit, if rows differ.
        """
        handler = self._recipe.url.handler
        mismatch = getattr(handler, "mismatch", None)  # of a function that is served here: why it takes no body
        if mismatch is None:
            return
        uniform = self._recipe.body.uniform and not any(column.lacking for column in block.columns.values())
        for index, body in enumerate(bodies[:1] if uniform else bodies):
            names = _names(body)
            if names not in self._reasons:
                self._reasons[names] = mismatch(body)
            reason = self._reasons[names]
            if reason is not None and uniform:
                function = getattr(handler, "function", None)
                meant, hint = suggest_body(function, [*block.columns]) if function else ("", None)
                reason = f"the function cannot be called with these bodies: {reason}{meant}"
                raise InvalidInputError(reason, resource="body", hint=hint)
            if reason is not None:
                problems.add(index, f"body: {reason}")

    def _tokens(self, urls: Iterable[str]) -> Iterable[bytes]:
        """Return the field `oidc_token` of each request; without an audience its URL decides."""
        account, audience = self._recipe.service_account, self._recipe.audience
        if account is None:
            return repeat(b"")
        return (
            repeat(_token(account, audience)) if audience else (_token(account, default_audience(url)) for url in urls)
        )

    def _heads(self, block: Block, problems: Problems) -> Iterable[bytes]:
        """Return the HttpRequest of each row without URL and body."""
        texts = self._recipe.headers
        if not any(text.fields for _, text in texts):
            return repeat(self._head([text.literals[0] for _, text in texts]))
        columns = []
        for name, text in texts:
            columns.append(text.render(block, problems))
            for index, value in enumerate(columns[-1]):
                if BREAK.search(value):
                    problems.add(index, f'the header "{name}" would have several lines')
        return list(map(self._head, zip(*columns, strict=True)))

    def _typed(self, block: Block, heads: Iterable[bytes]) -> Iterable[bytes] | None:
        """Return the heads with what the values of each row are, for a handler; None if JSON says it of all.

        They do not count in the identity of a row, which was the same before handlers could read them.
        """
        found = self._recipe.body.types(block) if self._recipe.url.reads_types else None
        if found is None:
            return None
        return [head + _types_header(header_text(one)) for head, one in zip(heads, found, strict=False)]

    def _head(self, values: Iterable[str]) -> bytes:
        for (name, _), value in zip(self._recipe.headers, values, strict=True):
            self._request.headers[name] = value
        return self._request.SerializeToString(deterministic=True)

    def _keys(self, block: Block, digests: list[bytes], problems: Problems) -> list[bytes]:
        key = self._recipe.key
        if key is None:
            return list(digests)
        if isinstance(key, tuple):
            values = [problems.cells(block.columns[name]) for name in key]
            return [_digest(canonical(orjson.dumps(row))) for row in zip(*values, strict=True)]
        return [_digest(b"row %d" % position) for position in range(block.first, block.first + block.length)]


@lru_cache(maxsize=4_096)
def _token(account: str, audience: str) -> bytes:
    token = {"service_account_email": account, "audience": audience}
    return types.HttpRequest.pb()(oidc_token=token).SerializeToString()


@lru_cache(maxsize=4_096)
def _types_header(text: str) -> bytes:
    """Return the field of an HttpRequest with the header that says what the values are."""
    return types.HttpRequest.pb()(headers={TYPES_HEADER: text}).SerializeToString() if text else b""


@lru_cache(maxsize=4_096)
def _schedule_time(moment: int) -> bytes:
    """Return the field of a Task that schedules it for a time in microseconds since 1970."""
    task = types.Task.pb()()
    task.schedule_time.FromMicroseconds(moment)
    return task.SerializeToString()


def _names(body: bytes) -> frozenset[str] | None:
    """Return what decides whether a function can be called with a body: the names in an object."""
    try:
        value = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return None
    return frozenset(value) if isinstance(value, dict) else None


def plan_chunks(
    data: Any,
    recipe: Recipe,
    *,
    now: dt.datetime,
    errors: str = "raise",
    on_progress: Callable[[int], object] = lambda _: None,
    on_note: Callable[[str], object] = lambda _: None,
) -> Iterator[Chunk]:
    """Render the input, which is read once, into chunks of up to 2,000 tasks and 1 MiB.

    Frames without a row are one chunk without one, with what it shows of the columns.

    Parameters
    ----------
    now : datetime.datetime
        From when delays, and the 30 days that a schedule may reach ahead, count.
    errors : {"raise", "skip"}
        What to do with rows that cannot become tasks. With "skip" they are in `Chunk.rejected`.
    on_progress : callable, optional
        Called with the number of rows that were read since the last time.
    on_note : callable, optional
        Called with lines about what the frames of the batch show differently from the input.

    Raises
    ------
    RowsError
        After the frame with the first bad row has been read, with all bad rows up to there; no chunk follows.
    TemplateError, NaiveTimeError, InvalidInputError
        If the data or the arguments as a whole are wrong.
    """
    if errors not in ("raise", "skip"):
        raise wrong_argument("errors", errors, 'is neither "raise" nor "skip"', 'use errors="skip"')
    whole = isinstance(data, pd.DataFrame)
    renderer = _Renderer(recipe, now, complete=whole)
    named: list[str] = []
    bad, position, labelled = 0, 0, None
    table: Table | None = None
    for frame in frames(data, recipe.choose):
        table = Table(frame, labelled=labelled, part=not whole)
        recipe.check(table.columns)
        if table.length and not position:  # the first frame decides whether the input has labels
            labelled = table.labels != []
            for note in _notes(table, recipe):
                on_note(note)
        for block in table.blocks(position):
            for chunk in renderer.render(block):
                if errors == "raise":
                    bad += len(chunk.rejected)
                    first = sorted(chunk.rejected.items())[: _NAMED - len(named)]
                    named += [f"row {chunk.rows[index]}: {reason}" for index, reason in first]
                if not bad:
                    yield chunk
            on_progress(block.length)
        position += table.length
        if bad:
            raise _rows_error(named, bad, position, renderer.missing, whole=whole)
    yield from _without_rows(table, position, recipe)


def _without_rows(table: Table | None, count: int, recipe: Recipe) -> Iterator[Chunk]:
    """Yield what is shown of the columns of the last frame, if all frames have no rows."""
    if table is not None and not count:
        shown = Preview.of(table.block(0, 0, 0), recipe.columns_used)
        yield Chunk(rows=(), keys=(), digests=(), tasks=(), shown=shown.encode(0, 0))


def _notes(table: Table, recipe: Recipe) -> Iterator[str]:
    """Yield what the frames of a batch show differently from its input."""
    renamed = {name: new for name, new in shown_names(table, recipe.columns_used).items() if name != new}
    if renamed:
        names = ", ".join(f'"{name}" is "{new}"' for name, new in renamed.items())
        yield f"batch.tasks() has columns of its own with these names, so {names} there"
    if table.labels is None:
        yield (
            f"the index of the input {table.fault}, so a join of the input to batch.tasks() or results() by index is "
            "wrong: these have the position of each row as their index. Call df.reset_index(drop=True) before fan_out, "
            "or join by columns: df.merge(batch.results(), on=[...])"
        )


def literal_task(options: Mapping[str, Any], *, now: dt.datetime) -> Any:
    """Return the raw Task of a single task, without a name: a row without columns, in whose options a brace is a brace.

    `options` are `TaskOptions`.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    renderer = _Renderer(compile_recipe(options, literal=True), now, complete=False)
    (chunk,) = renderer.render(Block(first=0, length=1, columns={}))
    if chunk.rejected:
        raise InvalidInputError(
            chunk.rejected[0],
            hint="shorten the headers or the body: put the data where the target can read it, and send where the data "
            'lies: {"file": "gs://bucket/day.parquet"}',
        )
    return read_message(chunk.tasks[0])


def plan_row(data: Any, recipe: Recipe, row: int, *, now: dt.datetime) -> Any:
    """Render the row at a position of the input to a raw Task without a name, or to the reason why it cannot be one.

    Raises
    ------
    TemplateError, NaiveTimeError, InvalidInputError
        If the input does not have so many rows, or the arguments as a whole are wrong.
    """
    renderer, position = _Renderer(recipe, now, complete=False), 0
    for frame in frames(data, recipe.choose):
        if row < position + len(frame):
            table = Table(frame, part=not isinstance(data, pd.DataFrame))
            recipe.check(table.columns)
            (chunk,) = renderer.render(table.block(position, row - position, row - position + 1))
            return chunk.rejected.get(0) or read_message(chunk.tasks[0])
        position += len(frame)
    rows = f"{position:,} rows, from 0 to {position - 1:,}" if position else "no rows"
    raise InvalidInputError(
        f"there is no row {row:,}: the input has {rows}", resource="row", hint="plan.try_one(row=0)"
    )


def read_message(wire: bytes, name: str = "") -> Any:
    """Return a task on the wire as a message with this name."""
    task = types.Task.pb().FromString(wire)
    task.name = name
    return task


def read_task(wire: bytes) -> tuple[str, bytes, int | None]:
    """Return URL, body and schedule of a task on the wire; the schedule in microseconds since 1970, if it has one."""
    task = read_message(wire)
    due = micros(task.schedule_time) if task.HasField("schedule_time") else None
    return task.http_request.url, task.http_request.body, due


def read_target(wire: bytes) -> tuple[str, int | None]:
    """Return URL and schedule of a task on the wire, as `read_task`; it builds no message for a row."""
    url, settings = split_task(wire)
    return url, _due(settings)


@lru_cache
def _due(settings: bytes) -> int | None:
    return read_task(settings)[2]


def _rows_error(named: list[str], count: int, read: int, missing: set[str], *, whole: bool) -> RowsError:
    """Return the error for bad rows, some of which are named; `read` rows were looked at, perhaps the `whole` input."""
    lines = [f"{count:,} of the {'' if whole else 'first '}{read:,} rows cannot become tasks", *named]
    if count > len(named):
        lines.append(f"… and {count - len(named):,} more")
    skip = 'errors="skip" sends the other rows and lists these as rejected'
    drop = f"leave them out first: df.dropna(subset={sorted(missing)}); or " if missing else ""
    return RowsError("\n  ".join(lines), hint=f"nothing was sent; {drop}{skip}")


def _slices(tasks: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield first and last index plus one of chunks that are not too large."""
    ends = [0, *accumulate(map(len, tasks))]
    start, length = 0, len(tasks)
    while start < length:
        stop = max(bisect_right(ends, ends[start] + _BYTES) - 1, start + 1)
        if start + _REQUEST <= stop < length:
            stop -= (stop - start) % _REQUEST
        yield start, stop
        start = stop

"""Turn the data into chunks of tasks; rows become protobuf messages here only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pandas as pd
from google.cloud.tasks_v2 import types

from cloudtasks_nb.errors import InvalidInputError, RowsError
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.input import Table, frames
from cloudtasks_nb.fanout.plan.recipe import ROW, Recipe, compile_recipe
from cloudtasks_nb.fanout.plan.render import Rendered, Renderer
from cloudtasks_nb.fanout.plan.shown import decode_shown
from cloudtasks_nb.fanout.wire import SharedFields
from cloudtasks_nb.service.convert import METHODS, micros

__all__ = [
    "ROW",
    "Chunk",
    "Errors",
    "Recipe",
    "compile_recipe",
    "decode_shown",
    "plan_chunks",
    "plan_few",
    "read_task",
]

#: What to do with rows that cannot become tasks.
Errors = Literal["raise", "skip"]

#: A batch call takes 100 tasks; 4 MiB, less their names, are what common servers take in one message.
_ROWS = 100
_BYTES = 4 * 2**20 - 2**17

_NAMED = 5  # rows that an error names


def plan_chunks(
    data: Any,
    recipe: Recipe,
    *,
    now: dt.datetime,
    errors: Errors = "raise",
    on_progress: Callable[[int], object] | None = None,
) -> Iterator[Chunk]:
    """Render the input, which is read once, into chunks of up to 100 tasks and 4 MiB.

    Parameters
    ----------
    data : pandas.DataFrame, iterable of them, or object with ``__arrow_c_stream__``
    recipe : Recipe
    now : datetime.datetime
        From when delays, and the 30 days that a schedule may reach ahead, count.
    errors : {"raise", "skip"}
        What to do with rows that cannot become tasks. With "skip" they are in `Chunk.rejected`.
    on_progress : callable, optional
        Called with the number of rows that were read since the last time.

    Raises
    ------
    RowsError
        After the frame with the first bad row has been read, with all bad rows up to there; no chunk follows.
    TemplateError, NaiveTimeError, InvalidInputError
        If the data or the arguments as a whole are wrong.
    """
    if errors not in ("raise", "skip"):
        raise InvalidInputError(
            f'errors="{errors}" is neither "raise" nor "skip"', resource="errors", hint='say errors="skip"'
        )
    renderer = Renderer(recipe, _shared_fields(recipe), now)
    return _chunks(data, recipe, renderer, _Complaint() if errors == "raise" else None, on_progress or (lambda _: None))


def _chunks(
    data: Any,
    recipe: Recipe,
    renderer: Renderer,
    complaint: _Complaint | None,
    on_progress: Callable[[int], object],
) -> Iterator[Chunk]:
    packer, position = _Packer(), 0
    for frame in frames(data):
        table = Table(frame)
        recipe.check(table.sources)
        for block in table.blocks(position):
            rendered = renderer.render(block)
            if complaint is not None:
                complaint.note(rendered)
            if complaint is None or not complaint.count:
                yield from packer.add(rendered)
            on_progress(block.length)
        position += table.length
        if complaint is not None and complaint.count:
            raise complaint.error(position, whole=isinstance(data, pd.DataFrame))
    yield from packer.rest()


def plan_few(data: Any, recipe: Recipe, *, now: dt.datetime) -> list[Any]:
    """Render each row of a small frame to a raw Task without a name, or to the reason why it cannot be one (text).

    Raises
    ------
    TemplateError, NaiveTimeError, InvalidInputError
        If the data or the arguments as a whole are wrong.
    """
    read = types.Task.pb().FromString
    return [
        chunk.rejected[index] if index in chunk.rejected else read(wire)
        for chunk in plan_chunks(data, recipe, now=now, errors="skip")
        for index, wire in enumerate(chunk.tasks)
    ]


def read_task(wire: bytes) -> tuple[str, bytes, int | None]:
    """Return URL, body and schedule of a task on the wire; the schedule in microseconds since 1970, if it has one."""
    task = types.Task.pb().FromString(wire)
    due = micros(task.schedule_time) if task.HasField("schedule_time") else None
    return task.http_request.url, task.http_request.body, due


def _shared_fields(recipe: Recipe) -> SharedFields:
    """Serialize what all tasks of a recipe share."""
    request, task = types.HttpRequest.pb(), types.Task.pb()
    token, settings = request(), task()
    recipe.delivery.write(token, settings)
    return SharedFields(
        method=request(http_method=METHODS.index(recipe.delivery.method)).SerializeToString(),
        token=token.SerializeToString(),
        settings=settings.SerializeToString(),
    )


class _Complaint:
    """The rows that cannot become tasks, counted; the first few with their reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._named: list[str] = []
        self._missing: set[str] = set()

    def note(self, rendered: Rendered) -> None:
        reasons = rendered.problems.reasons
        for index in sorted(reasons)[: _NAMED - len(self._named)]:
            self._named.append(f"row {rendered.first + index}: {reasons[index]}")
        self.count += len(reasons)
        self._missing |= rendered.problems.missing

    def error(self, read: int, *, whole: bool) -> RowsError:
        """Return the error; `read` rows were looked at, which may be the `whole` input."""
        lines = [f"{self.count:,} of the {'' if whole else 'first '}{read:,} rows cannot become tasks", *self._named]
        if self.count > len(self._named):
            lines.append(f"… and {self.count - len(self._named):,} more")
        skip = 'errors="skip" sends the other rows and lists these as rejected'
        drop = f"leave them out first: df.dropna(subset={sorted(self._missing)}); or " if self._missing else ""
        return RowsError("\n  ".join(lines), hint=f"nothing was sent; {drop}{skip}")


class _Packer:
    """Gathers rendered rows to chunks, across the borders of blocks and frames."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._rows: list[int] = []
        self._keys: list[bytes] = []
        self._digests: list[bytes] = []
        self._tasks: list[bytes] = []
        self._shown: list[bytes] = []
        self._rejected: dict[int, str] = {}
        self._bytes = 0

    def add(self, rendered: Rendered) -> Iterator[Chunk]:
        """Take the rows of a block; give the chunks that are full by now."""
        sizes = [len(task) for task in rendered.tasks]
        start = 0
        while start < len(sizes):
            stop = self._fit(sizes, start)
            self._take(rendered, start, stop)
            self._bytes += sum(sizes[start:stop])
            if stop == start or len(self._rows) == _ROWS:
                yield from self.rest()
            start = stop

    def rest(self) -> Iterator[Chunk]:
        """Give what has been gathered, if anything."""
        if self._rows:
            yield Chunk(
                rows=self._rows,
                keys=self._keys,
                digests=self._digests,
                tasks=self._tasks,
                shown=b"\n".join(self._shown),
                rejected=self._rejected,
            )
            self._start()

    def _fit(self, sizes: list[int], start: int) -> int:
        """Return up to which row, from `start`, the rows fit into the chunk."""
        stop = min(len(sizes), start + _ROWS - len(self._rows))
        room = _BYTES - self._bytes
        while sum(sizes[start:stop]) > room:  # rare: only where bodies are larger than 40 KB
            stop -= 1
        return stop

    def _take(self, rendered: Rendered, start: int, stop: int) -> None:
        shift = len(self._rows) - start
        if rendered.problems.reasons:
            reasons = rendered.problems.reasons
            self._rejected |= {index + shift: reasons[index] for index in range(start, stop) if index in reasons}
        self._rows += range(rendered.first + start, rendered.first + stop)
        self._keys += rendered.keys[start:stop]
        self._digests += rendered.digests[start:stop]
        self._tasks += rendered.tasks[start:stop]
        if stop > start:
            self._shown.append(rendered.shown.encode(start, stop))

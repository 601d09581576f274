"""A block of rows to tasks: templates rendered, identities digested, every row checked."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import orjson

from cloudtasks_nb.fanout.plan.input import Block
from cloudtasks_nb.fanout.plan.options import LARGEST_TASK
from cloudtasks_nb.fanout.plan.recipe import Recipe, Row
from cloudtasks_nb.fanout.plan.shown import Shown, shown_names
from cloudtasks_nb.fanout.plan.templates import Problems
from cloudtasks_nb.fanout.wire import SharedFields, header, http_requests, schedule_time, tasks

__all__ = ["NOTHING", "Rendered", "Renderer"]

#: Stands in `Rendered.digests` for a row that is no task.
NOTHING = bytes(16)

_BREAK = re.compile(r"[\r\n\0]")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The rows of a block as tasks; all sequences have one item a row."""

    first: int  #: position of the first row in the whole input
    keys: list[bytes]
    digests: list[bytes]
    tasks: list[bytes]  #: empty for a row that is no task
    problems: Problems
    shown: Shown


class Renderer:
    """Renders blocks by one recipe.

    Parameters
    ----------
    recipe : Recipe
    shared : SharedFields
        The recipe's constant parts, serialized.
    now : datetime.datetime
        From when delays count.
    """

    def __init__(self, recipe: Recipe, shared: SharedFields, now: dt.datetime) -> None:
        self._recipe = recipe
        self._shared = shared
        self._now = now
        due = recipe.schedule.fixed(now)
        self._due = b"" if due is None else schedule_time(due)
        self._varying = any(text.fields for _, text in recipe.headers)
        self._head = shared.method + b"".join(header(name, text.literals[0]) for name, text in recipe.headers)

    def render(self, block: Block) -> Rendered:
        """Turn the rows of a block into tasks; rows that cannot become one are in `problems`."""
        problems = Problems()
        urls, stand_ins = self._recipe.url.render(block, problems)
        bodies, canonical = self._recipe.body.render(block, problems)
        heads = self._heads(block, problems)
        moments = self._recipe.schedule.render(block, self._now, problems)
        made = http_requests(urls, heads or repeat(self._head), bodies)
        same = urls is stand_ins and bodies is canonical
        identities = made if same else http_requests(stand_ins, heads or repeat(self._head), canonical)
        digests = [_digest(identity) for identity in identities]
        ready = tasks(
            made, self._shared, self._due if moments is None else [schedule_time(moment) for moment in moments]
        )
        keys = self._keys(block, digests, problems)
        for index, task in enumerate(ready):
            if len(task) > LARGEST_TASK:
                problems.add(index, f"{len(task):,} bytes are too many for a task; the service takes up to 1 MiB")
        self._clear(block, keys, digests, ready, problems)
        return Rendered(
            first=block.first, keys=keys, digests=digests, tasks=ready, problems=problems, shown=self._shown(block)
        )

    def _heads(self, block: Block, problems: Problems) -> list[bytes] | None:
        """Return method and headers of each row; None if the rows do not differ."""
        if not self._varying:
            return None
        entries = []
        for name, text in self._recipe.headers:
            values = text.render(block, problems)
            for index, value in enumerate(values):
                if _BREAK.search(value):
                    problems.add(index, f'the header "{name}" would have several lines')
            entries.append([header(name, value) for value in values])
        return [self._shared.method + b"".join(row) for row in zip(*entries, strict=True)]

    def _keys(self, block: Block, digests: list[bytes], problems: Problems) -> list[bytes]:
        key = self._recipe.key
        if key is None:
            return list(digests)
        if isinstance(key, Row):
            return [_digest(b"row %d" % position) for position in range(block.first, block.first + block.length)]
        columns = [block.columns[name] for name in key]
        values: Sequence[list[object]] = [column.canonical for column in columns]
        for column in columns:
            problems.add_bad(column)
        return [_digest(orjson.dumps(row)) for row in zip(*values, strict=True)]

    def _clear(
        self, block: Block, keys: list[bytes], digests: list[bytes], ready: list[bytes], problems: Problems
    ) -> None:
        """Take back what was made of rows that are no tasks; without a key only their position can identify them."""
        for index in problems.reasons:
            digests[index], ready[index] = NOTHING, b""
            if self._recipe.key is None:
                keys[index] = _digest(b"rejected %d" % (block.first + index))

    def _shown(self, block: Block) -> Shown:
        chosen = self._recipe.columns_shown
        names = shown_names(block.columns if chosen is None else chosen)
        return Shown.of((shown, block.columns[name]) for name, shown in names.items())

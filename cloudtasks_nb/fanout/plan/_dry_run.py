"""What a fan-out would do: counts, sizes, time and price, and the tasks themselves to look at."""

from __future__ import annotations

import datetime as dt
import html
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb._frames import column
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan._chunk import Chunk
from cloudtasks_nb.fanout.plan._identity import KEY_SIZE, row_sum

__all__ = ["PRICING", "NameTasks", "Plan", "Sizes", "Survey"]

#: Takes the keys of the rows of a plan's frame and the `row_sum` of all rows that would be sent (None: none would be),
#: and returns for each row the id of its task, if it can be known, and why it is not sent, if the batch has it.
NameTasks = Callable[[Sequence[bytes], int | None], Sequence[tuple[str | None, str | None]]]

#: Where the prices below come from; an estimate, without what else the project uses in the month.
PRICING = "https://cloud.google.com/tasks/pricing"

_OPERATIONS = 2  # a task: its creation and one delivery
_FREE_OPERATIONS = 1_000_000  # a month
_DOLLARS_PER_OPERATION = 0.40 / 1e6
_LOG_BYTES = 3 * 600  # a task: about three entries in the operations log (https://cloud.google.com/tasks/docs/logging)
_FREE_LOG_BYTES = 50 * 2**30  # a month (https://cloud.google.com/stackdriver/pricing)
_DOLLARS_PER_LOG_BYTE = 0.50 / 2**30

_SHOWN = 3  # rendered tasks in the repr


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of the bodies of all tasks."""

    min: int
    median: int
    max: int
    total: int

    def __str__(self) -> str:
        return f"{_bytes(self.median)} median, {_bytes(self.min)} to {_bytes(self.max)}, {_bytes(self.total)} in all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A fan-out that has been rendered and checked, of which nothing has been sent."""

    frame: pd.DataFrame  #: a row a task: `url, body, schedule_time, task, problem`, and `verdict, why` of a backfill
    rows: int  #: rows of the input
    rejected: int  #: rows that cannot become tasks
    duplicates: int  #: rows with the key of an earlier row
    sendable: int  #: tasks that `submit` would create
    body_bytes: Sizes
    queue: str
    method: str
    errors: str  #: what `submit` does with bad rows and duplicates: "raise" or "skip"
    rate: float | None  #: dispatches a second that the queue allows; None: not known
    max_concurrent: int | None
    spent: bool  #: the input was an iterator, and is read
    action: Callable[[], Any]
    about: Mapping[str, str] = field(default_factory=dict)  #: more to say of it, by name

    def submit(self) -> Any:
        """Send it: render again, spool and start, as `fan_out` without ``dry_run`` does; return the Batch.

        Raises
        ------
        InvalidInputError
            If the input was an iterator: the dry run has read it.
        """
        if self.spent:
            raise InvalidInputError(
                "the dry run has read the iterator to its end",
                hint="call fan_out with a new iterator and without dry_run=True",
            )
        return self.action()

    @property
    def time_to_drain(self) -> pd.Timedelta | None:
        """The least time that the queue's rate needs for all tasks; None if the rate is not known.

        How long the target takes for a task, and so how far `max_concurrent` slows this down, is not known.
        """
        return pd.Timedelta(seconds=self.sendable / self.rate) if self.rate else None

    @property
    def price(self) -> float:
        """Estimate in US dollars: creations and first deliveries, and the operations log."""
        operations = max(self.sendable * _OPERATIONS - _FREE_OPERATIONS, 0) * _DOLLARS_PER_OPERATION
        log = max(self.sendable * _LOG_BYTES - _FREE_LOG_BYTES, 0) * _DOLLARS_PER_LOG_BYTE
        return operations + log

    @property
    def cost(self) -> str:
        """The estimate in words."""
        operations, log = self.sendable * _OPERATIONS, _bytes(self.sendable * _LOG_BYTES)
        return (
            f"about ${self.price:,.2f}: {operations:,} operations (the first {_FREE_OPERATIONS:,} a month are free) "
            f"and about {log} of log; retries come on top ({PRICING})"
        )

    def facts(self) -> dict[str, str]:
        """Return what there is to say, by name."""
        found = {**self.about, "rows": f"{self.rows:,}", "tasks": f"{self.sendable:,}"}
        if self.rejected:
            found["rejected"] = f"{self.rejected:,} ({self._first_problem()})"
        if self.duplicates:
            found["duplicates"] = f"{self.duplicates:,} with the key of an earlier row"
        found["bodies"] = str(self.body_bytes)
        found["time to drain"] = self._drain()
        found["price"] = self.cost
        return found

    def _first_problem(self) -> str:
        problems = self.frame["problem"].dropna()
        return f"row {problems.index[0]}: {problems.iloc[0]}" if len(problems) else "none of them in the rows shown"

    def _drain(self) -> str:
        least = self.time_to_drain
        if least is None:
            return "not known: the queue's rate is not"
        at_once = "" if self.max_concurrent is None else f", at most {self.max_concurrent:,} at once"
        span = dt.timedelta(seconds=round(least.total_seconds()))
        return f"{span} at {self.rate:g} a second{at_once}; longer if the target is slower"

    @property
    def _next(self) -> str:
        if self.spent:
            return "to send it: fan_out with a new iterator and without dry_run=True"
        ways = 'errors="skip" leaves them out' if self.rejected else ""
        if self.duplicates:
            ways += ("; " if ways else "") + 'for duplicates: key=[…], key=ct.ROW or errors="skip"'
        return f"plan.submit() would raise: {ways}" if ways and self.errors == "raise" else "plan.submit()"

    def _examples(self) -> list[str]:
        sent = self.frame["problem"].isna()
        if "verdict" in self.frame:
            sent &= self.frame["verdict"] == "send"
        good = self.frame[sent].head(_SHOWN)
        lines = []
        for url, body, due in zip(good["url"], good["body"], good["schedule_time"], strict=True):
            when = "" if pd.isna(due) else f" at {due.isoformat()}"
            lines.append(f"{self.method} {url}{when} {'' if pd.isna(body) else body}"[:300].rstrip())
        return lines

    def __repr__(self) -> str:
        width = max(len(name) for name in self.facts())
        lines = [f"Plan for queue {self.queue} (nothing was sent)"]
        lines += [f"  {name:<{width}}  {text}" for name, text in self.facts().items()]
        lines += [
            f"  {'first tasks' if not number else '':<{width}}  {text}" for number, text in enumerate(self._examples())
        ]
        return "\n".join([*lines, f"→ {self._next}"])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's
        facts = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in self.facts().items()
        )
        tasks = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in self._examples())
        title = f"<b>Plan for queue {html.escape(self.queue)}</b> (nothing was sent)"
        return {
            "text/plain": repr(self),
            "text/html": f"<div>{title}<table>{facts}</table>First tasks:<ol>{tasks}</ol>"
            f"→ <code>{html.escape(self._next)}</code></div>",
        }


class Survey:
    """Counts what goes by, and keeps the first rows to be looked at.

    Parameters
    ----------
    limit : int, optional
        How many rows to keep; None: all. Of each only 40 bytes stay then, to find duplicates and the median size.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._rows = self._rejected = 0
        self._keys, self._positions = bytearray(), array("q")
        self._sizes, self._digests = array("q"), array("Q")
        self._refused: set[bytes] = set()
        self._kept: list[tuple[int, bytes, str | None, bytes, int | None, str | None]] = []

    def add(self, chunk: Chunk, read: Sequence[tuple[str, bytes, int | None]]) -> None:
        """Count the rows of a chunk; `read` is URL, body and schedule (microseconds since 1970) of each task."""
        for index, (row, key, (url, body, due)) in enumerate(zip(chunk.rows, chunk.keys, read, strict=True)):
            problem = chunk.rejected.get(index)
            if problem is None:
                self._keys += key
                self._positions.append(row)
                self._sizes.append(len(body))
                self._digests.append(int.from_bytes(chunk.digests[index][:8]))
            else:
                self._refused.add(key)
            if self._limit is None or len(self._kept) < self._limit:
                self._kept.append((row, key, None if problem else url, body, due, problem))
        self._rows += len(chunk.rows)
        self._rejected += len(chunk.rejected)

    def plan(
        self,
        *,
        verdicts: Callable[[Sequence[bytes]], Mapping[str, Sequence[Any]]] | None,
        submit: Callable[[], Any],
        name_tasks: NameTasks | None = None,
        **facts: Any,
    ) -> Plan:
        """Return the plan of what was counted; `facts` are its fields about queue and input."""
        earlier = self._earlier()
        frame = self._frame(earlier)
        known: Counter[str] = Counter()
        if name_tasks is not None:
            total = self._total(earlier, skip=facts["errors"] == "skip")
            named = name_tasks([row[1] for row in self._kept], total)
            named = [one if good else (None, None) for one, good in zip(named, frame["problem"].isna(), strict=True)]
            frame["task"] = column([task for task, _ in named], "text")
            known.update(why for _, why in named if why is not None)
        if verdicts is not None:
            for name, values in verdicts([row[1] for row in self._kept]).items():
                frame[name] = column(values, "text")
        skipped = (frame["problem"].isna() & (frame["verdict"] != "send")).sum() if "verdict" in frame else None
        sendable = self._rows - self._rejected - len(earlier) - (known.total() if skipped is None else int(skipped))
        return Plan(
            about={"known": ", ".join(f"{count:,} {why}" for why, count in known.items())} if known else {},
            frame=frame,
            rows=self._rows,
            rejected=self._rejected,
            duplicates=len(earlier),
            sendable=sendable,
            body_bytes=self._body_bytes(),
            action=submit,
            **facts,
        )

    def _total(self, earlier: Mapping[int, int], *, skip: bool) -> int | None:
        """Return the `row_sum` of the rows that would be sent, as a spool reckons it; None if that would raise."""
        if not skip and (earlier or self._rejected):
            return None
        keys = bytes(self._keys)
        lone = self._refused.difference(keys[at : at + KEY_SIZE] for at in range(0, len(keys), KEY_SIZE))
        total = row_sum([*lone], [0] * len(lone))
        every = range(len(self._positions))
        again = {bisect_left(self._positions, row) for row in earlier}
        return total + sum(
            row_sum([keys[at * KEY_SIZE : (at + 1) * KEY_SIZE]], [self._digests[at]]) for at in every if at not in again
        )

    def _body_bytes(self) -> Sizes:
        sizes = np.frombuffer(self._sizes or array("q", [0]), dtype=np.int64)
        return Sizes(min=int(sizes.min()), median=int(np.median(sizes)), max=int(sizes.max()), total=int(sizes.sum()))

    def _earlier(self) -> dict[int, int]:
        """Return for each row with the key of an earlier one the position of the first that has it."""
        if not self._positions:
            return {}
        halves = np.frombuffer(bytes(self._keys), dtype=np.uint64).reshape(-1, 2)
        positions = np.frombuffer(self._positions, dtype=np.int64)
        order = np.lexsort((positions, halves[:, 1], halves[:, 0]))
        ordered = halves[order]
        again = np.zeros(len(order), dtype=bool)
        again[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
        heads = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
        found = np.flatnonzero(again)
        return dict(zip(positions[order[found]].tolist(), positions[order[heads[found]]].tolist(), strict=True))

    def _frame(self, earlier: Mapping[int, int]) -> pd.DataFrame:
        rows = [row for row, *_ in self._kept]
        problems = [
            problem or (f"duplicate of row {earlier[row]}" if row in earlier else None)
            for row, *_, problem in self._kept
        ]
        frame = pd.DataFrame(
            {
                "url": column([url for _, _, url, *_ in self._kept], "text"),
                "body": column([body.decode() or None for _, _, _, body, *_ in self._kept], "text"),
                "schedule_time": column([due for *_, due, _ in self._kept], "time"),
                "task": column([None] * len(rows), "text"),
                "problem": column(problems, "text"),
            },
            index=pd.Index(rows, name="row", dtype="int64"),
        )
        frame.attrs["truncated"] = len(rows) < self._rows
        return frame


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1_000:  # noqa: PLR2004 - decimal units
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:,.0f} B"
        size /= 1_000
    return f"{size:,.1f} GB"

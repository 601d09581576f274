"""What goes by in a dry run, counted; the first rows are kept to be looked at."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb._frames import column
from cloudtasks_nb.fanout.plan.chunk import Asked, Chunk, Forecast
from cloudtasks_nb.fanout.plan.dry_run import Plan, Sizes
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, row_sum

__all__ = ["Foretell", "Survey"]

#: Tells what sending the rows of a plan would come to.
Foretell = Callable[[Asked], Forecast]


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
        self._first_rejected = ""
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
                self._first_rejected = self._first_rejected or f"row {row}: {problem}"
            if self._limit is None or len(self._kept) < self._limit:
                self._kept.append((row, key, None if problem else url, body, due, problem))
        self._rows += len(chunk.rows)
        self._rejected += len(chunk.rejected)

    def plan(
        self,
        *,
        verdicts: Callable[[Sequence[bytes]], Mapping[str, Sequence[Any]]] | None,
        submit: Callable[[], Any],
        foretell: Foretell | None = None,
        **facts: Any,
    ) -> Plan:
        """Return the plan of what was counted; `facts` are its fields about queue and input."""
        earlier = self._earlier()
        found = Forecast(tasks=())
        if foretell is not None:
            found = foretell(self._asked(earlier, skip=facts["errors"] == "skip"))
        frame = self._frame(earlier, found)
        sendable = self._rows - self._rejected - len(earlier) - found.left_out
        if verdicts is not None:
            for name, values in verdicts([row[1] for row in self._kept]).items():
                frame[name] = column(values, "text")
            sendable = int((frame["problem"].isna() & (frame["verdict"] == "send")).sum())
        return Plan(
            about={"known": ", ".join(f"{n:,} {where}" for where, n in found.known.items())} if found.known else {},
            frame=frame,
            rows=self._rows,
            rejected=self._rejected,
            first_rejected=self._first_rejected,
            duplicates=len(earlier),
            sendable=sendable,
            refusal=found.refusal,
            body_bytes=self._body_bytes(),
            action=submit,
            **facts,
        )

    def _asked(self, earlier: Mapping[int, int], *, skip: bool) -> Asked:
        again = {bisect_left(self._positions, row) for row in earlier}
        raises = not skip and (earlier or self._rejected)
        return Asked(
            rows=self._positions,
            read=self._rows,
            keys=bytes(self._keys),
            digests=self._digests.tobytes(),
            again=again,
            shown=sum(problem is None for *_, problem in self._kept),
            total=None if raises else self._total(again),
        )

    def _total(self, again: set[int]) -> int:
        """Return the `row_sum` of the rows that would be sent, as a spool reckons it."""
        keys = bytes(self._keys)
        lone = self._refused.difference(keys[at : at + KEY_SIZE] for at in range(0, len(keys), KEY_SIZE))
        total = row_sum([*lone], [0] * len(lone))
        every = range(len(self._positions))
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

    def _frame(self, earlier: Mapping[int, int], found: Forecast) -> pd.DataFrame:
        rows = [row for row, *_ in self._kept]
        problems, tasks, good = [], [], 0
        for row, *_, problem in self._kept:
            twice = f"duplicate of row {earlier[row]}" if row in earlier else None
            problems.append(problem or twice or found.problems.get(good))
            tasks.append(None if problems[-1] or not found.tasks else found.tasks[good])
            good += problem is None
        frame = pd.DataFrame(
            {
                "url": column([url for _, _, url, *_ in self._kept], "text"),
                "body": column([body.decode() or None for _, _, _, body, *_ in self._kept], "text"),
                "schedule_time": column([due for *_, due, _ in self._kept], "time"),
                "task": column(tasks, "text"),
                "problem": column(problems, "text"),
            },
            index=pd.Index(rows, name="row", dtype="int64"),
        )
        frame.attrs["truncated"] = len(rows) < self._rows
        return frame

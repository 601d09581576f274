"""What rows that failed of one cause have in common, which other rows have not: values of the input's columns.

A sample of the rows of each cause is compared to one of all rows. Both are evenly spread over the input, and all rows
if these are few. A value is told if at least four in five rows of the cause have it, half as many again as of all rows,
and if that is hardly by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import pandas as pd

from cloudtasks_nb.display.plural import percent_text
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.fanout.batch.report import isolated
from cloudtasks_nb.fanout.batch.table import ReadRows
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Cause
from cloudtasks_nb.fanout.outbox.records import Scope

__all__ = ["alike"]

_CAUSES = 50  # for which this is found out, the most frequent ones
_ROWS, _ALL_ROWS = 100, 500  # in the sample of a cause, and in that of all
_SHARE, _FACTOR, _CHANCE = 0.8, 1.5, 0.01
_FACTS = 2
_LONGEST = 40  # characters of a value


def alike(outbox: Outbox, rows: Scope, causes: Sequence[Cause]) -> dict[str, str]:
    """Return what the rows of causes have in common, by their keys: ``shop=berlin 100 %``; without those with nothing.

    Parameters
    ----------
    causes : sequence of Cause
        The most frequent first.
    """
    numbers = {cause.key: cause.failed + cause.retrying for cause in causes[:_CAUSES]}
    samples = outbox.causes.samples(rows, {key: min(1.0, _ROWS / n) for key, n in numbers.items()})
    if all(len(refs) <= 1 for refs in samples.values()):
        return {}
    total = sum(outbox.batches.counts(rows).values())
    every = outbox.causes.sample(rows, min(1.0, _ALL_ROWS / total))
    read = ReadRows(outbox.rows.pages_of(rows.batch, {*every, *(ref for refs in samples.values() for ref in refs)}))
    cells = read.stored.columns().set_axis(read.refs)
    texts = cells.astype(str).where(cells.notna(), "missing")
    found = {key: _facts(texts.loc[refs], texts.loc[every]) for key, refs in samples.items() if len(refs) > 1}
    return {key: ", ".join(facts) for key, facts in found.items() if facts}


def _facts(some: pd.DataFrame, every: pd.DataFrame) -> list[str]:
    """Return which values some rows have much more often than all rows, the most frequent first."""
    found = []
    for name in some.columns:
        counts = some[name].value_counts()
        value, n = counts.index[0], int(counts.iloc[0])
        having = int((every[name] == value).sum())
        share, usual = n / len(some), having / len(every)
        if share >= max(_SHARE, _FACTOR * usual) and _chance(n, len(some), having, len(every)) < _CHANCE:
            cut = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
            found.append((-share, usual, f"{isolated(mask_text(f'{name}={cut}'))} {percent_text(share)}"))
    return [text for *_, text in sorted(found)[:_FACTS]]


def _chance(n: int, rows: int, having: int, every: int) -> float:
    """Return how likely at least `n` of some rows have a value by chance, which `having` of all have."""
    ways = sum(comb(having, one) * comb(every - having, rows - one) for one in range(n, rows + 1))
    return ways / comb(every, rows)

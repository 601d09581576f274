"""The errors that refuse the rows of a `fan_out`: rows with the same key, and rows that do not fit a stored batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import BatchExistsError, CloudTasksError, DuplicateRowsError

__all__ = ["conflict_error", "duplicates_error", "overlap_error", "plain_reason", "templates_error"]

_ANY_NAME = "any new name sends all"  # the hint that always applies
_NOTHING_SENT = "nothing was sent; "


def plain_reason(error: CloudTasksError) -> str:
    """Return an error as one line for a dry run, without the words that nothing was sent."""
    return f"{error.message}; {(error.hint or '').removeprefix(_NOTHING_SENT)}"


def templates_error(label: str, batch: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> BatchExistsError:
    """Return the error for a batch that was made of other templates; these are not known if they are empty."""
    after = orjson.loads(orjson.dumps(dict(now), default=str))
    # Names with an underscore describe the sending, not the templates.
    words = sorted(word for word in before.keys() | after if before and not word.startswith("_"))
    changes = [
        mask_text(f"; {word} was {before.get(word)!r}, is {after.get(word)!r}")
        for word in words
        if before.get(word) != after.get(word)
    ]
    return _exists(f"the batch {label} was made of other templates{''.join(changes)}", batch, _ANY_NAME)


def overlap_error(found: Sequence[tuple[str, int]], total: int, *, same: bool) -> BatchExistsError:
    """Return the error for rows that other batches have.

    Parameters
    ----------
    found : sequence of (str, int)
        The batches, and how many of the rows each has; the one with the most comes first.
    total : int
        Number of all rows.
    same : bool
        Whether the first batch was made of the same templates.
    """
    label, shared = found[0]
    if shared == total:
        ways = f'tasks.batch("{label}") shows it, {_ANY_NAME}'
    elif same:
        ways = f'name="{label}" sends the other {total - shared:,}, {_ANY_NAME}'
    else:
        ways = f"it was made of other templates; {_ANY_NAME}"
    others = "".join(f", {n:,} in {other}" for other, n in found[1:3])
    return _exists(f"{shared:,} of these {total:,} rows are in the batch {label} already{others}", label, ways)


def conflict_error(rows: Sequence[int], many: int, total: int, label: str, batch: str) -> BatchExistsError:
    """Return the error for rows whose key the batch has with another request."""
    have, which = ("has a key", "row") if many == 1 else ("have keys", "rows")
    shown = ", ".join(map(str, rows)) + (", ..." if many > len(rows) else "")
    found = f"data.iloc[[{shown}]]" if many == len(rows) else "the rows with a problem in plan.frame, of dry_run=True,"
    key = "key=[...] may name more columns that distinguish rows"
    return _exists(
        f"{many:,} of {total:,} rows {have} that the batch {label} has with another request ({which} {shown})",
        batch,
        f"{found} with a new name sends what has changed, {_ANY_NAME}, and {key}",
    )


def _exists(message: str, resource: str, ways: str) -> BatchExistsError:
    return BatchExistsError(message, resource=resource, hint=f"{_NOTHING_SENT}{ways}")


def duplicates_error(rows: Sequence[tuple[int, int]], many: int, total: int) -> DuplicateRowsError:
    """Return the error for rows with the key of an earlier row; both are given by their positions."""
    shown = ", ".join(f"{row} is the same as {first}" for row, first in rows)
    return DuplicateRowsError(
        f"{many:,} of {total:,} rows {'has' if many == 1 else 'have'} the key of an earlier row: "
        f"{shown}{', ...' if many > len(rows) else ''}",
        hint='key=[...] with columns that tell the rows apart, errors="skip" (the first is sent), '
        "or key=ct.ROW (each row is its own)",
    )

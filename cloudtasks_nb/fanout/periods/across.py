"""Partitions crossed with other values: each day for each shop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.periods.partitions import COLUMNS

__all__ = ["cross"]

_MOST = 10_000_000  # rows: they are held in memory
_HINT = 'across={"shop": ["a", "b"]}, or a DataFrame with a row a combination'


def cross(frame: pd.DataFrame, across: Any) -> pd.DataFrame:
    """Return each row of a frame with each combination of other values.

    Parameters
    ----------
    frame : DataFrame
        The partitions.
    across : mapping of name to values, DataFrame or None
        Its columns come in the order of their names, so that the order in which they were written changes nothing.

    Raises
    ------
    InvalidInputError
        If it is empty, has a value twice, or a column that is ours.
    """
    if across is None:
        return frame
    table = _table(across)
    for name in table.columns:
        if name in COLUMNS:
            raise InvalidInputError(
                f'across has a column "{name}", which every backfill has', resource=name, hint="rename it"
            )
    if not len(table) or not len(table.columns):
        raise InvalidInputError("across is empty, so there is nothing to do", resource="across", hint=_HINT)
    _check_size(len(frame), len(table))
    _check_unique(table)
    return frame.merge(table[sorted(table.columns)], how="cross")


def _table(across: Any) -> pd.DataFrame:
    if isinstance(across, pd.DataFrame):
        if isinstance(across.columns, pd.MultiIndex):
            raise InvalidInputError("the names of across have several levels", resource="across", hint=_HINT)
        levels = [name for name in across.index.names if name is not None and name not in across.columns]
        table = across.reset_index(levels).reset_index(drop=True).rename(columns=str)
    elif isinstance(across, Mapping):
        columns = [_values(str(name), values) for name, values in across.items()]
        table = columns[0] if columns else pd.DataFrame()
        for column in columns[1:]:
            _check_size(len(table), len(column))
            table = table.merge(column, how="cross")
    else:
        raise InvalidInputError(f"across={type(across).__name__} names no columns", resource="across", hint=_HINT)
    return table


def _check_size(one: int, other: int) -> None:
    if one * other > _MOST:
        raise InvalidInputError(
            f"{one:,} rows crossed with {other:,} are more than {_MOST:,}",
            resource="across",
            hint="take a part of the range, or of across, after the other: they become one batch",
        )


def _check_unique(table: pd.DataFrame) -> None:
    twice = table[table.astype(object).map(repr).duplicated()]  # repr: lists have no hash
    if len(twice):
        raise InvalidInputError(
            f"across has {counted(len(twice), 'combinations')} twice: {twice.iloc[0].to_dict()}",
            resource="across",
            hint="drop_duplicates() or unique() leaves one of each",
        )


def _values(name: str, values: Any) -> pd.DataFrame:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidInputError(f'across["{name}"]={values!r} is not a list', resource=name, hint=_HINT)
    plain = values if isinstance(values, (pd.Series, pd.Index)) or hasattr(values, "dtype") else list(values)
    return pd.DataFrame({name: pd.Series(plain).reset_index(drop=True)})

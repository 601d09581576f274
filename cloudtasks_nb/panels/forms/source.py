"""The field for the data of a fan-out: a DataFrame of the notebook, or a file that is uploaded."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.forms.code import Code, IncompleteError, quoted
from cloudtasks_nb.panels.forms.notebook import frames
from cloudtasks_nb.panels.widgets.fields import Dropdown, Upload

__all__ = ["SourceField"]

_NONE = "no DataFrame in this notebook yet: create one, or upload a file"


class SourceField(widgets.HBox):
    """A dropdown of the notebook's DataFrames, and a button that uploads a CSV or Parquet file.

    Parameters
    ----------
    changed : callable
        Called when other data are chosen, or the chosen data have changed.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._uploads: dict[str, pd.DataFrame] = {}
        self._names: dict[str, str] = {}  # label -> variable or file
        self._seen: tuple[str, int, int] | None = None
        layout = {"flex": "1 1 auto"}
        self.choice = Dropdown(changed=self._notify, description="Data", options=[_NONE], layout=layout)
        self.choice.tooltip = "A DataFrame among the notebook's variables, or an uploaded file"
        self.upload = Upload(
            "Upload a file", tip="Read a CSV or Parquet file from your computer", accept=".csv,.parquet"
        )
        super().__init__([self.choice, self.upload])
        self.add_class("ctn-row")
        self.update_choices()

    @property
    def name(self) -> str:
        """Name of the chosen variable or file; empty if none is chosen."""
        return self._names.get(self.choice.value, "")

    @property
    def data(self) -> Any:
        """The chosen DataFrame.

        Raises
        ------
        IncompleteError
            If none is chosen.
        """
        found = self._all().get(self.name)
        if found is None:
            raise IncompleteError("there are no data yet", hint="make a DataFrame in a cell, or upload a file")
        return found

    @property
    def code(self) -> Code:
        """The Python expression for the chosen DataFrame."""
        return Code(
            f"pd.{_reader(self.name)}({quoted(self.name)})" if self.name in self._uploads else self.name or "df"
        )

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""
        found = self._all().get(self.name)
        return [] if found is None else [str(column) for column in found.columns]

    def update_choices(self) -> None:
        """Offer the current DataFrames and files; keep the choice if it still exists."""
        kept = self.name
        self._names = {_label(name, frame): name for name, frame in self._all().items()}
        labels = list(self._names) or [_NONE]
        self.choice.offer(labels, self._labelled(kept) or labels[0])
        self._notify()

    def choose(self, name: str) -> None:
        """Choose a variable or file by its name; do nothing if it does not exist."""
        self.choice.value = self._labelled(name) or self.choice.value

    def _labelled(self, name: str) -> str | None:
        return next((label for label, found in self._names.items() if found == name), None)

    def take(self, name: str, content: bytes) -> None:
        """Read a file, and choose it; a large one takes seconds.

        Raises
        ------
        InvalidInputError
            If it is neither a CSV nor a Parquet file, or pyarrow is missing.
        """
        reader = _reader(name)
        try:
            found = getattr(pd, reader)(io.BytesIO(content))
        # UnicodeDecodeError and pyarrow's errors are ValueErrors; ImportError: pyarrow is not installed.
        except (ValueError, OSError, ImportError, pd.errors.ParserError) as error:
            kind = "CSV" if reader == "read_csv" else "Parquet"
            raise InvalidInputError(f"{name} cannot be read as {kind}: {error}", resource=name) from error
        self._uploads[name] = found
        self.update_choices()
        self.choose(name)

    def _all(self) -> dict[str, Any]:
        """Return DataFrames and files, the newest first."""
        return dict(reversed((frames() | self._uploads).items()))

    def _notify(self) -> None:
        """Call `changed` if the chosen data are not those of the last call."""
        found = self._all().get(self.name)
        seen = None if found is None else (self.name, id(found), len(found))
        if seen != self._seen:
            self._seen = seen
            self._changed()


def _reader(name: str) -> str:
    """Return the function of pandas that reads a file."""
    return "read_parquet" if name.lower().endswith(".parquet") else "read_csv"


def _label(name: str, frame: Any) -> str:
    return f"{name}  ({counted(len(frame), 'rows')}, {counted(len(frame.columns), 'columns')})"

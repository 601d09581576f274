"""The fields of a range of dates: from, to, length of a period, time zone, and values to cross it with."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import orjson
import pandas as pd

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.forms.notebook import Code, IncompleteError, mapping_code, variable
from cloudtasks_nb.panels.forms.request_form import field

__all__ = ["RangeForm"]

_FREQS = (
    ("day", "D"),
    ("hour", "h"),
    ("15 minutes", "15min"),
    ("week, from Monday", "W-MON"),
    ("week, from Sunday", "W"),
    ("month", "MS"),
    ("quarter", "QS"),
    ("year", "YS"),
)
_OF_A_DAY = {"h", "15min"}
_HINT = "shop: bern, basel; or the name of a DataFrame, or of a dict of lists, in this notebook"


class RangeForm(widgets.VBox):
    """Chooses periods, and values with which each period is crossed.

    Parameters
    ----------
    changed : callable
        Called when any of it has changed.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self.start = field(widgets.DatePicker, "From")
        self.end = field(widgets.DatePicker, "To, included")
        self.freq = field(widgets.Dropdown, "A task each", options=_FREQS)
        self.tz = field(widgets.Combobox, "Time zone", options=sorted(zoneinfo.available_timezones()), value="UTC")
        self.across = field(widgets.Text, "Across", "optional, for each of: shop: bern, basel", tip=_HINT)
        self.newest_first = field(widgets.Checkbox, "newest first", indent=False)
        for part in (self.start, self.end, self.freq, self.tz, self.across, self.newest_first):
            part.observe(lambda _: changed(), "value")
        pair = [widgets.HBox(parts).add_class("ctn-pair") for parts in ((self.start, self.end), (self.freq, self.tz))]
        super().__init__([*pair, widgets.HBox([self.across, self.newest_first]).add_class("ctn-pair")])
        self.add_class("ctn-fields")

    @property
    def range(self) -> tuple[str, str]:
        """First and last moment as text.

        Raises
        ------
        IncompleteError
            If one is not there yet.
        """
        for part, name in ((self.start, "first"), (self.end, "last")):
            if part.value is None:
                raise IncompleteError(f"the {name} day is not chosen yet", hint="choose From and To")
        # The last day includes all its hours.
        late = " 23:59" if self.freq.value in _OF_A_DAY else ""
        return self.start.value.isoformat(), f"{self.end.value.isoformat()}{late}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.backfill` that these fields set.

        Raises
        ------
        InvalidInputError
            If `across` cannot be read.
        """
        arguments: dict[str, Any] = {"freq": self.freq.value}
        if self.tz.value.strip() not in ("", "UTC"):
            arguments["tz"] = self.tz.value.strip()
        if self.across.value.strip():
            arguments["across"] = _across(self.across.value.strip())
        if self.newest_first.value:
            arguments["newest_first"] = True
        return arguments

    @property
    def code(self) -> dict[str, Any]:
        """The same for `PanelContext.line`."""
        arguments = self.arguments
        if "across" in arguments:
            text = self.across.value.strip()
            arguments["across"] = Code(text) if text.isidentifier() else mapping_code(arguments["across"])
        return arguments


def _across(text: str) -> Any:
    """Read ``shop: bern, basel; size: 1, 2``, or the name of a variable."""
    if text.isidentifier():
        found = variable(text)
        if isinstance(found, dict | pd.DataFrame):
            return found
        raise InvalidInputError(f'across: "{text}" is neither a DataFrame nor a dict in this notebook', hint=_HINT)
    columns: dict[str, list[Any]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, colon, values = part.partition(":")
        if not (name.strip() and colon and values.strip()):
            raise InvalidInputError(f'across: "{part}" has no values', hint=_HINT)
        columns[name.strip()] = [_value(value.strip()) for value in values.split(",") if value.strip()]
    return columns


def _value(text: str) -> Any:
    """Return a number if the text is one, else the text; a quoted number is text."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found if isinstance(found, str | int | float) else text

"""Buttons with counts, of which at most one is pressed: the causes of failures, and the states of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import anywidget
import traitlets

from cloudtasks_nb.display.plural import count_text, percent_text
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["ChoiceButton", "Choices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceButton:
    """One of the buttons."""

    key: str
    text: str
    number: int  #: rows, shown in front of the text
    share: float = 0.0  #: the part of all rows that these are, drawn beside the number; 0: nothing is drawn
    note: str = ""  #: more about it, below the text
    common: str = ""  #: what the rows have in common, behind the note
    course: Sequence[float] = ()  #: bars over time, each 0 to 1
    between: Sequence[int] = ()  #: when the first and the last of its rows failed, milliseconds since 1970
    act: str = ""  #: text of the button beside it; empty: no button
    tip: str = ""  #: tooltip of that button
    colour: str = ""  #: of the dot in front of the number; empty: no dot


def _on_page(key: str) -> str:
    """Return a key as the page has it: a digest of one that has a secret."""
    return key if mask_text(key) == key else hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _items_on_page(items: list[dict[str, Any]], _widget: Any) -> list[dict[str, Any]]:
    return [{**item, "key": _on_page(item["key"])} for item in items]


class Choices(anywidget.AnyWidget):
    """Buttons of which at most one is pressed. Its methods may be called from any thread.

    Parameters
    ----------
    label : str
        The name of the group.
    kind : {"stacked", "inline"}
        Below each other, or side by side.
    picked : callable
        Called with the key of the button that was clicked, pressed or not.
    act : callable, optional
        Called with the key of an item when the button beside it was clicked.

    Attributes
    ----------
    picked : str or None
        The key of the pressed button.
    """

    _esm = source("browser.js", "choices.js")
    _css = source("theme.css", "choices.css")

    label = traitlets.Unicode().tag(sync=True)
    kind = traitlets.Unicode().tag(sync=True)
    items: Any = traitlets.List().tag(sync=True, to_json=_items_on_page)
    picked: Any = traitlets.Unicode(None, allow_none=True).tag(sync=True, to_json=lambda key, _: key and _on_page(key))

    def __init__(
        self,
        label: str,
        kind: Literal["stacked", "inline"],
        *,
        picked: Callable[[str], object],
        act: Callable[[str], object] | None = None,
    ) -> None:
        self._callbacks = {"pick": picked, **({} if act is None else {"act": act})}
        super().__init__(label=label, kind=kind)
        self.on_msg(self._on_message)

    def offer(self, choices: Sequence[ChoiceButton]) -> None:
        """Show these buttons; secrets in their texts are masked."""
        items = []
        for choice in choices:
            fields = asdict(choice)
            texts = {name: mask_text(fields[name]) for name in ("text", "common")}
            percent = percent_text(choice.share) if choice.share else ""
            items.append({**fields, **texts, "percent": percent, "count": count_text(fields.pop("number"))})
        if items != self.items:
            self.items = items

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        key = next((item["key"] for item in self.items if _on_page(item["key"]) == content["key"]), None)
        if key is not None and content["do"] in self._callbacks:
            self._callbacks[content["do"]](key)

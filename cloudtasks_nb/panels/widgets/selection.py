"""Which rows of a table are selected: what the browser wrote, made into positions of rows that are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["Selection"]


class Selection:
    """Rows that are selected by key, whether they are loaded now or not.

    The browser writes `state`: a number `n` that grows, keys that are selected (`plus`), and the name of a `base`: all
    rows that matched a filter at one moment, but for `minus`. The base itself never travels.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"n": 0, "base": "", "plus": [], "minus": []}
        self.base: frozenset[str] = frozenset()
        self._found: tuple[Mapping[str, int] | None, list[int]] = None, []

    def is_news(self, state: Mapping[str, Any]) -> bool:
        """Tell whether a state is newer than the present one.

        A kernel may handle the messages of one widget in several threads, so that an older one may come later.
        """
        return bool(state["n"] >= self.state["n"] and state != self.state)

    def of(self, ids: Iterable[str]) -> dict[str, Any]:
        """Return the next state, in which these rows and no others are selected."""
        return {"n": self.state["n"] + 1, "base": "", "plus": list(ids), "minus": []}

    def choose(self, state: dict[str, Any], *, number: int, matching: Callable[[], Iterable[str]]) -> None:
        """Take a state.

        Parameters
        ----------
        state : dict
            What the browser wrote.
        number : int
            Number of the present filter. A base is named after its own (``"3.7251"``); one that was made under
            another filter is empty: never more than was shown.
        matching : callable
            Gives the ids of the rows that match now.
        """
        if state["base"] != self.state["base"]:
            now = state["base"].partition(".")[0] == str(number)
            self.base = frozenset(matching()) if now else frozenset()
        self.state = state
        self._found = None, []

    def places(self, places: Mapping[str, int]) -> list[int]:
        """Return the positions of the selected rows, in order; found once for the same rows."""
        if self._found[0] is not places:
            if self.base:
                ids = (self.base - set(self.state["minus"])) | set(self.state["plus"])
                found = [place for name, place in places.items() if name in ids]
            else:
                found = sorted(places[name] for name in set(self.state["plus"]) if name in places)
            self._found = places, found
        return self._found[1]

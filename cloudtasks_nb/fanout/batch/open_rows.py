"""Which rows of an input are not final yet: what the wait for a part of a batch looks at."""

from __future__ import annotations

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.states import State

__all__ = ["OpenRows"]


class OpenRows:
    """The rows of an input that are not final.

    Parameters
    ----------
    outbox : Outbox
    rows : str, optional
        The rows of the input; None, the id of a batch, or an input with all its rows: there is nothing to look at.
    """

    def __init__(self, outbox: Outbox, rows: str | None) -> None:
        self._outbox, self._rows = outbox, rows
        self._first = 0  # the ref of the first one
        self.ended = False  #: there was none at the last look

    async def unsent(self, total: int) -> bool:
        """Look at them; return whether the first one is to be sent. A batch with `total` rows is not looked at."""
        if not isinstance(self._rows, Scope) or self._rows.rows == total:
            return True
        found = await self._outbox.run(self._outbox.rows.first_open, self._rows, self._first)
        if found is None:
            self.ended = True
            return False
        self._first, state = found
        return state is not State.SENT

"""Ask before tasks are sent that another home has rendered: with whose token they call whom, as their bytes say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import PreconditionError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Wanted
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.plan.foreign import Call, call_of, plain_text
from cloudtasks_nb.fanout.states import State

__all__ = ["Foreign", "check_trusted", "find_foreign"]

_NAMED = 50  # kinds of calls, and makers, that a text names


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Rows that this home did not render, and that nobody here has trusted."""

    batch: str
    queue: str  #: where their tasks would be created, with its project
    refs: Sequence[int]
    calls: Mapping[Call, int]  #: whom their tasks call, with whose token -> how many rows
    makers: Mapping[str, int]  #: who says to have rendered them -> how many rows

    @property
    def lines(self) -> list[str]:
        """What is known of them: the rarest calls first, which a look would miss."""
        were = "was" if len(self.refs) == 1 else "were"
        rows = f"{counted(len(self.refs), 'rows')} of batch {self.batch}, for queue {self.queue},"
        lines = [f"{rows} {were} not rendered in this home"]
        calls = sorted(self.calls.items(), key=lambda item: (item[1], item[0]))
        lines += [f"{counted(count, 'rows')}: call {call}" for call, count in calls[:_NAMED]]
        if len(calls) > _NAMED:
            left = calls[_NAMED:]
            lines.append(f"{counted(sum(count for _, count in left), 'rows')}: {len(left):,} other calls")
        makers = [
            plain_text(maker) or "somebody" for maker in sorted(self.makers, key=lambda maker: -self.makers[maker])
        ]
        more = f" and {len(makers) - _NAMED:,} others" if len(makers) > _NAMED else ""
        return [*lines, f"the store says that they are of {', '.join(makers[:_NAMED])}{more}, which nothing proves"]


def find_foreign(outbox: Outbox, scope: Scope, states: Collection[State], rows: Wanted = None) -> Foreign | None:
    """Return the rows in some states that this home did not render, with what their tasks do; None if there are none.

    Parameters
    ----------
    states, rows
        As for `Trust.untrusted`.
    """
    makers = outbox.trust.untrusted(scope, states, rows)
    if not makers:
        return None
    pages = outbox.rows.pages_of(scope.batch, makers, wire=True)
    calls = Counter(call_of(task) for page in pages for task in page.wire)
    place = outbox.batches.get(scope.batch).place
    queue = f"{place.queue} of project {place.project}"
    return Foreign(batch=scope.batch, queue=queue, refs=list(makers), calls=calls, makers=Counter(makers.values()))


def check_trusted(outbox: Outbox, foreign: Foreign | None, again: str, *, trust: bool) -> None:
    """Trust rows that a verb would send, and print what they do.

    Parameters
    ----------
    again : str
        The call that sends them: "batch.resume(trust=True)".
    trust : bool
        Whether this is that call.

    Raises
    ------
    PreconditionError
        If it is not: it has the same lines.
    """
    if foreign is None:
        return
    text = "\n  ".join(foreign.lines)
    if not trust:
        hint = f"run the cell that makes these rows, which renders them here; or {again} sends them as they are"
        raise PreconditionError(text, resource=foreign.batch, hint=hint)
    outbox.trust.trust(foreign.refs)
    notify(f"trusted: {text}")

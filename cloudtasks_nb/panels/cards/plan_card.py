"""What a plan says before anything is sent: how many, how large, how long, how much; and what is asked before it is."""

from __future__ import annotations

import html
from collections.abc import Iterable

from cloudtasks_nb.fanout.plan.dry_run import PRICING, Plan
from cloudtasks_nb.panels.cards.detail import card, lines, section
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.widgets.cells import count_text, counted, duration_text
from cloudtasks_nb.panels.widgets.prompt import Question

__all__ = ["blocked", "plan_html", "send_question"]

_SIDE_BY_SIDE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(11em,1fr));gap:10px 24px"
_FEW = 100  # tasks for which the plan is question enough
_MANY = 10_000  # tasks on Google for which the queue's name is typed
_LISTED = 5  # rows with a problem that are named


def plan_html(plan: Plan) -> str:
    """Return the plan as a card."""
    figures = "".join(
        f"<div><b>{html.escape(value)}</b> <span>{html.escape(name)}</span> <small>{html.escape(more)}</small></div>"
        for name, value, more in _figures(plan)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(plan))
    parts = [
        f'<div class="ctn-plan" style="{_SIDE_BY_SIDE}">{figures}</div>',
        f"<ul>{notes}</ul>" if notes else "",
        _problems(plan),
    ]
    return card(f"Plan for the queue {plan.queue}: nothing was sent yet", *parts, label="plan")


def blocked(plan: Plan) -> str:
    """Return why a plan cannot be sent; empty if it can."""
    if plan.refusal:
        return plan.refusal
    if not plan.sendable:
        return "there is nothing to send"
    if plan.errors == "raise" and (plan.rejected or plan.duplicates):
        return "mend these rows, or leave out bad rows and duplicates"
    return ""


def send_question(plan: Plan, context: PanelContext, line: str) -> Question | None:
    """Return what is asked before a plan is sent; None if a click is enough."""
    if plan.sendable <= _FEW:
        return None
    count = counted(plan.sendable, "tasks")
    return Question(
        title=f"Send {count} to {plan.queue}?",
        scope=f"Creates {count} in {context.name(plan.queue)}; each calls its URL. It costs {plan.cost}.",
        verb=f"Send {count}",
        line=line,
        typed=plan.queue if plan.sendable > _MANY and not context.local else None,
        danger=False,
    )


def _figures(plan: Plan) -> Iterable[tuple[str, str, str]]:
    """Name, value and a remark of each figure."""
    sizes, least = plan.body_bytes, plan.time_to_drain
    yield "tasks", count_text(plan.sendable), f"of {counted(plan.rows, 'rows')}"
    yield "of bodies", str(sizes).rpartition(", ")[2].removesuffix(" in all"), str(sizes).rpartition(", ")[0]
    if least is None:
        yield "time to drain", "not known", "the queue's rate is not"
    else:
        at_once = "" if plan.max_concurrent is None else f", {plan.max_concurrent:,} at once"
        halted = f", once the queue, which is {plan.halted}, is resumed" if plan.halted else ""
        yield "to drain", f"≥ {duration_text(least.total_seconds())}", f"at {plan.rate:g} a second{at_once}{halted}"
    price, _, why = plan.cost.removesuffix(f" ({PRICING})").partition(": ")
    yield "estimated", price.removeprefix("about "), why


def _notes(plan: Plan) -> list[str]:
    found = [f"{name}: {text}" for name, text in plan.about.items() if name != "note"]
    found += plan.about.get("note", "").split("; ") if "note" in plan.about else []
    left_out = "left out" if plan.errors == "skip" else "in the way"
    if plan.rejected:
        found.append(f"{counted(plan.rejected, 'rows')} cannot become tasks: {left_out}")
    if plan.duplicates:
        found.append(f"{counted(plan.duplicates, 'rows')} with the key of an earlier one: {left_out}")
    if blocked(plan):
        found.append(blocked(plan))
    return found


def _problems(plan: Plan) -> str:
    bad = plan.frame["problem"].dropna()
    if bad.empty:
        return ""
    shown = ((html.escape(str(row)), html.escape(problem)) for row, problem in bad.head(_LISTED).items())
    more = f" (the first {_LISTED})" if len(bad) > _LISTED else ""
    return section(f"Rows with a problem{more}", lines(("Row", "Problem"), shown))

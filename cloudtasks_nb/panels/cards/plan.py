"""What a plan would send: its figures and problems, and the first tasks of a form."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from cloudtasks_nb.display.card import html_card, section_html, table_html
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text, counted
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.display.times import from_micros, time_html
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.plan.plan import Plan, Trial
from cloudtasks_nb.panels.widgets.cells import code_html
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.costs import PRICING

__all__ = ["blocked", "error_html", "plan_html", "tasks_html", "trial_html"]

# This layout is in the HTML, because exports have no style sheet.
_FIGURES_STYLE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(11em,1fr));gap:10px 24px"
_TASKS_STYLE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(15em,1fr));gap:10px;overflow-wrap:anywhere"
_LISTED = 5  # rows with a problem that are named


def plan_html(plan: Plan, *, status: str = "nothing was sent yet") -> str:
    """Return the plan as a card; `status` is its state in words."""
    figures = "".join(
        f"<div><b>{html.escape(value)}</b> <span>{html.escape(name)}</span> <small>{html.escape(more)}</small></div>"
        for name, value, more in _figures(plan)
    )
    notes = "".join(f"<li>{html.escape(mask_text(note))}</li>" for note in _notes(plan))
    parts = [
        f'<div class="ctn-plan" style="{_FIGURES_STYLE}">{figures}</div>',
        f"<ul>{notes}</ul>" if notes else "",
        _problems(plan),
    ]
    return html_card(f"Plan for the queue {plan.queue}: {status}", *parts, label="plan")


def blocked(plan: Plan) -> str:
    """Return why a plan cannot be sent; empty if it can."""
    if plan.refusal:
        return plan.refusal
    if not plan.sendable:
        return "there is nothing to send"
    if plan.errors == "raise" and (plan.rejected or plan.duplicates):
        return "mend these rows, or leave out bad rows and duplicates"
    return ""


def _figures(plan: Plan) -> Iterable[tuple[str, str, str]]:
    """Return name, value and note of each figure."""
    sizes, least = plan.body_bytes, plan.time_to_drain
    yield "tasks", count_text(plan.sendable), f"of {counted(plan.rows, 'rows')}"
    yield "of bodies", str(sizes).rpartition(", ")[2].removesuffix(" in all"), str(sizes).rpartition(", ")[0]
    if least is None:
        yield "time to drain", "not known", "the queue's rate is not"
    else:
        at_once = "" if plan.max_concurrent is None else f", {plan.max_concurrent:,} at once"
        halted = f", once the queue, which is {plan.halted}, is resumed" if plan.halted else ""
        yield "to drain", f"≥ {duration_text(least.total_seconds())}", f"at {plan.rate:g} a second{at_once}{halted}"
    if plan.cost:
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
    if bad.empty and plan.first_rejected:  # behind the rows that the frame of a large plan has
        row, _, problem = plan.first_rejected.removeprefix("row ").partition(": ")
        bad = pd.Series({row: problem})
    if bad.empty:
        return ""
    shown = ((html.escape(str(row)), html.escape(mask_text(problem))) for row, problem in bad.head(_LISTED).items())
    more = f" (the first {_LISTED})" if len(bad) > _LISTED else ""
    return section_html(f"Rows with a problem{more}", table_html(("Row", "Problem"), shown))


def tasks_html(tasks: Sequence[Any]) -> str:
    """Return rendered tasks side by side, secrets masked and everything escaped.

    Parameters
    ----------
    tasks : sequence of google.cloud.tasks.v2.Task (raw protobuf) or str
        As `plan_row` returns them; a text is the reason why a row cannot be a task.
    """
    wrong = '<div class="ctn-wrong">{}</div>'
    parts = [wrong.format(html.escape(mask_text(task))) if isinstance(task, str) else _request(task) for task in tasks]
    numbered = (f'<section aria-label="task {number}">{part}</section>' for number, part in enumerate(parts, start=1))
    shown = f'<div class="ctn-tasks" style="{_TASKS_STYLE}">{"".join(numbered)}</div>'
    return section_html("The first tasks, as they would be sent", shown)


def error_html(error: CloudTasksError, *, quiet: bool) -> str:
    """Return an error of a form, to be shown in place of its tasks; `quiet` if something is not filled in yet."""
    hint = f'<div class="ctn-hint">{html.escape(mask_text(error.hint))}</div>' if error.hint else ""
    kind = "ctn-quiet" if quiet else "ctn-wrong"
    return f'<div class="{kind}">{html.escape(mask_text(error.message))}{hint}</div>'


def trial_html(trial: Trial) -> str:
    """Return what the target answered to one row, in full."""
    kind = "ctn-quiet" if trial.ok else "ctn-wrong"
    head = f'<div class="{kind}">{"OK" if trial.ok else "this row would fail"}</div>'
    answer = f'<div class="ctn-tasks" style="{_TASKS_STYLE}"><section>{head}{code_html(repr(trial))}</section></div>'
    return section_html("The answer to the first row", answer)


def _request(task: Any) -> str:
    columns = task_columns([task], now=0, body=True)  # its state is not shown
    shown = {name: values[0] for name, values in columns.items()}
    lines = sorted(f"{name}: {value}" for name, value in (shown["headers"] or {}).items())
    if shown["dispatch_deadline"]:
        lines.append(f"deadline {duration_text(shown['dispatch_deadline'])}")
    if shown["service_account"]:
        lines.append(f"signed as {shown['service_account']}")
    heads = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    if shown["schedule_time"]:
        heads += f"<div>due {time_html(from_micros(shown['schedule_time']))}</div>"
    return (
        f'<div class="ctn-url"><b>{html.escape(shown["method"])}</b> {html.escape(shown["url"])}</div>'
        f'<div class="ctn-quiet">{heads}</div>{code_html(shown["body"])}'
    )

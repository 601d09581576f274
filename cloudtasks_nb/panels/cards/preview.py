"""The first tasks as they would be sent, to be looked at before anything is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.panels.cards.detail import code
from cloudtasks_nb.panels.forms.incomplete import IncompleteError
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.watch import now_micros

__all__ = ["error_html", "tasks_html"]


#: Layout stands in the HTML where exports, which have no style sheet, are to look alike.
_SIDE_BY_SIDE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(15em,1fr));gap:10px;overflow-wrap:anywhere"


def tasks_html(tasks: Sequence[Any]) -> str:
    """Return rendered tasks side by side, secrets masked and everything escaped.

    Parameters
    ----------
    tasks : sequence of google.cloud.tasks.v2.Task (raw protobuf) or str
        As `plan_few` gives them; a text says why a row cannot be a task.
    """
    parts = [_problem(task) if isinstance(task, str) else _request(task) for task in tasks]
    numbered = (f'<section aria-label="task {number}">{part}</section>' for number, part in enumerate(parts, start=1))
    title = '<h5 class="ctn-title">The first tasks, as they would be sent</h5>'
    return f'{title}<div class="ctn-tasks" style="{_SIDE_BY_SIDE}">{"".join(numbered)}</div>'


def error_html(error: CloudTasksError) -> str:
    """Return what is wrong with a form, where the tasks would stand; quietly if something is not filled in yet."""
    hint = f'<div class="ctn-hint">{html.escape(error.hint)}</div>' if error.hint else ""
    kind = "ctn-quiet" if isinstance(error, IncompleteError) else "ctn-wrong"
    return f'<div class="{kind}">{html.escape(error.message)}{hint}</div>'


def _problem(reason: str) -> str:
    return f'<div class="ctn-wrong">{html.escape(reason)}</div>'


def _request(task: Any) -> str:
    columns = task_columns([task], now=now_micros(), body=True)
    shown = {name: values[0] for name, values in columns.items()}
    lines = sorted(f"{name}: {value}" for name, value in (shown["headers"] or {}).items())
    if shown["service_account"]:
        lines.append(f"signed as {shown['service_account']}")
    heads = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return (
        f'<div class="ctn-url"><b>{html.escape(shown["method"])}</b> {html.escape(shown["url"])}</div>'
        f'<div class="ctn-quiet">{heads}</div>{code(shown["body"])}'
    )

"""A form for the request of a new task, filled in with the request of another one."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import orjson

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import MASK, find_secrets, mask_text, mask_value
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.forms.notebook import value_code
from cloudtasks_nb.panels.forms.request_form import RequestForm, field
from cloudtasks_nb.panels.forms.task_request import TaskRequest

__all__ = ["TaskForm"]

_MOST_LINES = 16  # of the body that are visible at once


class TaskForm(widgets.VBox):
    """URL, method, headers, body and delay of a task.

    Secrets of the request stay in Python: the form shows dots, which stand for them where they are kept.

    Parameters
    ----------
    changed : callable
        Called when any of it has changed.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._request = TaskRequest(url="")
        self._changed = changed
        self.request = RequestForm(changed)
        self.request.url.tooltip = self.request.headers.tooltip = ""
        self.request.method.tooltip = self.request.delay.tooltip = None
        self.request.url.placeholder, self.request.delay.placeholder = "https://service/run", "none; 10min, 2h"
        self.body = field(widgets.Textarea, "Body")
        self.note = widgets.HTML().add_class("ctn-note")
        self.body.observe(lambda _: self._body_typed(), "value")
        pair = widgets.HBox([self.request.method, self.request.delay]).add_class("ctn-pair")
        parts = [self.request.url, pair, self.request.headers, self.body, self.note, self.request.signed]
        super().__init__(parts)
        self.add_class("ctn-fields")

    def fill(self, request: TaskRequest) -> None:
        """Show a request."""
        self._request = request
        self.request.update_choices(())
        self.request.fill(request.url, request.own_headers, request.service_account or "")
        self.request.method.value, self.request.delay.value = request.method, ""
        value = mask_value(request.value)
        is_json = request.body and not isinstance(value, str | bytes)
        shown = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if is_json else value
        self.body.disabled = isinstance(shown, bytes)
        self.body.value = "" if isinstance(shown, bytes) else shown or ""
        self._body_typed()

    def clear(self) -> None:
        """Forget what was typed: it may have secrets, and the page may be saved with the notebook."""
        self.fill(TaskRequest(url=""))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.enqueue`.

        Raises
        ------
        IncompleteError, InvalidInputError
            If the URL is missing, a line is not a header, or the body of a JSON request is not JSON.
        """
        return {**self.request.arguments, **self._own(self._body())}

    @property
    def code(self) -> dict[str, Any]:
        """The same for `PanelContext.line`, without secrets."""
        return {**self.request.code, **self._own(value_code(self._body()))}

    def _own(self, body: Any) -> dict[str, Any]:
        given = {} if body in (None, "") else {"body": body}
        if self._request.audience and self.request.signed.value.strip() == self._request.service_account:
            given["audience"] = self._request.audience
        return given

    def _body(self) -> Any:
        """Return the body as it is typed, with the secrets that are shown as dots."""
        before, text = self._request.value, self.body.value
        if isinstance(before, bytes):
            return before
        try:
            typed = orjson.loads(text) if text.strip() else None
        except orjson.JSONDecodeError as error:
            if before is not None and not isinstance(before, str):
                raise InvalidInputError(f"Body: not JSON: {error}") from error
            return _restore(text, before)
        # A text, and what would be no body at all, is sent as it is typed.
        return _restore(text, before) if typed is None or isinstance(typed, str) else _restore(typed, before)

    def _body_typed(self) -> None:
        self.body.rows = min(max(3, self.body.value.count("\n") + 1), _MOST_LINES)
        self.note.value = f'<span class="ctn-quiet" role="status">{html.escape(self._describe())}</span>'
        self._changed()

    def _describe(self) -> str:
        """Return what is sent as the body."""
        try:
            body = self._body()
        except InvalidInputError as error:
            return error.message
        if body is None or body == "":
            return "no body"
        if isinstance(body, bytes):
            return f"{counted(len(body), 'bytes')} that are not text: they are sent as they are"
        return "text, sent as it is" if isinstance(body, str) else "valid JSON"


def _restore(typed: Any, before: Any) -> Any:
    """Return what was typed, with the secrets of `before` where its dots were kept."""
    if typed == before or (typed == MASK and before is not None):
        return before
    if isinstance(typed, dict):
        known = before if isinstance(before, dict) else {}
        return {name: _restore(value, known.get(name)) for name, value in typed.items()}
    if isinstance(typed, list):
        earlier = before if isinstance(before, list) else []
        return [_restore(value, earlier[n] if n < len(earlier) else None) for n, value in enumerate(typed)]
    return _restore_text(typed, before if isinstance(before, str) else "") if isinstance(typed, str) else typed


def _restore_text(typed: str, before: str) -> str:
    """Return a text with the secrets of `before` in place of its dots, of which it has all or none."""
    if MASK not in typed:
        return typed
    secrets = [before[begin:end] for begin, end, _ in find_secrets(before)]
    parts = typed.split(MASK)
    if mask_text(before).count(MASK) != len(secrets) or len(parts) != len(secrets) + 1:
        raise InvalidInputError("Body: some dots stand for no secret; type the secrets anew")
    return "".join(part + secret for part, secret in zip(parts, [*secrets, ""], strict=True))

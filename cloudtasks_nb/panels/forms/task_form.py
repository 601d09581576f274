"""The request of a task as curl, JSON and Python, and a form that fills in a new task with it."""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as value_of
from typing import Any

import ipywidgets as widgets
import orjson

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import MASK, find_secrets, mask_headers, mask_text, mask_value
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.forms.code import headers_code, text_code, value_code
from cloudtasks_nb.panels.forms.request_form import RequestForm, field
from cloudtasks_nb.service.convert import decode_body

__all__ = ["TaskForm", "TaskRequest"]

_MOST_LINES = 16  # of the body that are visible at once


class TaskForm(widgets.VBox):
    """URL, method, headers, body and delay of a task.

    Secrets of the request stay in Python: the form shows dots, which are replaced by the secrets when the task is sent.

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


#: Headers that Cloud Tasks and `queue.enqueue` set by themselves; the second one only with a JSON body.
_USER_AGENT, _JSON_TYPE = ("user-agent", "Google-Cloud-Tasks"), ("content-type", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """The request of a task."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = value_of(default_factory=dict)
    body: bytes = b""
    service_account: str | None = None  #: whose token it carries
    audience: str | None = None  #: of this token

    @property
    def value(self) -> Any:
        """The body as `queue.enqueue` takes it: what JSON holds, else text, else bytes; None if there is none."""
        found = decode_body(self.body)
        scalar = isinstance(found, str) or found is None
        return self.text if self.body and scalar else found

    @property
    def text(self) -> str | None:
        """The body as text; None if it is no text."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None

    @property
    def own_headers(self) -> dict[str, str]:
        """The headers that are given to `queue.enqueue`."""
        text = self.value is None or isinstance(self.value, str | bytes)
        added = (_USER_AGENT,) if text else (_USER_AGENT, _JSON_TYPE)
        given = {name: value for name, value in self.headers.items() if name.lower() != TAG_HEADER.lower()}
        return {name: value for name, value in given.items() if (name.lower(), value) not in added}

    def curl(self) -> str:
        """Return a curl command; the shell makes the token of a signed request."""
        verb = "--head" if self.method == "HEAD" else f"-X {self.method}"  # -X HEAD would wait for a body
        parts = [f"curl {verb} {shlex.quote(mask_text(self.url))}"]
        parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in mask_headers(self.headers).items()]
        if self.service_account:
            account = shlex.quote(self.service_account)
            token = f"gcloud auth print-identity-token --impersonate-service-account={account}"
            audience = f" --audiences={shlex.quote(mask_text(self.audience))}" if self.audience else ""
            parts.append(f'-H "Authorization: Bearer $({token}{audience} --include-email)"')
        before = ""
        if self.body and self.text is None:
            before = f"echo {base64.b64encode(self.body).decode()} | base64 -d | "
            parts.append("--data-binary @-")
        elif self.body:
            parts.append(f"--data-binary {shlex.quote(self._masked_text())}")
        return before + " \\\n  ".join(parts)

    def json(self) -> str:
        """Return the request as a JSON object; a body that is no text in base64."""
        shown: dict[str, Any] = {"method": self.method, "url": mask_text(self.url)}
        if self.headers:
            shown["headers"] = mask_headers(self.headers)
        if self.body and self.text is None:
            shown["body_base64"] = base64.b64encode(self.body).decode()
        elif self.body:
            shown["body"] = mask_value(self.value)
        if self.service_account:
            shown["service_account"] = self.service_account
        return orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode()

    def code(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of `queue.enqueue` as Python that asks for secrets, for `PanelContext.line`."""
        options: dict[str, Any] = {} if self.method == "POST" else {"method": self.method}
        if self.own_headers:
            options["headers"] = headers_code(self.own_headers)
        if self.service_account:
            options["service_account"] = self.service_account
        if self.audience:
            options["audience"] = text_code(self.audience)
        body = self.value
        return (text_code(self.url), *(() if body is None else (value_code(body),))), options

    def _masked_text(self) -> str:
        """Return the body as it is sent, or without its secrets."""
        masked = mask_value(self.value)
        if masked == self.value:
            return self.text or ""
        return masked if isinstance(masked, str) else orjson.dumps(masked).decode()

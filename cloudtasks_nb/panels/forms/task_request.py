"""The HTTP request of a task as a curl command, as JSON and as a line of Python, without its secrets."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.display.secrets import mask_headers, mask_text, mask_value
from cloudtasks_nb.panels.forms.notebook import headers_code, text_code, value_code
from cloudtasks_nb.service.convert import decode_body

__all__ = ["TaskRequest"]

#: Headers that Cloud Tasks and `queue.enqueue` set by themselves; the second one only with a JSON body.
_USER_AGENT, _JSON_TYPE = ("user-agent", "Google-Cloud-Tasks"), ("content-type", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """The request of a task."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
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

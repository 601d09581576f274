"""The fields for the request of each task: URL, body, headers, and the service account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.display.secrets import MASK, find_secrets, mask_headers, mask_text
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.forms.notebook import Code, IncompleteError, handlers, headers_code, text_code
from cloudtasks_nb.panels.widgets.picker import Picker

__all__ = ["RequestForm", "field"]

_DOTS = "\ue000"  # dots in a URL that is read: unlike `MASK` it counts as a secret


def field(kind: type[widgets.Widget], label: str, placeholder: str = "", **options: Any) -> Any:
    """Make a field with its label on the left."""
    if placeholder:
        options["placeholder"] = placeholder
    return kind(description=label, layout={"width": "auto"}, style={"description_width": "auto"}, **options)


class RequestForm(widgets.VBox):
    """Fields for the request of each task.

    Parameters
    ----------
    changed : callable
        Called when any of it has changed.

    Attributes
    ----------
    signed : ipywidgets.Text
        The service account; laid out by the panel.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._kept: dict[str, str] = {}  # secret values of headers, which are not sent to the page
        self._url = ""  # the URL with its secrets, which are not either
        self.url = field(widgets.Combobox, "URL", "https://service/run/{column}, or a function that ct.serve serves")
        self.url.tooltip = "Names of columns in braces are filled in for each task"
        self.body = Picker("Body", "none chosen: the whole row", changed)
        self.headers = field(widgets.Textarea, "Headers", "X-Team: data", continuous_update=False, rows=1)
        self.headers.tooltip = "One on a line, Name: value; columns in braces. Secret values are shown as dots"
        self.signed = field(widgets.Text, "Signed as", "service account, if the URL requires a token")
        self.signed.observe(lambda _: changed(), "value")
        self.url.observe(lambda _: self._url_typed(), "value")
        self.headers.observe(lambda _: self._headers_typed(), "value")
        super().__init__([self.url, self.body, self.headers])
        self.add_class("ctn-fields")

    def update_choices(self, columns: Sequence[str]) -> None:
        """Offer these columns, and the handlers that there are now."""
        self.body.offer(columns)
        names = tuple(handlers())
        if names != self.url.options:
            self.url.options = names

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.fan_out` that these fields set.

        Raises
        ------
        IncompleteError, InvalidInputError
            If the URL is missing, or a line is not a header.
        """
        text = self._url.strip()
        if not text:
            raise IncompleteError(
                "there is no URL yet", hint="https://service/run/{column}, or the name of what ct.serve returned"
            )
        given = {"body": self.body.value, "headers": self._read(), "service_account": self.signed.value.strip()}
        return {"url": handlers().get(text, text), **{word: value for word, value in given.items() if value}}

    @property
    def code(self) -> dict[str, Any]:
        """The same for `PanelContext.line`, without secrets."""
        arguments = self.arguments
        given = arguments["url"]
        arguments["url"] = text_code(given) if isinstance(given, str) else Code(self.url.value.strip())
        if "headers" in arguments:
            arguments["headers"] = headers_code(arguments["headers"])
        return arguments

    def _read(self) -> dict[str, str]:
        """Return the headers, with the secret values that were typed before."""
        found = _parse(self.headers.value)
        shown = mask_headers(self._kept)
        return {name: self._kept[name] if shown.get(name) == value else value for name, value in found.items()}

    def _url_typed(self) -> None:
        """Keep the secrets of the URL here, and show dots; dots that were there before stand for what was typed."""
        typed = self.url.value
        if typed == mask_text(self._url):
            self._changed()
            return
        kept = {name: self._url[begin:end] for begin, end, name in find_secrets(self._url)}
        url = typed.replace(MASK, _DOTS)
        for begin, end, name in reversed(find_secrets(url)):
            if url[begin:end] == _DOTS:
                url = url[:begin] + kept.get(name, MASK) + url[end:]
        self._url = url
        shown = mask_text(self._url)
        if shown == typed:
            self._changed()
        else:
            self.url.value = shown  # this calls the function again

    def _headers_typed(self) -> None:
        """Keep secret values here and show dots instead: the page may be saved with the notebook."""
        try:
            found = _parse(self.headers.value)
        except InvalidInputError:
            self._changed()  # the panel reads the headers and shows the error
            return
        shown = mask_headers(found)
        typed = {name: value for name, value in found.items() if value != shown[name]}
        self._kept = {name: value for name, value in (self._kept | typed).items() if name in found}
        self.headers.rows = max(1, len(found))
        if typed:
            # This calls the function again.
            self.headers.value = "\n".join(f"{name}: {value}" for name, value in shown.items())
        else:
            self._changed()


def _parse(text: str) -> dict[str, str]:
    """Read headers, one on a line.

    Raises
    ------
    InvalidInputError
        If a line is no header.
    """
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not (name and colon):
            raise InvalidInputError(f'"{line}" is not a header', hint="write it as X-Team: data")
        found[name] = value
    return found

"""The fields for the request of each task: URL, body, headers, service account, delay, method and deadline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.display.secrets import MASK, find_secrets, mask_headers, mask_text
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.handlers import Handler
from cloudtasks_nb.handlers.serving import serve, served_as
from cloudtasks_nb.panels.forms.code import Code, IncompleteError, headers_code, text_code
from cloudtasks_nb.panels.forms.notebook import deployments, functions, handlers
from cloudtasks_nb.panels.widgets.fields import Picker
from cloudtasks_nb.service.convert import HTTP_METHODS

__all__ = ["RequestForm", "SendLimits", "UrlChoice", "field", "recent_urls"]

_METHODS = HTTP_METHODS[1:]
_ACCOUNT_HINT = "service account, if the URL requires a token"
_DOTS = "\ue000"  # dots in a URL that is read: unlike `MASK` it counts as a secret


def field(kind: type[widgets.Widget], label: str, placeholder: str = "", tip: str | None = None, **options: Any) -> Any:
    """Make a field with its label on the left."""
    if placeholder:
        options["placeholder"] = placeholder
    made = kind(description=label, layout={"width": "auto"}, style={"description_width": "auto"}, **options)
    made.tooltip = tip  # ipywidgets 7 takes no such argument
    return made


class RequestForm(widgets.VBox):
    """Fields for the request of each task.

    Parameters
    ----------
    changed : callable
        Called when any of it has changed.
    local : bool
        Whether tasks reach this machine: plain functions of the notebook are then offered, and are served when used.

    Attributes
    ----------
    signed : ipywidgets.Text
        The service account; laid out by the panel, with `add_more`.
    """

    def __init__(self, changed: Callable[[], object], *, local: bool = False) -> None:
        self._changed, self._local = changed, local
        self._target: Any = None  # what the URL field names
        self._kept: dict[str, str] = {}  # secret values of headers, which are not sent to the page
        self._url = ""  # the URL with its secrets, which are not either
        self._targets: dict[str, UrlChoice] = {}
        self._recent: list[UrlChoice] = []
        function = "a function of this notebook" if local else "what ct.deploy returned"
        self.url = field(widgets.Combobox, "Call", f"{function}, or https://service/run/{{column}}")
        self.url.tooltip = "Names of columns in braces are filled in for each task. The arrow keys show what is offered"
        self.body = Picker("Body", "none chosen: the whole row", changed)
        self.headers = field(widgets.Textarea, "Headers", "X-Team: data", continuous_update=False, rows=1)
        self.headers.tooltip = "One on a line, Name: value; columns in braces. Secret values are shown as dots"
        self.signed = field(widgets.Text, "Signed as", _ACCOUNT_HINT)
        self.delay = field(widgets.Text, "Delay", "none; 10min, 2h, or a {column}", "delay: how long until it is due")
        self.method = field(widgets.Dropdown, "Method", tip="method: the HTTP method of the request", options=_METHODS)
        self.deadline = field(widgets.Text, "Deadline", "10min; 15s to 30min", "dispatch_deadline: limit of an attempt")
        for part in (self.signed, self.delay, self.method, self.deadline):
            part.observe(lambda _: changed(), "value")
        times = widgets.HBox([self.delay, self.method, self.deadline]).add_class("ctn-more")
        self._more = widgets.VBox([self.headers, times]).add_class("ctn-fields")
        self._others: Callable[[], Mapping[str, Any]] = dict  # the options that are set by fields of the panel in it
        self.toggle = widgets.Button(layout={"width": "auto"}).add_class("ctn-toggle")
        self.toggle.on_click(lambda _: self.show_more(on=self._more.layout.display == "none"))
        self.show_more(on=False)
        self.url.observe(lambda _: self._url_typed(), "value")
        self.headers.observe(lambda _: self._headers_typed(), "value")
        super().__init__([self.url, self.body, self.toggle, self._more])
        self.add_class("ctn-fields")

    def update_choices(self, columns: Sequence[str]) -> None:
        """Offer these columns, and the functions and services that there are now."""
        self.body.offer(columns)
        self.offer_recent(self._recent)
        if self._named() is not self._target:  # a cell has defined the function anew, or deleted it
            self._url_changed()

    def offer_recent(self, recent: list[UrlChoice]) -> None:
        """Offer these URLs of earlier batches, besides the notebook's functions and services."""
        self._recent = recent
        self._targets = _find_targets(recent, local=self._local)
        if tuple(self._targets) != self.url.options:
            self.url.options = tuple(self._targets)

    def add_more(self, *fields: widgets.Widget, given: Callable[[], Mapping[str, Any]]) -> None:
        """Put fields of the panel among those that are seldom needed; `given` returns the options that they set."""
        self._more.children = (*fields, *self._more.children)
        self._others = given

    def show_more(self, *, on: bool) -> None:
        """Show or hide the options that are seldom needed; those that are set are named."""
        self._more.layout.display = None if on else "none"
        texts = {"headers": self.headers.value, "service_account": self.signed.value.strip(), **self._others()}
        named = [name for name, value in texts.items() if value]
        named += [f"{name}={value}" for name, value in self._options.items()]
        given = "" if on else ", ".join(named)
        self.toggle.description = "Fewer options" if on else f"More options{f' ({given})' if given else ''}"

    def fill(self, url: str, headers: Mapping[str, str], account: str) -> None:
        """Show a request; its secrets stay here, and are shown as dots."""
        shown = mask_headers(headers)
        self._url = url
        self._kept = {name: value for name, value in headers.items() if value != shown[name]}
        self.url.value = mask_text(url)
        self.headers.value = "\n".join(f"{name}: {value}" for name, value in shown.items())
        self.signed.value = account

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.fan_out` that these fields set.

        Raises
        ------
        IncompleteError, InvalidInputError
            If the URL is missing, or a line is not a header.
        """
        given = self._given()
        target = given["url"]
        return given | {"url": _served(target)} if inspect.isfunction(target) else given

    def _given(self) -> dict[str, Any]:
        """Return the arguments with a function that is not served yet as it is."""
        text = self._url.strip()
        if not text:
            raise IncompleteError(
                "it is not chosen yet what each task calls",
                hint="the name of a function or of what ct.deploy returned, or https://service/run/{column}",
            )
        given = {"body": self.body.value, "headers": self._read(), "service_account": self.signed.value.strip()}
        found = {word: value for word, value in given.items() if value}
        return {"url": self._named() or text, **found, **self._options}

    def _named(self) -> Any:
        """Return the function, handler or service that the URL field names; None if it names none."""
        return _named_targets(local=self._local).get(self._url.strip())

    @property
    def code(self) -> dict[str, Any]:
        """The same for `PanelContext.line`, without secrets."""
        arguments = self._given()
        given, name = arguments["url"], self.url.value.strip()
        variable = Code(f"ct.serve({name})" if inspect.isfunction(given) else name)
        arguments["url"] = text_code(given) if isinstance(given, str) else variable
        if "headers" in arguments:
            arguments["headers"] = headers_code(arguments["headers"])
        return arguments

    @property
    def _options(self) -> dict[str, str]:
        given = {
            "delay": self.delay.value.strip(),
            "method": "" if self.method.value == _METHODS[0] else self.method.value,
            "dispatch_deadline": self.deadline.value.strip(),
        }
        return {word: value for word, value in given.items() if value}

    def _url_changed(self) -> None:
        """Show which account signs for the service that was chosen, then report the change."""
        self._target = service = self._named()
        account, audience = getattr(service, "service_account", None), getattr(service, "audience", None)
        self.signed.placeholder = f"{account}, for {audience}" if account else _ACCOUNT_HINT
        self._changed()

    def _read(self) -> dict[str, str]:
        """Return the headers, with the secret values that were typed before."""
        found = _parse(self.headers.value)
        shown = mask_headers(self._kept)
        return {name: self._kept[name] if shown.get(name) == value else value for name, value in found.items()}

    def _url_typed(self) -> None:
        """Keep the secrets of the URL here, and show dots; dots that were there before mean what was typed."""
        typed = self.url.value
        if typed == mask_text(self._url):
            self._url_changed()
            return
        if typed in self._targets:  # one that is offered was chosen
            self._url = self._targets[typed].text
            self.url.value = mask_text(self._url)  # this calls the function again
            return
        kept = {name: self._url[begin:end] for begin, end, name in find_secrets(self._url)}
        url = typed.replace(MASK, _DOTS)
        for begin, end, name in reversed(find_secrets(url)):
            url = url[:begin] + _edited(url[begin:end], kept.get(name, "")) + url[end:]
        self._url = url
        shown = mask_text(self._url)
        if shown == typed:
            self._url_changed()
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


def _edited(typed: str, secret: str) -> str:
    """Return an edited secret: three dots mean the old secret, and each deleted dot deletes its last character."""
    if _DOTS in typed:
        return typed.replace(_DOTS, secret or MASK)
    dots = typed.count(MASK[0])
    return typed.replace(MASK[0] * dots, secret[: dots - len(MASK)]) if dots else typed


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


class SendLimits(widgets.HBox):
    """Fields for `canary` and `pause_at` of `queue.fan_out`; `changed` is called when one of them has changed."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self.canary = field(widgets.Text, "Canary", "rows first: 20 or 1%")
        self.canary.tooltip = "canary: the other rows are sent once these have succeeded"
        self.pause_at = field(widgets.Text, "Pause at", "failed rows: 10 or 5%")
        self.pause_at.tooltip = "pause_at: no more rows are sent when so many have failed, or more than this share"
        for part in (self.canary, self.pause_at):
            part.observe(lambda _: changed(), "value")
        super().__init__([self.canary, self.pause_at])
        self.add_class("ctn-pair")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.fan_out` that these fields set; it checks them."""
        given = {"canary": self.canary.value.strip(), "pause_at": self.pause_at.value.strip()}
        return {word: _number(text) for word, text in given.items() if text}


def _number(text: str) -> int | float | str:
    """Return a number if the text is one; ``"5%"`` stays a text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


_RECENT = 8  # most URLs of earlier batches


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlChoice:
    """One choice of a URL field."""

    text: str  #: the text in the field: the name of a variable, or a URL, which may have secrets
    kind: str  #: what it is

    @property
    def label(self) -> str:
        """The choice as it is offered, without secrets."""
        return f"{mask_text(self.text)}  ({self.kind})"


def _named_targets(*, local: bool) -> dict[str, Any]:
    """Return what a URL field can name: functions that are served, services, and on this machine plain functions."""
    return {**(functions() if local else {}), **handlers(), **deployments()}


def _served(function: Callable[..., Any]) -> Handler:
    """Return the handler of a function, which is served now if it is not yet."""
    return served_as(function) or serve(function)


def _find_targets(recent: Iterable[UrlChoice], *, local: bool) -> dict[str, UrlChoice]:
    """Return the choices by their labels: the notebook's variables, then `recent`."""
    known, code = handlers(), functions() if local else {}
    named = [name for name, function in code.items() if served_as(function) not in known.values()]
    plain = [UrlChoice(text=name, kind="a function of this notebook") for name in named]
    served = [UrlChoice(text=name, kind="a function served in this kernel") for name in known]
    services = [UrlChoice(text=name, kind=f"the service {service.name}") for name, service in deployments().items()]
    return {target.label: target for target in (*plain, *served, *services, *recent)}


def recent_urls(records: Iterable[BatchRecord]) -> list[UrlChoice]:
    """Return the different URLs of batches, newest batch first, without those of functions of a kernel."""
    found: dict[str, UrlChoice] = {}
    for record in records:
        url = str(record.description.get("url") or "")
        if url.startswith(("http://", "https://")) and url not in found:
            found[url] = UrlChoice(text=url, kind=f"used by the batch {record.name or record.id}")
        if len(found) == _RECENT:
            break
    return list(found.values())

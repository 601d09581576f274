"""Where the rows of a fan-out go: a URL template, a handler of this machine, or a function of the row."""

from __future__ import annotations

import re
import string
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.input import Block
from cloudtasks_nb.fanout.plan.templates import Problems, Text, parse_url

__all__ = ["HandlerAddress", "Url", "compile_url", "function_name", "literal_url"]

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#HttpRequest
_LONGEST = 2_083
_HTTP = re.compile(r"https?://[^\s/?#\x00-\x20\x7f][^\s\x00-\x20\x7f]*")


class Url(Protocol):
    """What gives each row its URL."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns it names; None: it sees the whole row."""
        ...

    @property
    def identity(self) -> str:
        """What it is, in a word that does not change when the same cell runs again."""
        ...

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        """Return each row's URL, and what stands for it in the row's identity."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerAddress:
    """A handler as `compile_url` takes one: its address, and its name, which identifies it."""

    url: str
    name: str


def compile_url(url: Any) -> Url:
    """Return the `Url` that the argument means.

    Parameters
    ----------
    url : str, object with `url` and `name`, or callable
        A template; a handler; a function of the row (a dictionary).

    Raises
    ------
    InvalidInputError
        If it is none of these, or no row could make it an http(s) URL.
    """
    if isinstance(url, str):
        text = parse_url(url)
        if not text.fields:
            literal_url(text.literals[0])
        return _Template(text=text)
    address, name = getattr(url, "url", None), getattr(url, "name", None)
    if isinstance(address, str) and isinstance(name, str):
        return _Handler(address=address, name=name)
    if callable(url):
        return _Function(function=url)
    raise InvalidInputError(
        f"url={url!r} is not a URL",
        resource="url",
        hint='give a text such as "https://svc/run/{origin}", a handler (ct.serve), or a function of the row',
    )


def literal_url(url: Any) -> str:
    """Return the URL that a text without columns, or a handler, stands for.

    Raises
    ------
    InvalidInputError
        If it is not an http(s) URL.
    """
    address = getattr(url, "url", url)
    if not isinstance(address, str):
        raise InvalidInputError(
            f"url={url!r} is not a URL",
            resource="url",
            hint='give a text such as "https://svc/run", or a handler (ct.serve)',
        )
    if fault := _fault(address):
        raise InvalidInputError(fault, resource=address, hint='a URL begins with "https://" or "http://" and a host')
    return address


def function_name(function: Callable[..., Any]) -> str:
    """Return what a function is called wherever it is imported from."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


@lru_cache(maxsize=4_096)
def _fault(url: str) -> str | None:
    """Say why the service would refuse a URL; None if it would not."""
    if _HTTP.fullmatch(url) is None:
        return f'url: "{url[:200]}" is not an http(s) URL'
    try:
        length = len(url) if url.isascii() else len(urllib.parse.quote(url, safe=string.printable))
    except UnicodeEncodeError:
        return f"url: {url[:200]!a} has half a surrogate pair"
    return f"url: {length:,} characters are more than {_LONGEST:,}" if length > _LONGEST else None


def _check(urls: list[str], problems: Problems) -> None:
    for index, url in enumerate(urls):
        fault = _fault(url)
        if fault is not None:
            problems.add(index, fault)
            urls[index] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    text: Text

    @property
    def columns(self) -> tuple[str, ...]:
        return self.text.columns

    @property
    def identity(self) -> str:
        return self.text.source

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        urls = self.text.render(block, problems)
        if self.text.fields:
            _check(urls, problems)
        return urls, urls


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handler:
    """A handler's address may be another one tomorrow, so that its name identifies it."""

    address: str
    name: str
    columns: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        return f"handler:{self.name}"

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:  # noqa: ARG002 - the protocol's
        return [self.address] * block.length, [self.identity] * block.length


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    function: Callable[[dict[str, Any]], Any]
    columns: None = None

    @property
    def identity(self) -> str:
        return f"function:{function_name(self.function)}"

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        urls: list[str] = []
        for index, row in enumerate(block.rows()):
            url: Any = ""
            try:
                url = self.function(row)
            except Exception as error:  # noqa: BLE001 - the user's function may raise anything; the row says what
                problems.add(index, f"url: the function raised {type(error).__name__}: {error}")
            if not isinstance(url, str):
                problems.add(index, f"url: the function returned {type(url).__name__}, not text")
                url = ""
            urls.append(url)
        _check(urls, problems)
        return urls, urls

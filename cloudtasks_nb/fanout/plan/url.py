"""The URLs of tasks: a template, a handler, or the result of a function; each is checked and percent-encoded."""

from __future__ import annotations

import re
import string
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import idna

from cloudtasks_nb._settings import named
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.columns import Block
from cloudtasks_nb.fanout.plan.templates import HOST, Problems, Text, call_by_row, constant, function_name, parse

__all__ = ["Url", "UrlFunction", "compile_url", "literal_url", "parse_url", "url"]

#: https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#HttpRequest
_LONGEST = 2_083
#: A URL that can be sent as it is. Others are encoded or refused, which takes ten times longer.
_PLAIN = re.compile(r"https?://[^/?#\x00-\x20\x7f-\U0010ffff][!-~]*")
#: A part of the path that stands for another path: https://www.rfc-editor.org/rfc/rfc3986#section-5.2.4
_DOTS = re.compile(r"[^?#]*?/(\.\.?)(?:[/?#]|\Z)")
_SCHEME = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")
_FORM = 'a URL begins with "https://" or "http://" and a host'


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """Makes the URL of each row."""

    source: Text | Callable[[dict[str, Any]], Any]  #: a template, or a function of the row
    identity: str  #: describes it; it is the same when the same cell runs again
    reads_types: bool = False  #: whether a handler of this package is there, which reads what values are
    handler: Any = None  #: if given; then the identity is in that of the rows, because the address may change

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns it names; None: it sees the whole row."""
        return self.source.columns if isinstance(self.source, Text) else None

    @property
    def leads(self) -> bool:
        """Whether the data decides which host is called."""
        return not isinstance(self.source, Text) or any(field.safe != "" for field in self.source.fields)

    def render(self, block: Block, problems: Problems) -> tuple[list[str], list[str]]:
        """Return each row's URL, and the text that represents it in the row's identity."""
        if isinstance(self.source, Text):
            urls = self.source.render(block, problems)
        else:
            urls = []
            for index, address in enumerate(call_by_row(self.source, block, problems, "url")):
                if not isinstance(address, str):
                    problems.add(index, f"url: the function returned {type(address).__name__}, not text")
                urls.append(address if isinstance(address, str) else "")
        if self.columns != ():  # one that is the same for all rows was checked before
            self._check(urls, block, problems)
        return urls, urls if self.handler is None else [self.identity] * block.length

    def _check(self, urls: list[str], block: Block, problems: Problems) -> None:
        """Encode the URLs of a block in place; those that cannot be sent are `problems`."""
        for index, address in enumerate(urls):
            if _PLAIN.fullmatch(address) is None or len(address) > _LONGEST:
                try:
                    urls[index] = literal_url(address)
                except InvalidInputError as error:
                    problems.add(index, error.message)
                    urls[index] = ""
            if "/." in address and (found := _DOTS.match(urls[index])):
                dots = [name for name in self.columns or () if not str(block.columns[name].raw[index]).strip(".")]
                names = " and ".join(f'"{name}"' for name in dots or self.columns or ()) or "the function"
                why = f'would be the part "{found[1]}" of the path, which leads to another path'
                problems.add(index, f"url: {names} {why}: {mask_text(urls[index])[:200]!r}")


@dataclass(frozen=True, slots=True)
class UrlFunction:
    """A function that makes the URL of each row; made by `url`."""

    function: Callable[[dict[str, Any]], str]


@named
def url(fn: Callable[[dict[str, Any]], str]) -> UrlFunction:
    """Mark a function that makes the URL of a row, to be given as ``url=``.

    A function without this mark is refused, because it could be one that was meant to be served with `ct.serve`.

    Parameters
    ----------
    fn : callable
        Called with each row as a dictionary; returns the row's URL.

    Returns
    -------
    UrlFunction
        For ``queue.fan_out(df, url=ct.url(fn))``.

    Raises
    ------
    InvalidInputError
        If it is not a function.

    Examples
    --------
    >>> import cloudtasks_nb as ct
    >>> target = ct.url(lambda row: f"https://{row['region']}.example.com/run")
    >>> target.function({"region": "eu"})
    'https://eu.example.com/run'
    """
    if not callable(fn):
        raise InvalidInputError(
            f"{fn!r} is not a function", resource="url", hint="ct.url(fn) takes a function of the row, a dictionary"
        )
    return UrlFunction(fn)


def compile_url(given: Any, *, literal: bool = False) -> Url:
    """Return the `Url` that the argument means.

    Parameters
    ----------
    given : str, object with `url` and `name`, or UrlFunction
        A template; a handler; a function of the row.
    literal : bool
        Whether a text is no template, and everything else stands for its address.

    Raises
    ------
    InvalidInputError
        If it is none of these, or no row could make it an http(s) URL.
    """
    if literal:
        return Url(source=constant(literal_url(given), "url"), identity="", reads_types=hasattr(given, "url"))
    if isinstance(given, str):
        text = parse_url(given)
        sent = text if text.fields else constant(literal_url(text.literals[0]), "url")
        return Url(source=sent, identity=given)
    address, name = getattr(given, "url", None), getattr(given, "name", None)
    if isinstance(address, str) and isinstance(name, str):
        return Url(source=constant(address, "url"), identity=f"handler:{name}", reads_types=True, handler=given)
    if isinstance(given, UrlFunction):
        return Url(source=given.function, identity=f"function:{function_name(given.function)}")
    raise _no_url(given, '"https://svc/run/{origin}"')


def literal_url(given: Any) -> str:
    """Return the URL that a text without columns, or a handler, stands for, as it can be sent.

    Blanks and other alphabets are percent-encoded, its host is in ASCII.

    Raises
    ------
    InvalidInputError
        If it is not an http(s) URL, or the service would refuse it.
    """
    address = getattr(given, "url", given)
    if not isinstance(address, str):
        raise _no_url(given, '"https://svc/run"')
    if _PLAIN.fullmatch(address) is None:
        address = _translated(address.strip())
    if len(address) > _LONGEST:
        raise _wrong(address, f"{len(address):,} characters are more than {_LONGEST:,}")
    return address


def _no_url(given: Any, example: str) -> InvalidInputError:
    if callable(given):
        name = getattr(given, "__name__", "")
        name = name if name.isidentifier() else "fn"  # a lambda, or an object that can be called
        return InvalidInputError(
            f"url={name} is a function that is not served",
            resource="url",
            hint="ct.serve makes a target of it; ct.url marks one that returns the URL of a row",
        )
    return InvalidInputError(
        f"url={mask_text(repr(given))} is not a URL",
        resource="url",
        hint=f"give a text such as {example}, or a handler (ct.serve)",
    )


def parse_url(source: str) -> Text:
    """Parse a URL template; its cells are percent-encoded as their part of the URL requires.

    A cell at the beginning of the URL is not encoded, because it contains the scheme and the host.
    """
    text = parse(source, "url")
    before, fields = "", []
    for literal, field in zip(text.literals, text.fields, strict=False):
        before += literal
        fields.append(replace(field, safe=_safe(before)))
        before += "\0"
    return replace(text, fields=tuple(fields))


def _safe(before: str) -> str | None:
    """Return what needs no escape at the place of a URL template that comes after `before`."""
    scheme, found, rest = before.partition("://")
    if "?" in before or "#" in before or "/" in (rest if found else scheme):
        return ""
    return HOST if found else None  # without a scheme in the template the cell brings it all


def _wrong(address: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"url: {why}", resource=address, hint=_FORM)


def _translated(address: str) -> str:
    begin = _SCHEME.match(address)
    reason = None
    if _CONTROL.search(address):
        reason = "it has a line break or another control character"
    elif begin is None:
        reason = 'it does not begin with "https://" or "http://"'
    elif not begin[2]:
        reason = "it has no host"
    elif re.search(r"\s", begin[2]):
        reason = "its host has a blank"
    else:
        try:
            rest = urllib.parse.quote(address[begin.end() :], safe=string.punctuation)
            return f"{begin[1].lower()}://{_ascii_host(begin[2])}{rest}"
        except idna.IDNAError as error:
            reason = f"its host is no domain name: {error}"
        except UnicodeEncodeError:
            reason = "it has half a surrogate pair"
    raise _wrong(address, f"{mask_text(address)[:200]!r} is not an http(s) URL: {reason}")


def _ascii_host(authority: str) -> str:
    """Translate the host before an optional port, and behind an optional user, to ASCII."""
    if authority.isascii():
        return authority
    user, at, place = authority.rpartition("@")
    host, colon, port = place.partition(":")
    ascii_host = host if host.isascii() else idna.encode(host, uts46=True).decode()
    return urllib.parse.quote(user, safe=string.punctuation) + at + ascii_host + colon + port

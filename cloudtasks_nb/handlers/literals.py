"""Secrets in the source of a constant or a definition: texts of a known form, and those beside the name of a secret."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from cloudtasks_nb.display.secrets import find_secrets, is_secret, words_of

__all__ = ["SecretSearch", "is_secret_value"]

_ANY = re.compile(r"(?s).+")
_MIXED = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[^\s./:(){}\[\]]{7,}")
_RANDOM = re.compile(
    r"(?=.*\d)(?=.*[A-Za-z])(?:[A-Za-z\d+=]{16,}|(?=.*[A-Z])(?=.*[a-z])[\w+/=-]{40,})"  # hexadecimal or base64
)
#: Words of names of secrets that also name other things, and what a text under them looks like if it is a secret.
_VAGUE = {
    **dict.fromkeys(("auth", "bearer", "creds", "pass", "pw", "pwd", "sig", "signature"), _MIXED),
    **dict.fromkeys(("key", "keys", "salt", "session", "sessionid", "sid", "tokens"), _RANDOM),
}
#: The last words of names that are about a secret and name none, ``password_field``; and the first words of such.
_ABOUT = words_of(
    "account algorithm attributes attrs audience col cols column columns count database dir email endpoint env error "
    "expires expiry field fields file files folder format header help host hosts id ids issuer jar kind label len "
    "length lifetime limit login message method mode name names options param parameter path pattern policy port "
    "prefix project prompt provider query re regex region request response scheme scope scopes server size source "
    "suffix table template text title ttl type types uri url urls user username var variable variables version"
)
_COUNTING = ("has", "is", "max", "min", "n", "num", "public", "publishable", "use")
#: Words of placeholders for a secret, and words for a type, a scheme or the like.
_FILLERS = words_of(
    "a access an any api basic bool boolean bytes category change changeme char client date default demo digest dummy "
    "enter example fake float goes hash here insert int integer it key keys me missing my na nil none null object of "
    "pass pat placeholder private public put replace sample set str string test the this to todo tokens unknown unset "
    "value varchar with xxx your"
)
#: Placeholders, and regular expressions.
_TEMPLATE = re.compile(
    r"\$?\{[^{}]*\}+|\$\w+|%\(\w+\)s|%[drs]|<[^<>]*>|\[[A-Za-z_ ]*\]|\\[bdDsSwW]|\.{3,}|…|•+|\*{3,}|[xX]{4,}"
)
#: Where a secret is, or what it is: a URL, a resource, a file, a variable, a dotted name.
_PLACE = re.compile(
    r"[a-z][a-z+.-]*://|(?:arn|projects|roles|urn|vault)[:/]|(?:~|\.{1,2})?(?:/[a-z\d_.-]+)+$"
    r"|[A-Z][A-Z\d]*(?:_[A-Z\d]+)+$|[A-Za-z_]+(?:\.[A-Za-z_]+)+$"
)
#: A line of YAML, of INI, or of code in a comment.
_LINE = re.compile(r"""^[ \t#]*([\w.-]+)[ \t]*[:=][ \t]*["']?([^\s"']+)["']?[ \t;,]*$""", re.MULTILINE)

#: Functions that return what they are given, and those that take a name and its value.
_WRAPPERS = ("b64decode", "bytes", "format", "frozenset", "fromhex", "join", "list", "set", "str", "tuple")
_SETTERS = ("add_field", "add_header", "get", "getenv", "pop", "putenv", "set", "setattr", "setdefault", "setenv")
_LOGINS = frozenset(("auth", "credential", "credentials", "login"))  # they take a user, then a password


class SecretSearch:
    """Finds what looks like a secret in sources.

    Parameters
    ----------
    public : iterable of str
        Names whose values are no secrets.
    """

    def __init__(self, public: Iterable[str] = ()) -> None:
        self._public = frozenset(public)
        self.unknown = set(self._public)  #: names that nothing has had yet

    def find(self, source: str) -> Iterator[tuple[str, int]]:
        """Yield the name, or the kind, of each secret in a source, and its line."""
        yield from self._find("", ast.parse(source), sure=True)
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and (found := self._secret("", token.string, sure=False)):
                yield found, token.start[0]

    def _find(self, name: str, node: ast.AST, *, sure: bool) -> Iterator[tuple[str, int]]:
        text = _text(node)
        found = name if _is_number(name, node) else None if text is None else self._secret(name, text, sure=sure)
        if found:
            yield found, getattr(node, "lineno", 1)
        name = name if text is None and isinstance(node, ast.expr | ast.keyword) else ""
        named = list(_named(node, name, sure=sure))
        known = [part for _, _, part in named]
        others = [(name, sure, part) for part in ast.iter_child_nodes(node) if part not in known]
        for own, certain, part in named + others:
            if part is not None and not self._is_public(own):
                yield from self._find(own, part, sure=certain)

    def _is_public(self, name: str) -> bool:
        self.unknown.discard(name)
        return name in self._public

    def _secret(self, name: str, text: str, *, sure: bool) -> str | None:
        """Return the name of what looks like a secret in a text; that of the text itself if it has one."""
        if is_secret_value(name, text, sure=sure):
            return name
        for begin, end, inner in find_secrets(text):
            known = " " in inner or text[end : end + 1] == "@"  # by its form, or in a URL
            kind = "auth" if inner == "key" else inner  # of a URL
            if not self._is_public(inner) and _fits(kind, text[begin:end], sure=sure or known):
                return name or inner
        lines = (line[1] for line in _LINE.finditer(text) if _fits(line[1], line[2], sure=False))
        return next((line for line in lines if not self._is_public(line)), None)


def is_secret_value(name: str, text: str, *, sure: bool = True) -> bool:
    """Return whether a text under a name looks like a secret; if not any text does, it needs letters and digits."""
    return _fits(name, text, sure=sure) and not _PLACE.match(text)


def _fits(name: str, text: str, *, sure: bool) -> bool:
    pattern = _pattern(name)
    if pattern is None or not pattern.fullmatch(text) or not (sure or _MIXED.fullmatch(text.strip(".:"))):
        return False
    rest = _TEMPLATE.sub(" ", text)
    if rest != text:
        return any(map(_MIXED.fullmatch, rest.split()))
    words = words_of(text)
    plain = not any(map(str.isdigit, text)) and all(word in _ABOUT + _FILLERS or is_secret(word) for word in words)
    return any(map(str.isalnum, text)) and not (words and plain)


@lru_cache(maxsize=4096)
def _pattern(name: str) -> re.Pattern[str] | None:
    """Return what a secret under a name looks like; None if it is the name of no secret."""
    words = words_of(name)
    if not words or words[-1] in _ABOUT or words[0] in _COUNTING or name.count(" ") > 2:  # noqa: PLR2004 - a sentence
        return None
    if is_secret(" ".join(word for word in words if word not in _VAGUE or word == "key")):
        return _ANY
    return next((_VAGUE[word] for word in reversed(words) if word in _VAGUE), None)


def _is_number(name: str, node: ast.AST) -> bool:
    """Return whether a password is a number of four digits or more; numbers under other names are no secrets."""
    number = isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value > 999  # noqa: PLR2004 - as said
    return number and name.lower().endswith(("passcode", "passwd", "password", "pwd"))


def _text(node: ast.AST | None) -> str | None:
    """Return a text, with braces for what is filled in; None if the node is no text."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant(value=bytes() as raw):
            return raw.decode("latin-1")
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "{}" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = [_text(left), _text(right)]
            return None if texts == [None, None] else "".join(text or "{}" for text in texts)
    return None


def _name(node: ast.AST | None) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str() as name)):
            return name
        case ast.Call(func=part) | ast.Starred(value=part):
            return _name(part)
    return ""


def _named(node: Any, name: str, *, sure: bool) -> Iterator[tuple[str, bool, Any]]:
    """Yield parts of a node that have names of their own: the name, whether any text is a secret then, and the part."""
    yield from ((own, True, part) for own, part in _assigned(node))
    match node:
        case ast.keyword(arg=own, value=value):
            yield name if name and own in ("default", "fallback", "value", None) else own or "", sure, value
        case ast.Compare():
            sides = [node.left, *node.comparators]
            yield from ((next(filter(None, map(_name, sides)), ""), False, side) for side in sides)
        case ast.Subscript(slice=part) | ast.IfExp(test=part):
            yield "", True, part
        case ast.Expr(value=ast.Constant() as part):  # a docstring
            yield "", False, part
        case ast.Dict():
            yield from (("", True, key) for key in node.keys)
            yield from (_item(key, value, name) for key, value in zip(node.keys, node.values, strict=True))
        case ast.Call(func=func, args=elements, keywords=more):
            elements = elements + [one.value for one in more if one.arg == "default"]
            yield from ((own, sure, part) for own, part in _elements(elements, name, _name(func)))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            pair = isinstance(node, ast.Tuple) and len(elements) == 2  # noqa: PLR2004 - a name and a value
            yield from ((own, sure, part) for own, part in _elements(elements, name, "", pair=pair))


def _assigned(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values that a statement, or the parameters or the results of a function, give to names."""
    match node:
        case ast.Assign(targets=[ast.Tuple() | ast.List() as names], value=ast.Tuple() | ast.List() as values):
            yield from zip(map(_name, names.elts), values.elts, strict=False)
        case ast.Assign(targets=targets):
            yield from ((_name(target), node.value) for target in targets)
        case ast.AnnAssign() | ast.AugAssign() | ast.NamedExpr():
            yield _name(node.target), node.value
        case ast.arguments():
            given = zip([*node.posonlyargs, *node.args][::-1], node.defaults[::-1], strict=False)
            yield from ((one.arg, part) for one, part in [*given, *zip(node.kwonlyargs, node.kw_defaults, strict=True)])
        case ast.FunctionDef() | ast.AsyncFunctionDef() if _pattern(node.name):
            yield from ((node.name, one.value) for one in ast.walk(node) if isinstance(one, ast.Return))


def _item(key: ast.AST | None, value: ast.AST, name: str) -> tuple[str, bool, ast.AST]:
    """Return the value of a dictionary with its key as the name, or with that of the dictionary, as of PASSWORDS."""
    own = _text(key) or ""
    is_own = _pattern(own) or not _pattern(name) or any(word in _ABOUT for word in words_of(own)[-1:])
    return (own, True, value) if key and is_own else (name, key is None, value)


def _elements(parts: list[ast.expr], name: str, called: str, *, pair: bool = False) -> Iterator[tuple[str, ast.expr]]:
    """Yield the elements of a sequence, or what a function is called with: ``("user", "hunter2")``."""
    login = len(parts) == 2 and not _LOGINS.isdisjoint(words_of(called or name))  # noqa: PLR2004 - a user and a password
    if called and not (called[0].isupper() or called in _WRAPPERS):
        name = ""
    elif called[:1].isupper() and _pattern(called):
        name = called
    for before, part in zip([None, *parts], parts, strict=False):
        option = _text(before) or ""
        if option.startswith("-") or ((pair or called in _SETTERS) and _pattern(option)):
            yield option.lstrip("-"), part
        else:
            sentence = name == called and " " in (_text(part) or "")  # of an exception, such as TokenExpired
            yield ("password" if before else "") if login else "" if sentence else name, part

"""The filter language of Cloud Logging, which Cloud Tasks also uses for `ListQueues`.

See https://cloud.google.com/logging/docs/view/logging-query-language. NOT binds tightest, then OR, then AND; terms side
by side are joined by AND; texts are compared without regard to case.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from cloudtasks_nb.emulator.model.refusal import invalid_argument

__all__ = [
    "LOG_ID",
    "Compare",
    "Group",
    "Node",
    "Not",
    "compared_texts",
    "compile_filter",
    "field_name",
    "parse_filter",
    "parse_time",
]

#: The path of `log_id()`; no field can have this name.
LOG_ID = ("log_id()",)

# Colons are operators, but for those of a time. A quoted text that follows the dot of a word belongs to the same path.
_TOKEN = re.compile(
    r"""\s*(?:(?P<open>\()|(?P<close>\))|(?P<op><=|>=|!=|=~|!~|=|<|>|:)|(?P<minus>-(?=[\w("]))"""
    r"""|(?P<function>(?!(?:AND|OR|NOT)\()[A-Za-z_]\w*\()|(?P<quoted>"(?:[^"\\]|\\.)*")"""
    r"""|(?P<word>\d{4}-\d\d-\d\d[Tt][^\s()<>=!"~]*|[^\s()<>=!:"~]+(?:(?<=\.)"(?:[^"\\]|\\.)*"[^\s()<>=!:"~]*)*))""",
)
_WORDS = {"AND", "OR", "NOT"}
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[^."]+')
_TIME = re.compile(r"(.+?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.IGNORECASE)
_MAX_LENGTH = 20_000  # https://cloud.google.com/logging/quotas
_MAX_DEPTH = 50  # of nested parentheses and negations: deeper ones could exceed Python's recursion limit
_TIMES = {"timestamp", "receiveTimestamp", "receive_timestamp"}
_SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")


@dataclass(frozen=True, slots=True)
class Group:
    """All of the nodes, or any of them."""

    join: Callable[[Iterable[object]], bool]  #: `all` or `any`
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of the node."""

    node: Node


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of a field with a value; without a field, a text that any field contains."""

    path: tuple[str, ...]
    op: str
    value: str


Node = Group | Not | Compare
_Getter = Callable[[Any], Any]


def parse_filter(text: str) -> Node:
    """Parse a filter.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if its syntax is invalid.
    """
    if len(text) > _MAX_LENGTH:
        raise invalid_argument(f"Unparseable filter: more than {_MAX_LENGTH} characters.")
    parser = _Parser(text)
    node = parser.conjunction() if text.strip() else Group(all, ())
    parser.expect("end")
    return node


def compile_filter(node: Node, getter_of: Callable[[tuple[str, ...]], _Getter]) -> Callable[[Any], bool]:
    """Return a function that tests whether a record matches a filter.

    Parameters
    ----------
    node : Node
        The result of `parse_filter`.
    getter_of : callable
        Takes the path of a field and returns a function that reads the field of a record, or None if it is missing.
    """
    for op in (":", "="):
        path, texts = compared_texts(node, op)
        if len(texts) > 1:
            return _any_of(texts, op, getter_of(path))
    if isinstance(node, Group):
        join, parts = node.join, [compile_filter(part, getter_of) for part in node.nodes]
        return lambda record: join(part(record) for part in parts)
    if isinstance(node, Not):
        inner = compile_filter(node.node, getter_of)
        return lambda record: not inner(record)
    return _comparison(node, getter_of(node.path))


def compared_texts(node: Node, op: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the field and the texts, in lower case, of ``field:("a" OR "b")``; no texts for any other node.

    The operator is `:` or `=`.
    """
    nodes = node.nodes if isinstance(node, Group) and node.join is any else (node,)
    parts = [part for part in nodes if isinstance(part, Compare) and _is_text(part, op)]
    is_one_field = len(parts) == len(nodes) and len({part.path for part in parts}) == 1
    return (parts[0].path, [part.value.casefold() for part in parts]) if is_one_field else ((), [])


def _is_text(node: Compare, op: str) -> bool:
    special = not node.path or node.path[-1] in {*_TIMES, "severity"}
    return node.op == op and node.value != "*" and not special and _number(node.value.removesuffix("s")) is None


def _any_of(texts: Sequence[str], op: str, get: _Getter) -> Callable[[Any], bool]:
    """Return a test whether a field is one of the texts, or contains one: one look at the field for all of them."""
    wanted = frozenset(texts)

    def test(record: Any) -> bool:
        actual = get(record)
        if actual is None:
            return False
        folded = str(actual).casefold()
        return folded in wanted if op == "=" else any(text in folded for text in texts)

    return test


def parse_time(text: str) -> int:
    """Return an RFC 3339 time or date in nanoseconds since 1970.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is not a time.
    """
    match = _TIME.fullmatch(text)
    whole, fraction, zone = match.groups() if match else (text, "", "")
    try:
        moment = datetime.fromisoformat(whole + (zone or "").upper().replace("Z", "+00:00"))
    except ValueError as error:
        raise invalid_argument(f'Unparseable filter: "{text}" is not a time.') from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


class _Parser:
    """Reads a filter token by token: a method reads what it is named after."""

    def __init__(self, text: str) -> None:
        self._tokens = [*_tokens(text), ("end", "")]
        self._at = 0
        self._depth = 0

    def take(self, *kinds: str) -> str | None:
        """Return the next token and pass it, if it is of one of these kinds."""
        kind, text = self._tokens[self._at]
        if kind not in kinds:
            return None
        self._at += 1
        return text

    def expect(self, *kinds: str) -> str:
        """Return the next token, which must be of one of these kinds, and pass it."""
        text = self.take(*kinds)
        if text is None:
            kind, text = self._tokens[self._at]
            where = "end" if kind == "end" else f'"{text}"'
            raise invalid_argument(f"Unparseable filter: unexpected {where}.")
        return text

    def conjunction(self) -> Node:
        nodes = [self.disjunction()]
        while self._tokens[self._at][0] not in {"close", "end"}:
            self.take("AND")
            nodes.append(self.disjunction())
        return nodes[0] if len(nodes) == 1 else Group(all, tuple(nodes))

    def disjunction(self) -> Node:
        nodes = [self.term()]
        while self.take("OR"):
            nodes.append(self.term())
        return nodes[0] if len(nodes) == 1 else Group(any, tuple(nodes))

    def term(self) -> Node:
        if self._depth == _MAX_DEPTH:
            raise invalid_argument(f"Unparseable filter: more than {_MAX_DEPTH} levels.")
        self._depth += 1
        if self.take("minus", "NOT"):
            node: Node = Not(self.term())
        elif self.take("open"):
            node = self.group()
        elif function := self.take("function"):
            node = self.function(function.rstrip("("))
        else:
            node = self.comparison()
        self._depth -= 1
        return node

    def group(self) -> Node:
        node = self.conjunction()
        self.expect("close")
        return node

    def function(self, name: str) -> Node:
        words = []
        while word := self.take("quoted", "word"):
            words.append(_unquote(word))
        self.expect("close")
        match name, [word.strip() for word in " ".join(words).split(",")]:
            case "log_id", [log]:
                return Compare(LOG_ID, "=", unquote(log))
        raise invalid_argument(f"Unparseable filter: {name}() is not supported here.")

    def comparison(self) -> Node:
        text = self.expect("quoted", "word")
        op = self.take("op")
        if op is None:
            return Compare((), ":", _unquote(text))
        if op in {"=~", "!~"}:
            raise invalid_argument(f'Unparseable filter: the operator "{op}" is not supported here.')
        if self.take("open"):
            return _distribute(self.group(), _path(text), op)
        sign = self.take("minus") or ""
        return Compare(_path(text), op, sign + _unquote(self.expect("quoted", "word")))


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each token; the words AND, OR and NOT are kinds of their own."""
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise invalid_argument(f"Unparseable filter: syntax error at column {at + 1}.")
        token = match[match.lastgroup]
        yield token if token in _WORDS else match.lastgroup, token
        at = match.end()


def _distribute(node: Node, path: tuple[str, ...], op: str) -> Node:
    """Apply ``field=("a" OR "b")`` to each value."""
    if isinstance(node, Compare):
        return Compare(path, op, node.value)
    if isinstance(node, Not):
        return Not(_distribute(node.node, path, op))
    return Group(node.join, tuple(_distribute(part, path, op) for part in node.nodes))


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _path(text: str) -> tuple[str, ...]:
    return tuple(map(_unquote, _PART.findall(text)))


def field_name(path: str) -> str:
    """Return the Python name of a field's path, which may be in camel case."""
    return "type_" if path == "type" else re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), path)


def _comparison(node: Compare, get: _Getter) -> Callable[[Any], bool]:
    value, op = node.value, node.op
    if op == ":" and value == "*":
        return lambda record: get(record) is not None
    test, field = _TESTS[op], node.path[-1] if node.path else ""
    if field in _TIMES:
        instant = parse_time(value)
        return lambda record: (actual := get(record)) is not None and test(actual, instant)
    if field == "severity" and value.upper() in _SEVERITIES:
        level = _SEVERITIES.index(value.upper())
        return lambda record: (actual := get(record)) is not None and test(_SEVERITIES.index(actual), level)
    text, number, seconds = value.casefold(), _number(value), _number(value.removesuffix("s"))

    def compare(record: Any) -> bool:
        actual = get(record)
        if actual is None:  # every comparison with a missing field is false, also "!="
            return False
        if seconds is not None and isinstance(actual, float):  # a duration in seconds, which may be written as "5s"
            return test(actual, seconds)
        if number is not None and (other := _number(actual)) is not None:
            return test(other, number)
        return test(str(actual).casefold(), text)

    return compare


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (ValueError, TypeError):  # such as a protobuf message
        return None


def _has(actual: Any, value: Any) -> bool:
    return value in actual if isinstance(actual, str) else bool(actual == value)


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    ":": _has,
}

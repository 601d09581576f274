"""Make the bodies of tasks: the whole row, some columns, a JSON template, text, or the result of a function."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import orjson

from cloudtasks_nb._settings import did_you_mean, wrong_argument
from cloudtasks_nb.errors import InvalidInputError, NotSerializableError, TemplateError
from cloudtasks_nb.fanout.plan.columns import EXACT, Block, Column
from cloudtasks_nb.fanout.plan.templates import Problems, Text, call_by_row, constant, function_name, parse
from cloudtasks_nb.handlers.convert import display_name, signature
from cloudtasks_nb.store.encode import plain, to_json
from cloudtasks_nb.store.types import describe

__all__ = ["Body", "canonical", "check_literal", "compile_body", "suggest_body"]

#: Methods whose requests the service refuses to give a body.
_BODILESS = ("GET", "HEAD", "DELETE", "OPTIONS")

_INDEX = "row"  # the name that frames of a batch give to an index that counts the rows

_dumps = orjson.dumps

# A text in JSON, and the colon behind it if it is the name of a field.
_STRING = re.compile(rb'("(?:[^"\\]|\\.)*")(:?)')
# Texts, so that nothing is found in them, and whole numbers that are written as floats.
_WHOLE = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?\d+)\.0(?=[,}\]]|\Z)')
_ENDS = b".0,", b".0}", b".0]"  # of whole numbers, in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Makes the body of each row."""

    identity: Any  #: a JSON value that describes it; it is the same when the same cell runs again
    columns: tuple[str, ...] | None  #: those it names; None: it sees the whole row
    make: Callable[[Block, Problems], list[bytes]]
    json: bool = True  #: whether the bodies are JSON
    typed: bool = False  #: whether cells keep their type, so that its canonical bytes may differ
    #: What the value of each row is, where JSON does not say it, as `describe` returns it; None: JSON says it of all.
    types: Callable[[Block], list[Any] | None] = lambda _block: None
    uniform: bool = False  #: whether the bodies of a block are objects with the same names, or all of them are empty

    def render(self, block: Block, problems: Problems) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return each row's body, and its canonical bytes, from which the row's identity is made."""
        bodies = self.make(block, problems)
        known = list(map(canonical, bodies)) if self.typed and _has_whole(b",".join(bodies)) else bodies
        return bodies, bodies if known == bodies else known  # the same list saves encoding it again


def canonical(content: bytes) -> bytes:
    """Return JSON with whole numbers as integers.

    A row keeps its identity when the column around it changes from integers to floats, as it does where a longer frame
    brings a missing value or a fraction. The bytes alone decide it, so that it is the same for a task from elsewhere.

    Examples
    --------
    >>> canonical(b'{"a":2.0,"b":"2.0","c":0.5}')
    b'{"a":2,"b":"2.0","c":0.5}'
    """
    return _WHOLE.sub(_integer, content) if _has_whole(content) else content


def _has_whole(content: bytes) -> bool:
    """Return whether JSON may have a whole number that is written as a float; quick."""
    return content.endswith(b".0") or any([end in content for end in _ENDS])  # noqa: C419 - quicker


def _integer(match: re.Match[bytes]) -> bytes:
    number = match[1]
    return match[0] if number is None or abs(int(number)) > EXACT else b"%d" % int(number)


def compile_body(body: Any, method: str, *, literal: bool = False, function: Callable[..., Any] | None = None) -> Body:
    """Return the `Body` that the argument means.

    Parameters
    ----------
    body : None, list of str, mapping, str, or callable
        The whole row; columns; a JSON template; a text template (a lone ``"{column}"`` is that cell as JSON);
        a function of the row.
    method : str
        HTTP method; some have no body.
    literal : bool
        Whether it is that of a single task: text and bytes as they are, None for none, everything else as JSON.
    function : callable, optional
        Is called with the body. The index `row`, which frames of a batch have, is an argument only if it wants that.

    Raises
    ------
    InvalidInputError
        If it is none of these, or cannot be sent, or the method has no body.
    """
    if body is None:
        unwanted = [] if function is None or _INDEX in _parameters(function) else [_INDEX]
        return _constant(b"", json=False) if literal or method in _BODILESS else _columns(None, unwanted)
    if method in _BODILESS:
        hint = 'leave body= out and put the values into the URL, or use method="POST"'
        raise InvalidInputError(f"a {method} request has no body", resource="body", hint=hint)
    if literal:
        content = constant(body, "body").source.encode() if isinstance(body, str) else body
        json = not isinstance(content, bytes)
        made = _constant(to_json(content) if json else content, json=json)
        what = describe(content) if json else None
        return made if what is None else replace(made, types=lambda _block: [what])
    text = parse(body, "body") if isinstance(body, str) else None
    if isinstance(body, Mapping) or (text is not None and text.lone is not None):
        return _template(body)
    if text is not None:
        return Body(identity=body, columns=text.columns, make=partial(_texts, text), json=False)
    if callable(body):
        return Body(identity=f"function:{function_name(body)}", columns=None, make=partial(_returned, body))
    if isinstance(body, (list, tuple)) and body and all(isinstance(name, (str, int)) for name in body):
        return _columns(tuple(map(str, body)))
    hint = "a list of columns, a dictionary with columns in braces, a function of the row, or nothing for the whole row"
    raise wrong_argument("body", body, "is not a body", f"give {hint}")


def check_literal(body: Body, available: Collection[str]) -> None:
    """Refuse a text without braces that is the name of a column: each row would send the name.

    Raises
    ------
    TemplateError
        With a hint at what was probably meant.
    """
    name = "" if body.json or body.columns else body.identity
    if name and name in available:
        raise TemplateError(
            f'body="{name}" sends the word "{name}" for every row, but "{name}" is a column',
            resource=name,
            hint=f'body=["{name}"] sends {{"{name}": its cell}}, body="{{{name}}}" the cell alone; '
            "if the word is meant, rename the column",
        )


def _constant(content: bytes, identity: Any = "", *, json: bool = True, uniform: bool = True) -> Body:
    return Body(
        identity=identity, columns=(), make=lambda block, *_: [content] * block.length, json=json, uniform=uniform
    )


def suggest_body(function: Callable[..., Any], columns: Sequence[str]) -> tuple[str, str]:
    """Return what a column may be meant to be, and as code the body with which a function can be called.

    Parameters without a column of their name get one of a near name, or the next of the others. If there are too few
    columns, the text is a sentence.

    Examples
    --------
    >>> suggest_body(lambda address, tries=3: address, ["customer", "address", "spend"])
    ('', 'body=["address"]')
    >>> suggest_body(lambda address: address, ["adress", "spend"])
    ('; did you mean "address"?', 'body={"address": "{adress}"}')
    """
    parameters = _parameters(function)
    unnamed = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_ONLY]
    if sum(parameters[name].default is inspect.Parameter.empty for name in unnamed) > 1:
        name, names = display_name(function), ", ".join(unnamed)
        return "", f'ct.serve(lambda {names}: {name}({names}), name="{name}") has parameters with names'
    others = [name for name in columns if name not in parameters]
    chosen, meant = dict[str, str](), ""
    for name, one in parameters.items():
        if name in columns:
            chosen[name] = name
        elif one.default is one.empty:
            if not others:
                given = f"{name} is fixed" if len(columns) else "arguments are fixed"
                return "", f"add a column for {name}; functools.partial makes a function in which {given}"
            (column,) = get_close_matches(name, others, 1) or others[:1]
            chosen[name], others = column, [other for other in others if other != column]
            meant = meant or did_you_mean(column, [name])
    if unnamed:
        return "", f'body="{{{chosen.get(unnamed[0]) or columns[0]}}}"'
    same = chosen and all(name == column for name, column in chosen.items())
    body = [*chosen] if same else {name: f"{{{column}}}" for name, column in chosen.items()}
    return meant, f"body={json.dumps(body, ensure_ascii=False)}"


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function that are for one argument each."""
    found = signature(function)
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {} if found is None else {name: one for name, one in found.parameters.items() if one.kind not in many}


def _columns(chosen: tuple[str, ...] | None, unwanted: Sequence[str] = ()) -> Body:
    """Return the body of some columns; None: of all, without an index of these levels."""

    def make(block: Block, problems: Problems) -> list[bytes]:
        names = list(block.columns if chosen is None else chosen)
        if block.levels == unwanted:
            names = names[len(unwanted) :]
        columns = [block.columns[name] for name in names]
        values = [problems.cells(column) for column in columns]
        return _objects(names, values, [column.lacking for column in columns], block.length)

    def types(block: Block) -> list[Any] | None:
        return _types({name: column for name, column in block.columns.items() if chosen is None or name in chosen})

    return Body(identity=chosen and list(chosen), columns=chosen, make=make, types=types, typed=True, uniform=True)


def _types(columns: Mapping[str, Column]) -> list[Any] | None:
    """Return what the fields of each row are, by field; None if JSON says it of all."""
    typed = {name: types for name, column in columns.items() if (types := column.types) is not None}
    if not typed:
        return None
    rows = zip(*typed.values(), strict=True)
    found = ({name: one for name, one in zip(typed, row, strict=True) if one is not None} for row in rows)
    return [{"fields": fields} if fields else None for fields in found]


def _objects(names: list[str], values: list[list[Any]], lacking: list[frozenset[int]], length: int) -> list[bytes]:
    """Return the rows as JSON objects, without the names that their dictionaries do not have."""
    if not names:
        return [b"{}"] * length
    if any(lacking):
        cells = list(zip(names, values, lacking, strict=True))
        return [_dumps({name: column[row] for name, column, gone in cells if row not in gone}) for row in range(length)]
    return [_dumps(dict(zip(names, row))) for row in zip(*values)]  # noqa: B905 - strict costs a tenth, and is checked above


def _template(body: Any) -> Body:
    """Return the body of a JSON template: its constant parts are encoded once, and each row fills in its cells."""
    try:
        encoded, identity = to_json(body), plain(body)
    except NotSerializableError as error:
        raise NotSerializableError(f"body: {error.message}", resource=error.resource, hint=error.hint) from None
    placeholders: list[tuple[Text, str | None]] = []  # and the column that is the whole value: it keeps its type

    def place(match: re.Match[bytes]) -> bytes:
        string, colon = match.groups()  # the colon stands behind the name of a field
        text = parse(orjson.loads(string.replace(b"%%", b"%")), "body")
        if not text.fields:
            return _dumps(text.literals[0]).replace(b"%", b"%%") + colon
        placeholders.append((text, None if colon else text.lone))
        return b"%b" + colon

    pattern = _STRING.sub(place, encoded.replace(b"%", b"%%"))
    uniform = isinstance(body, Mapping) and not any(isinstance(name, str) and "{" in name for name in body)
    if not placeholders:
        return _constant(pattern % (), identity, uniform=uniform)

    def make(block: Block, problems: Problems) -> list[bytes]:
        cells = [
            text.render(block, problems) if lone is None else problems.cells(block.columns[lone])
            for text, lone in placeholders
        ]
        return [pattern % row for row in zip(*(map(_dumps, column) for column in cells), strict=True)]

    def types(block: Block) -> list[Any] | None:
        if isinstance(body, str):
            return block.columns[placeholders[0][1] or ""].types
        fields = {name: parse(one, "body").lone for name, one in body.items() if isinstance(one, str)}
        return _types({str(name): block.columns[lone] for name, lone in fields.items() if lone is not None})

    names = tuple(name for text, _ in placeholders for name in text.columns)
    return Body(identity=identity, columns=names, make=make, types=types, typed=True, uniform=uniform)


def _texts(text: Text, block: Block, problems: Problems) -> list[bytes]:
    return [body.encode() for body in text.render(block, problems)]


def _returned(function: Callable[[dict[str, Any]], Any], block: Block, problems: Problems) -> list[bytes]:
    made = call_by_row(lambda row: to_json(function(row)), block, problems, "body")
    return [body or b"" for body in made]

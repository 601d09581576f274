"""The parameters of a function: which arguments it takes, and the types that JSON values are converted to for it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import json
import pathlib
import re
import reprlib
import sys
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Collection, Mapping
from typing import Any, Union, get_args, get_origin

from cloudtasks_nb.store.types import restore

__all__ = ["Parameters", "display_name", "parameters_of", "signature"]

#: A duration as ISO 8601 writes it, in weeks and shorter units: ``P1DT2H3M4.5S``. pandas writes ``P-1DT23H``.
_DURATION = re.compile(
    r"(?P<sign>-?)P(?:(?P<weeks>\d+)W)?(?:(?P<days>-?\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
#: Types of pandas that are made of text. They are known by name, because handlers need not have pandas.
_OF_PANDAS = ("Timestamp", "Timedelta", "Period")
_ROW = "row"  # the parameter for the whole row
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY)


def display_name(fn: Callable[..., Any]) -> str:
    """Return the name of a function for messages."""
    return str(getattr(fn, "__name__", type(fn).__name__))


def signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a function; None if it has none, as some builtins."""
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):  # annotations are evaluated when they are read, and may name what is not there
        import annotationlib  # noqa: PLC0415 - new in Python 3.14

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    try:
        return inspect.signature(fn, **options)
    except (TypeError, ValueError):
        return None


def parameters_of(fn: Callable[..., Any]) -> Parameters:
    """Return the parameters of a function; those of the newest functions are kept."""
    try:
        return _newest(fn)
    except TypeError:  # an object that can be called and has no hash
        return Parameters(fn)


class Parameters:
    """The parameters of a function.

    Arguments are converted to the types with which the parameters are annotated: dates, times, durations, Decimal,
    UUID, Path, enums, dataclasses, arrays of numpy, Timestamp, Timedelta and Period of pandas, and lists, dictionaries
    and unions of these. The types of JSON itself (text, numbers, booleans) are neither converted nor checked, except
    that an integer may be written as 3.0, and that keys of dictionaries, which JSON has as text only, become numbers,
    booleans and None. An annotation that cannot be resolved counts as none.

    It does not use pydantic, which is 7 MB of compiled code for every deployed handler, and refuses text where the
    annotation is int.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._name = display_name(fn)
        self._signature = signature(fn)
        self._types = {} if self._signature is None else _types(fn, self._signature)
        self._typed = {*self._types} | (set() if self._signature is None else _texts(fn, self._signature))

    def fill(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a row as keyword arguments: a parameter `row` that is no field gets all of them.

        Then the fields that the function does not name are left out, unless it has ``**kwargs``.
        """
        if not kwargs or _ROW in kwargs or self._signature is None:
            return kwargs
        parameters = self._signature.parameters
        if _ROW not in parameters or parameters[_ROW].kind not in _NAMED[:2]:
            return kwargs
        every = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        return {name: value for name, value in kwargs.items() if every or name in parameters} | {_ROW: dict(kwargs)}

    def restore(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], types: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments as what a description says they are, but for parameters whose annotation says it."""
        if args:
            return (args if self._typed else tuple(restore(value, types) for value in args)), {**kwargs}
        fields = types.get("fields", {}) if isinstance(types, dict) else {}
        return (), {
            name: value if name in self._typed else restore(value, fields.get(name)) for name, value in kwargs.items()
        }

    def mismatch(self, args: tuple[Any, ...], kwargs: Collection[str]) -> str | None:
        """Return why the function cannot be called with these arguments, of which only the names count; else None."""
        if self._signature is None:
            return None
        try:
            self._signature.bind(*args, **dict.fromkeys(kwargs))
        except TypeError as error:
            wanted = f"{self._name}({', '.join(self._signature.parameters)})"
            return f"{wanted}: {error}; the body gave {_given(args, kwargs)}"
        return None

    def convert(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the arguments, which fit to the parameters, converted to their types.

        Raises
        ------
        ValueError
            With the parameter, the value and the type, if a value cannot be converted.
        """
        if not self._types:
            return args, kwargs
        if args:  # one value, for the first parameter
            first = next(iter(self._signature.parameters)) if self._signature else ""
            return tuple(self._converted(first, value) for value in args), kwargs
        return args, {name: self._converted(name, value) for name, value in kwargs.items()}

    def _converted(self, name: str, value: Any) -> Any:
        if name not in self._types:
            return value
        try:
            return _convert(value, self._types[name])
        except Exception as error:
            kind = inspect.formatannotation(self._types[name])
            shown = f"{name}={reprlib.repr(value)} ({type(value).__name__})"
            raise ValueError(f"{self._name}: {shown} cannot be converted to {kind}: {error}") from error


@functools.lru_cache(maxsize=64)
def _newest(fn: Callable[..., Any]) -> Parameters:
    return Parameters(fn)


def _given(args: tuple[Any, ...], kwargs: Collection[str]) -> str:
    if args:
        return f"one value ({type(args[0]).__name__}); only a JSON object becomes keyword arguments"
    return "the names " + ", ".join(kwargs) if kwargs else "no names"


def _types(fn: Callable[..., Any], found: inspect.Signature) -> dict[str, Any]:
    """Return the types to convert to, by parameter."""
    names = _globals(fn)
    chosen = {}
    for parameter in found.parameters.values():
        if parameter.kind not in _NAMED or parameter.annotation is parameter.empty:
            continue
        kind = _resolve(parameter.annotation, names)
        if _converts(kind):
            # A default of None allows None: ``day: date = None``.
            chosen[parameter.name] = Union[kind, None] if parameter.default is None else kind  # noqa: UP007 - not every kind has "|"
    return chosen


def _texts(fn: Callable[..., Any], found: inspect.Signature) -> set[str]:
    """Return the parameters that are annotated as text, with or without None."""
    names = _globals(fn)
    kinds = {name: _resolve(one.annotation, names) for name, one in found.parameters.items()}
    return {name for name, kind in kinds.items() if kind is str or {*get_args(kind)} == {str, type(None)}}


def _globals(fn: Any) -> dict[str, Any]:
    """Return the names that the annotations of a function can use."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    for found in (fn, getattr(fn, "__init__", None), inspect.getattr_static(type(fn), "__call__", None)):
        names = getattr(found, "__globals__", None)  # of a method, those of its function
        if names is not None:
            return dict(names)
    return {}


def _resolve(annotation: Any, names: dict[str, Any]) -> Any:
    """Return the type that an annotation names; `Any` if it cannot be resolved."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, names)["it"]
    except Exception:  # noqa: BLE001 - an annotation is any expression; one that fails here was no error before
        return Any


def _converts(kind: Any) -> bool:
    """Return whether JSON has another type for the values of a type, or of one inside it."""
    origin, inner = _parts(kind)
    if origin in (Union, types.UnionType, *_LISTS, *_MAPPINGS) and any(map(_converts, inner)):
        return True
    return _is_type(origin or kind)


def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what a type is made of, and the types inside it; those of keys are made of text."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin not in _MAPPINGS or not inner:
        return origin, inner
    keys = get_args(inner[0]) if get_origin(inner[0]) in (Union, types.UnionType) else (inner[0],)
    return origin, (Union[tuple(_KEYS.get(key, key) for key in keys)], *inner[1:])  # noqa: UP007 - of a tuple


def _is_type(kind: Any) -> bool:
    """Return whether JSON has another type for the values of a type."""
    if not isinstance(kind, type):
        return False
    return (
        kind in (int, decimal.Decimal, *_COLLECTIONS, *_FROM_TEXT)
        or issubclass(kind, enum.Enum)
        or dataclasses.is_dataclass(kind)
        or bool(_library(kind))
    )


def _library(kind: type) -> str:
    """Return of which library a type is, if it is one of those that are converted."""
    library = kind.__module__.partition(".")[0]
    wanted = {"pandas": _OF_PANDAS, "numpy": ("ndarray",)}.get(library, ())
    return library if kind.__name__ in wanted else ""


def _convert(value: Any, kind: Any) -> Any:
    """Return a value of JSON as a value of a type."""
    origin, inner = _parts(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(value, inner)
    if not _converts(kind):
        return value
    if inner and origin in (*_LISTS, *_MAPPINGS):
        return _convert_collection(value, origin, inner)
    return _convert_single(value, origin or kind, inner)


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Convert to the first type that fits; a value that JSON has for one of them stays."""
    if any(isinstance(kind, type) and type(value) is kind for kind in kinds):
        return value
    reasons = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _convert(value, kind)
        except Exception as error:  # noqa: BLE001 - the user's classes may raise anything; the message is reported
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))


def _convert_collection(value: Any, plain: Any, inner: tuple[Any, ...]) -> Any:
    if plain in _MAPPINGS:
        _expect(value, dict)
        return {_convert(key, inner[0]): _convert(item, inner[-1]) for key, item in value.items()}
    _expect(value, list)
    if plain is tuple and inner[-1] is not Ellipsis:
        if len(value) != len(inner):
            raise ValueError(f"it has {len(value)} values")
        return tuple(_convert(item, kind) for item, kind in zip(value, inner, strict=True))
    make = plain if plain in _COLLECTIONS else list
    return make(_convert(item, inner[0]) for item in value)


def _convert_single(value: Any, plain: Any, inner: tuple[Any, ...]) -> Any:
    if plain is int:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if issubclass(plain, enum.Enum):
        return _convert_enum(value, plain)
    if dataclasses.is_dataclass(plain):
        return _convert_dataclass(value, plain)
    if plain in _COLLECTIONS or _library(plain) == "numpy":
        _expect(value, list)
        return plain(value) if plain in _COLLECTIONS else _array(value, inner)
    _expect(value, (str, int, float) if plain is decimal.Decimal else str)
    return _FROM_TEXT.get(plain, plain)(str(value))


def _array(value: list[Any], inner: tuple[Any, ...]) -> Any:
    """Return a list as an array of numpy, which the annotation has loaded."""
    kinds = [kind for part in inner for kind in get_args(part) if isinstance(kind, type)]  # of np.dtype[np.float64]
    return sys.modules["numpy"].asarray(value, dtype=kinds[-1] if kinds else None)


def _convert_enum(value: Any, plain: Any) -> Any:
    try:
        return plain(value)
    except ValueError:
        if isinstance(value, str) and value in plain.__members__:
            return plain[value]
        raise


def _convert_dataclass(value: Any, plain: Any) -> Any:
    _expect(value, dict)
    parameters = parameters_of(plain)
    reason = parameters.mismatch((), value)
    if reason is not None:
        raise ValueError(reason)
    return plain(**parameters.convert((), value)[1])


def _expect(value: Any, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError("it is null" if value is None else f"it is of type {type(value).__name__}")  # noqa: TRY004 - a value of the data, not a type of the code


def _date(text: str) -> dt.date:
    moment = dt.datetime.fromisoformat(text)  # a column of midnights is sent as times
    if moment.time() != dt.time():
        raise ValueError("it has a time of day")
    return moment.date()


def _timedelta(text: str) -> dt.timedelta:
    found = _DURATION.fullmatch(text)
    given = found.groupdict("") if found else {}
    sign = given.pop("sign", "")
    if not any(given.values()):
        raise ValueError('it is not an ISO 8601 duration such as "P1DT2H30M"')
    span = dt.timedelta(**{unit: float(number) for unit, number in given.items() if number})
    return -span if sign else span


def _key(kind: type, text: str) -> Any:
    """Return a key of a JSON object as a value of a type of JSON."""
    try:
        value = _convert(json.loads(text), kind)
    except ValueError:
        value = text
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f"the key {text!r} is not of type {kind.__name__}")
    return float(value) if kind is float else value


_COLLECTIONS = (tuple, set, frozenset)
_LISTS = (list, *_COLLECTIONS, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_FROM_TEXT: dict[type, Callable[[str], Any]] = {
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: _date,
    dt.time: dt.time.fromisoformat,
    dt.timedelta: _timedelta,
    uuid.UUID: uuid.UUID,
    pathlib.Path: pathlib.Path,
}
#: Types that replace those of JSON in keys, which are text.
_KEYS = {kind: type(kind.__name__, (), {}) for kind in (int, float, bool, type(None))}
_FROM_TEXT |= {stand_in: functools.partial(_key, kind) for kind, stand_in in _KEYS.items()}

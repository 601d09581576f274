"""Reads the configuration file: options of the emulator, and queues with their settings, in YAML or JSON."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["ConfigFile"]

_QUEUES = "queues"
_ROUTING, _ENGINE = "appEngineRoutingOverride", "appEngineHttpQueue"
_NO_SETTINGS = {_ENGINE, "purgeTime", "stats", "type"}  # the first one is given as in v2, the others are output only
_WHOLE = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_DURATION = "google.protobuf.Duration"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What a configuration file says."""

    path: Path
    readers: Mapping[str, Callable[[Any], Any]]  #: convert the values of options, by the names of these
    options: Mapping[str, Any]  #: converted values by names
    queues: Sequence[Any]  #: v2beta3, with the settings that the file has; the state is 0 if it has none

    @classmethod
    def read(cls, path: Path, readers: Mapping[str, Callable[[Any], Any]]) -> Self:
        """Read a file.

        Raises
        ------
        InvalidInputError
            If it cannot be read, or something in it is not allowed; with the line and the key.
        """
        document = _load(path)
        place = _Place(path=path, line=1)
        if not isinstance(document, _Mapping):
            raise place.error(f"the file is not a mapping with the key {_QUEUES} or with options")
        _check_keys(place, document, [_QUEUES, *readers])
        options = {}
        for name, value in document.items():
            if name != _QUEUES and value is not None:
                try:
                    options[name] = readers[name](value)
                except InvalidInputError as error:
                    raise place.at(document, name).error(error.message) from error
        queues = tuple(_read_queues(place.at(document, _QUEUES), document.get(_QUEUES)))
        return cls(path=path, readers=readers, options=options, queues=queues)


class _Mapping(dict[str, Any]):
    """A mapping of the file, and the lines of its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A place in the file, for errors."""

    path: Path
    key: str = ""  #: such as ``queues[0].rateLimits``
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.path}{line}: {self.key}".removesuffix(": ")

    def at(self, mapping: _Mapping, name: str) -> _Place:
        """Return the place of a key's value."""
        key = f"{self.key}.{name}" if self.key else name
        return _Place(path=self.path, key=key, line=mapping.lines.get(name, self.line))

    def item(self, number: int, value: Any) -> _Place:
        """Return the place of a list's item."""
        line = min(value.lines.values(), default=self.line) if isinstance(value, _Mapping) else self.line
        return _Place(path=self.path, key=f"{self.key}[{number}]", line=line)

    def error(self, text: str, hint: str | None = None) -> InvalidInputError:
        """Return the error for what is wrong there."""
        return InvalidInputError(f"{self}: {text}", resource=str(self.path), hint=hint)


class _Loader(yaml.SafeLoader):
    """Loads YAML with the lines of keys; dates stay text, as in JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name and the kind are those of PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[_Mapping]:
    mapping = _Mapping()
    yield mapping
    own = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in own:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is given twice", key.start_mark)
        own.add(str(key.value))
    loader.flatten_mapping(node)
    for key, value in node.value:
        name, line = loader.construct_object(key), key.start_mark.line + 1
        if not isinstance(name, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {name} is not text", key.start_mark)
        mapping[name], mapping.lines[name] = loader.construct_object(value), line


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _load(path: Path) -> Any:
    """Return the document of a file: mappings, lists and scalars."""
    place = _Place(path=path)
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".json":  # which is YAML, but for the tabs between its parts; it has none elsewhere
            raw = raw.replace(b"\t", b" ")
        return yaml.load(raw, _Loader)  # noqa: S506 - a safe loader
    except OSError as error:
        raise place.error(f"the configuration file cannot be read: {error.strerror or error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Place(path=path, line=mark.line + 1 if mark else None).error(str(error.problem)) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise place.error(f"the configuration file cannot be understood: {text}") from error


def _check_keys(place: _Place, mapping: _Mapping, allowed: Sequence[str]) -> None:
    for name in mapping:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}"
            raise place.at(mapping, name).error(f"there is no key {name} here", hint)


def _read_queues(place: _Place, given: Any) -> Iterator[Any]:
    if given is None:
        return
    if not isinstance(given, list):
        raise place.error("this is not a list of queues")
    names = set()
    for number, one in enumerate(given):
        queue = _read_queue(place.item(number, one), one)
        if queue.name in names:
            raise place.item(number, one).error(f"the queue {queue.name} is listed twice")
        names.add(queue.name)
        yield queue


def _read_queue(place: _Place, given: Any) -> Any:
    if not isinstance(given, _Mapping):
        raise place.error("this is not a queue: a mapping with the key name and with settings")
    fields = {field.json_name: field for field in beta.Queue.DESCRIPTOR.fields if field.json_name not in _NO_SETTINGS}
    fields[_ROUTING] = v2.Queue.DESCRIPTOR.fields_by_name["app_engine_routing_override"]
    _check_fields(place, given, fields)
    document = {key: value for key, value in given.items() if key != _ROUTING}
    if given.get(_ROUTING) is not None:
        document[_ENGINE] = {_ROUTING: given[_ROUTING]}
    try:
        QueueName.parse(str(given.get("name") or ""))
        message = json_format.ParseDict(document, beta.Queue())
        configured(message)
    except InvalidInputError as error:
        raise place.error(error.message, error.hint) from error
    except (RefusedError, json_format.ParseError) as error:
        raise place.error(getattr(error, "message", str(error))) from error
    return message


def _check_fields(place: _Place, given: _Mapping, fields: Mapping[str, FieldDescriptor]) -> None:
    """Check the keys of a message, and each of its values by itself: errors of protobuf name no line."""
    _check_keys(place, given, list(fields))
    for name, value in given.items():
        inner, field = place.at(given, name), fields[name]
        if value is None:
            continue
        if field.is_repeated:
            if not isinstance(value, list):
                raise inner.error("this is not a list")
            for number, one in enumerate(value):
                _check_value(inner.item(number, one), field, one)
        else:
            _check_value(inner, field, value)


def _check_value(place: _Place, field: FieldDescriptor, value: Any) -> None:
    message = field.message_type
    if message is not None and message.full_name != _DURATION:
        if not isinstance(value, _Mapping):
            raise place.error(f"{_shown(value)} is not a mapping")
        _check_fields(place, value, {inner.json_name: inner for inner in message.fields})
        return
    if not _fits(field, value):
        raise place.error(f"{_shown(value)} is not {_allowed(field)}")


def _fits(field: FieldDescriptor, value: Any) -> bool:
    if isinstance(value, bool):  # no setting is one, but protobuf takes true as the number 1
        return False
    empty = message_factory.GetMessageClass(field.containing_type)()
    try:
        json_format.ParseDict({field.json_name: [value] if field.is_repeated else value}, empty)
    except (json_format.ParseError, TypeError, ValueError, AttributeError):  # the last ones for what JSON does not have
        return False
    return True


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)


def _allowed(field: FieldDescriptor) -> str:
    """Return what a field takes."""
    if field.enum_type is not None:
        return f"one of {', '.join(one.name for one in field.enum_type.values if one.number)}"
    if field.message_type is not None:
        return "a duration in seconds, such as 1.5s"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return 'text: put it in quotes, "…"'
    return "a whole number" if field.cpp_type in _WHOLE else "a number"

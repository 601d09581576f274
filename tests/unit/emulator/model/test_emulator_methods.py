"""The table of the methods: against the discovery documents of the API, and against the calls of the emulator."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.emulator.model.methods import METHODS, Method, find_method
from tests.unit.emulator.conftest import Service

#: BufferTask is none of gRPC, so that the table does not have it.
BUFFER = "cloudtasks.projects.locations.queues.tasks.buffer"
#: What the document says not to use.
UNUSED = {"extraLocationTypes"}

each_version = pytest.mark.parametrize("api", ["v2", "v2beta3"])


@cache
def discovered(api: str) -> dict[str, Any]:
    """Read the document of a version."""
    path = f"googleapiclient/discovery_cache/documents/cloudtasks.{api}.json"
    document: dict[str, Any] = json.loads(
        Path(str(distribution("google-api-python-client").locate_file(path))).read_bytes()
    )
    return document


def methods(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the methods of a resource and of those below it."""
    yield from resource.get("methods", {}).values()
    for below in resource.get("resources", {}).values():
        yield from methods(below)


def pairs(api: str) -> Iterator[tuple[dict[str, Any], Method, str]]:
    """Yield each method of a document with the emulator's, and the resource that this one finds in its path."""
    for described in methods(discovered(api)):
        path = described["flatPath"].replace("{", "").replace("}", "").removeprefix(f"{api}/")
        found = find_method(described["httpMethod"], api, path)
        assert (found is None) is (described["id"] == BUFFER), described["id"]
        if found is not None:
            yield described, *found


def body_of(method: Method) -> Any:
    """Return the type of what a method has as its body; None if it has none."""
    if method.body in {None, "*"}:
        return method.request.DESCRIPTOR if method.body else None
    return method.request.DESCRIPTOR.fields_by_name[method.body].message_type


def strangers(schemas: dict[str, Any], name: str, descriptor: Any, seen: set[str]) -> Iterator[str]:
    """Yield the fields and the values of enums that a schema has and a message has not, and those below it."""
    if name in seen or descriptor is None:
        return
    seen.add(name)
    fields = {field.json_name: field for field in descriptor.fields}
    for key, value in schemas[name].get("properties", {}).items():
        inner = value.get("items", value)
        if key not in fields:
            yield f"{name}.{key}"
        elif "$ref" in inner:
            yield from strangers(schemas, inner["$ref"], fields[key].message_type, seen)
        elif "enum" in inner and fields[key].enum_type is not None:
            yield from (
                f"{name}.{key}={one}" for one in inner["enum"] if one not in fields[key].enum_type.values_by_name
            )


@each_version
def test_methods_of_the_document(api: str) -> None:
    """Each method has its path, and takes and returns the messages of the document; there are no others."""
    answered = {"/google.logging.v2.LoggingServiceV2/ListLogEntries"}
    for described, method, given in pairs(api):
        assert described["parameters"][method.resource.rpartition(".")[2]]["location"] == "path", described["id"]
        assert f"/{given}" in f"/{described['flatPath']}".replace("{", "").replace("}", ""), described["id"]
        body = body_of(method)
        messages = (body and body.name, method.response.DESCRIPTOR.name)
        assert messages == (described.get("request", {}).get("$ref"), described["response"]["$ref"]), described["id"]
        answered.add(method.path)
    assert {path for path in METHODS if ".tasks." not in path or f".{api}." in path} == answered


@each_version
def test_fields_of_the_document(api: str) -> None:
    """A request has each parameter and each field of the document, and an answer each of its fields."""
    schemas, wrong, seen = discovered(api)["schemas"], [], set[str]()
    for described, method, _ in pairs(api):
        known = {field.json_name for field in method.request.DESCRIPTOR.fields}
        query = {name for name, one in described["parameters"].items() if one["location"] == "query"}
        wrong += [f"{described['id']}?{name}" for name in sorted(query - known - UNUSED)]
        messages = {"request": body_of(method), "response": method.response.DESCRIPTOR}
        for kind, message in messages.items():
            wrong += strangers(schemas, described[kind]["$ref"], message, seen) if kind in described else []
    assert wrong == []


async def test_every_method_has_its_call(service: Service) -> None:
    """The emulator executes the methods of the table, and no others."""
    assert service.calls.keys() == METHODS.keys()

"""The emulator's messages and services: what Google's packages have, without these packages."""

import importlib.metadata
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud.tasks_v2 import types
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from cloudtasks_nb.emulator.model.apis import POOL, call_messages, v2
from tests.descriptors import FILE, descriptor_set
from tests.processes import run
from tests.test_environment import pins

#: The distributions that the descriptor set is made of.
MADE_OF = (
    *("google-cloud-tasks", "google-cloud-logging", "googleapis-common-protos", "grpc-google-iam-v1"),
    *("grpcio-health-checking", "grpcio-reflection", "proto-plus", "protobuf"),
)
#: The packages of protobuf whose messages the emulator reads and writes.
READ = ("google.cloud.", "google.logging.", "google.longrunning", "google.iam.", "google.rpc")


def declared(files: FileDescriptorSet) -> set[Any]:
    """Return the fields, enum values and methods that the emulator may read, with their numbers and types."""
    return {
        found
        for file in files.file
        if file.package.startswith(READ)
        for found in (
            *fields(f".{file.package}", file.message_type),
            *numbers(f".{file.package}", file.enum_type),
            *((m.name, m.input_type, m.output_type) for service in file.service for m in service.method),
        )
    }


def fields(scope: str, messages: Any) -> Iterator[Any]:
    """Yield the fields of messages, and of those in them."""
    for message in messages:
        name = f"{scope}.{message.name}"
        yield from ((name, f.name, f.number, f.type, f.label, f.type_name) for f in message.field)
        yield from fields(name, message.nested_type)
        yield from numbers(name, message.enum_type)


def numbers(scope: str, enums: Any) -> Iterator[Any]:
    """Yield the values of enumerations."""
    return ((scope, enum.name, value.name, value.number) for enum in enums for value in enum.value)


def test_the_file_is_what_the_installed_packages_have() -> None:
    """Other releases may have more than the emulator's file; the pinned ones make it, byte for byte."""
    stored, made = FileDescriptorSet.FromString(FILE.read_bytes()), descriptor_set()
    assert declared(stored) - declared(made) == set()
    pinned = {(pin.name, str(pin.specifier)) for pin in pins()}
    if {(name, f"=={importlib.metadata.version(name)}") for name in MADE_OF} <= pinned:
        assert stored == made, "run `make descriptors`"


@pytest.mark.parametrize("first", ["cloudtasks_nb.emulator.model.apis", "google.cloud.tasks_v2"])
def test_googles_package_may_be_in_the_same_process(first: str) -> None:
    """Whichever is imported first, each has message classes of its own, and they read each other's bytes."""
    code = (
        f"import {first}\n"
        "from google.cloud.tasks_v2 import types\n"
        "from cloudtasks_nb.emulator.model.apis import v2\n"
        "task = types.Task(name='a', dispatch_deadline={'seconds': 5})\n"
        "print(v2.Task.FromString(types.Task.serialize(task)).dispatch_deadline.ToTimedelta())"
    )
    assert run(sys.executable, "-c", code).stdout == "0:00:05\n"


def test_all_messages_are_of_one_pool() -> None:
    """Also the well-known types in a message, and those that calls take and return."""
    request, response = call_messages("/google.cloud.tasks.v2.CloudTasks/CreateTask")
    assert (request, response) == (v2.CreateTaskRequest, v2.Task)
    assert type(v2.Task().schedule_time).DESCRIPTOR.file.pool is v2.Task.DESCRIPTOR.file.pool is POOL
    assert types.Task.pb().DESCRIPTOR.file.pool is not POOL


def test_the_emulator_loads_none_of_googles_packages() -> None:
    """Of Google's it imports protobuf and gRPC only at its start: the others would double the time that it takes."""
    code = "import sys, cloudtasks_nb.emulator.server; print(*sys.modules)"
    names = run(sys.executable, "-c", code).stdout.split()
    loaded = {".".join(name.split(".")[:2]) for name in names if name.startswith(("google.", "proto."))}
    assert loaded == {"google.protobuf", "google._upb"}

"""The messages and services of Google's APIs, as plain protobuf, from the descriptor set in this folder.

`make descriptors` writes that file from Google's packages. Importing these takes longer than all else at a start. The
pool is a private one: the default pool may hold the same messages in Google's files, which have other names.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

__all__ = [
    "POOL",
    "beta",
    "call_messages",
    "google_rpc",
    "health",
    "iam",
    "locations",
    "logs",
    "new_numbers",
    "operations",
    "reflection",
    "v2",
    "well_known",
]

_FILES = FileDescriptorSet.FromString(Path(__file__).with_name("apis.binpb").read_bytes()).file

#: Describes everything here.
POOL: Final[Any] = DescriptorPool()
for _file in _FILES:
    POOL.AddSerializedFile(_file.SerializeToString())


def call_messages(call: str) -> tuple[Any, Any]:
    """Return the classes of request and response of a call: ``/google.cloud.tasks.v2.CloudTasks/CreateTask``."""
    method = POOL.FindMethodByName(call.strip("/").replace("/", "."))
    return GetMessageClass(method.input_type), GetMessageClass(method.output_type)


def new_numbers(old: Any, new: Any) -> dict[int, int]:
    """Return the numbers that the fields of a message have in another message, by those that they have in the first."""
    fields = new.DESCRIPTOR.fields_by_name
    return {field.number: fields[field.name].number for field in old.DESCRIPTOR.fields if field.name in fields}


def _messages(package: str) -> Any:
    """Return the message classes of a package by their names."""
    names = [message.name for file in _FILES if file.package == package for message in file.message_type]
    return SimpleNamespace(**{name: GetMessageClass(POOL.FindMessageTypeByName(f"{package}.{name}")) for name in names})


v2 = _messages("google.cloud.tasks.v2")
beta = _messages("google.cloud.tasks.v2beta3")
logs = _messages("google.logging.v2")
iam = _messages("google.iam.v1")
locations = _messages("google.cloud.location")
operations = _messages("google.longrunning")
google_rpc = _messages("google.rpc")
health = _messages("grpc.health.v1")
reflection = _messages("grpc.reflection.v1alpha")
well_known = _messages("google.protobuf")

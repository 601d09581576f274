"""Write the descriptor set of the emulator from Google's packages: `make descriptors`.

The emulator loads its messages and services from this file, so that it needs none of these packages. The packages of
Cloud Tasks and of the log describe messages only: their services are described here, by the calls of Google's clients.
"""

from collections import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from google.cloud.location import locations_pb2
from google.cloud.logging_v2.services.logging_service_v2.transports import LoggingServiceV2GrpcTransport
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.cloud.tasks_v2beta3.services.cloud_tasks.transports import CloudTasksGrpcTransport as BetaTransport
from google.longrunning import operations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

FILE = Path(__file__).parents[1] / "cloudtasks_nb" / "emulator" / "model" / "apis.binpb"

_WHOLE = (error_details_pb2, health_pb2, locations_pb2, operations_pb2, reflection_pb2)
_CLIENTS = {
    "google.cloud.tasks.v2.CloudTasks": CloudTasksGrpcTransport,
    "google.cloud.tasks.v2beta3.CloudTasks": BetaTransport,
    "google.logging.v2.LoggingServiceV2": LoggingServiceV2GrpcTransport,
}
# What the clients have of services that are described as a whole, and what the emulator does not have of the log.
_LEFT_OUT = {"cancel_operation", "get_location", "get_operation", "list_locations", "list_operations"}
_LEFT_OUT |= {"delete_log", "list_logs", "list_monitored_resource_descriptors", "tail_log_entries", "write_log_entries"}


def descriptor_set() -> FileDescriptorSet:
    """Return all files that describe the emulator's messages and services, each after those that it imports."""
    files: dict[str, FileDescriptorProto] = {}
    for module in _WHOLE:
        _add(files, module.DESCRIPTOR)
    for service, client in _CLIENTS.items():
        file = FileDescriptorProto(name=f"{service.replace('.', '/')}.proto", syntax="proto3")
        file.package, _, name = service.rpartition(".")
        methods = file.service.add(name=name).method
        for method, *messages in _methods(client):
            request, response = (f".{message.full_name}" for message in messages)
            methods.add(name=method, input_type=request, output_type=response)
            for message in messages:
                _add(files, message.file)
                if message.file.name not in file.dependency:
                    file.dependency.append(message.file.name)
        files[file.name] = file
    return FileDescriptorSet(file=files.values())


def _add(files: dict[str, FileDescriptorProto], file: Any) -> None:
    """Add a file, and before it those that it imports, in the order of their names: proto-plus has it by chance."""
    if file.name not in files:
        for imported in sorted(file.dependencies, key=lambda found: str(found.name)):
            _add(files, imported)
        files[file.name] = FileDescriptorProto.FromString(file.serialized_pb)
        files[file.name].dependency.sort()


def _methods(client: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the names of a client's calls, with the descriptors of request and response, which are its annotations."""
    for name, member in sorted(vars(client).items()):
        found = get_type_hints(member.fget).get("return") if isinstance(member, property) else None
        if get_origin(found) is abc.Callable and name not in _LEFT_OUT:
            ((request,), response) = get_args(found)
            yield name.title().replace("_", ""), _descriptor(request), _descriptor(response)


def _descriptor(message: Any) -> Any:
    return (message.pb() if hasattr(message, "pb") else message).DESCRIPTOR


if __name__ == "__main__":
    FILE.write_bytes(descriptor_set().SerializeToString(deterministic=True))

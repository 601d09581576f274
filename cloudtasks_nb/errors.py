"""The exceptions of this package, as one tree.

::

    CloudTasksError
    ├── ConfigurationError            project, location or credentials are missing
    │   └── CredentialsError
    ├── InvalidInputError             also a ValueError: an argument, a row or a request is wrong
    │   ├── NaiveTimeError
    │   ├── TemplateError
    │   ├── NotSerializableError
    │   ├── RowsError
    │   └── DuplicateRowsError
    ├── NotFoundError                 also a LookupError
    │   ├── QueueNotFoundError
    │   ├── TaskNotFoundError
    │   └── BatchNotFoundError
    ├── AlreadyExistsError
    │   └── BatchExistsError
    ├── PermissionDeniedError
    ├── PreconditionError
    ├── QuotaError
    ├── UnavailableError              the service or the endpoint did not answer
    │   └── EndpointError
    ├── ServiceError                  the service answered with an error that is none of the above
    ├── BatchTimeoutError             also a TimeoutError: `wait(timeout=)` ran out
    ├── OutboxError                   the disk is full, the outbox is locked or damaged
    ├── StoreError                    the store of results cannot be read or written
    ├── HandlerError                  a function cannot be served
    └── EmulatorError
        ├── PortInUseError
        └── FolderInUseError

The docstring of a class is its default message. Facts are attributes, so that code need not parse messages.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "BatchExistsError",
    "BatchNotFoundError",
    "BatchTimeoutError",
    "CloudTasksError",
    "ConfigurationError",
    "CredentialsError",
    "DuplicateRowsError",
    "EmulatorError",
    "EndpointError",
    "FolderInUseError",
    "HandlerError",
    "InvalidInputError",
    "NaiveTimeError",
    "NotFoundError",
    "NotSerializableError",
    "OutboxError",
    "PermissionDeniedError",
    "PortInUseError",
    "PreconditionError",
    "QueueNotFoundError",
    "QuotaError",
    "RowsError",
    "ServiceError",
    "StoreError",
    "TaskNotFoundError",
    "TemplateError",
    "UnavailableError",
]


class CloudTasksError(Exception):
    """A call of Cloud Tasks or of this package failed.

    Parameters
    ----------
    message : str, optional
        What happened, and to which resource. Default: the first line of the class's docstring.
    resource : str, optional
        Full or short name of the queue, task, batch, column or file concerned.
    code : str, optional
        Canonical code of the service's answer (``"NOT_FOUND"``), if a service answered.
    hint : str, optional
        The next step: a command, a call or a role to grant. Printed below the message.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        resource: str | None = None,
        code: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.resource = resource
        self.code = code
        self.hint = hint
        super().__init__(self.message if hint is None else f"{self.message}\n  → {hint}")


class ConfigurationError(CloudTasksError):
    """The project or the location is not known."""


class CredentialsError(ConfigurationError):
    """There are no usable Google credentials."""


class InvalidInputError(CloudTasksError, ValueError):
    """An argument is not valid."""


class NaiveTimeError(InvalidInputError):
    """A time has no time zone."""


class TemplateError(InvalidInputError):
    """A template names a column that the data does not have."""


class NotSerializableError(InvalidInputError):
    """A value cannot be written as JSON."""


class RowsError(InvalidInputError):
    """Some rows cannot become tasks."""


class DuplicateRowsError(InvalidInputError):
    """Several rows would send the same request."""


class NotFoundError(CloudTasksError, LookupError):
    """The resource does not exist."""


class QueueNotFoundError(NotFoundError):
    """The queue does not exist."""


class TaskNotFoundError(NotFoundError):
    """The task does not exist, or not any more."""


class BatchNotFoundError(NotFoundError):
    """There is no such batch in the outbox."""


class AlreadyExistsError(CloudTasksError):
    """The resource exists already."""


class BatchExistsError(AlreadyExistsError):
    """The batch exists and differs from the request; nothing was sent."""


class PermissionDeniedError(CloudTasksError):
    """The principal lacks a permission."""


class PreconditionError(CloudTasksError):
    """The resource is not in a state that allows this."""


class QuotaError(CloudTasksError):
    """A quota of the service is used up for the moment."""


class UnavailableError(CloudTasksError):
    """The service did not answer."""


class EndpointError(UnavailableError):
    """Nothing answers at the endpoint."""


class ServiceError(CloudTasksError):
    """The service answered with an error."""


class BatchTimeoutError(CloudTasksError, TimeoutError):
    """The batch was not done in time; it continues."""


class OutboxError(CloudTasksError):
    """The outbox cannot be read or written."""


class StoreError(CloudTasksError):
    """The store of results cannot be read or written."""


class HandlerError(CloudTasksError):
    """The function cannot be served."""


class EmulatorError(CloudTasksError):
    """The embedded emulator cannot run."""


class PortInUseError(EmulatorError):
    """The port is in use."""


class FolderInUseError(EmulatorError):
    """The folder is in use by another emulator."""

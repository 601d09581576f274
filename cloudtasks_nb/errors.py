"""The exceptions of this package, as one tree.

    CloudTasksError
    ├── ConfigurationError            project, location or credentials are missing
    │   └── CredentialsError
    ├── InvalidInputError             also a ValueError: an argument, a row or a request is wrong
    │   ├── ArgumentError             also a TypeError: a call has an unknown argument, or lacks one
    │   ├── NaiveTimeError
    │   ├── TemplateError
    │   ├── NotSerializableError
    │   ├── RowsError
    │   └── DuplicateRowsError
    ├── UnknownNameError              also an AttributeError: a misspelt name
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

The docstring of a class is its default message. Facts are attributes, so that code need not parse messages. Message and
hint have dots in place of secrets, because they may repeat what a service answered, or what was given to a call.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

__all__ = [
    "AlreadyExistsError",
    "ArgumentError",
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
    "UnknownNameError",
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
    reason : str, optional
        Reason of a refusal (``"SERVICE_DISABLED"``), if the service named one:
        https://cloud.google.com/apis/design/errors#error_info.
    hint : str, optional
        The next step: a command, a call or a role to grant. Printed below the message.

    Examples
    --------
    >>> try:
    ...     tasks.queue("nowhere").pause()
    ... except ct.errors.CloudTasksError as error:
    ...     print(error.code, error.resource)
    ...     print(error.hint)
    NOT_FOUND projects/local/locations/us-central1/queues/nowhere
    tasks.queue("nowhere", create=True) creates it; tasks.queues() lists the queues
    """

    #: What an error shows of a text, which may be that of a service. `display.secrets` of the toolkit sets it.
    _shown: ClassVar[Callable[[str], str]] = str

    def __init__(
        self,
        message: str | None = None,
        *,
        resource: str | None = None,
        code: str | None = None,
        reason: str | None = None,
        hint: str | None = None,
    ) -> None:
        shown = type(self)._shown  # noqa: SLF001 - its own; as an attribute of self it would be a method
        self.message = shown(message or (type(self).__doc__ or "").split("\n", 1)[0])
        self.resource = resource
        self.code = code
        self.reason = reason
        self.hint = None if hint is None else shown(hint)
        super().__init__(self.message if hint is None else f"{self.message}\n  → {self.hint}")

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows of this error: the lines of the user's code, and the message.

        ``%tb`` shows the whole traceback, with the errors behind it: then no error is being handled.
        """
        error, trace = self, self.__traceback__
        if sys.exception() is self:
            error, trace = copy.copy(self), _before_package(trace)  # a copy has no cause and no context
        shell: Any = sys.modules["IPython"].get_ipython()  # which calls this; the emulator alone does without it
        shown: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, trace)
        return shown


def _before_package(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback up to the first line of this package."""
    levels = []
    while trace and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] != __name__.partition(".")[0]:
        levels.append(trace)
        trace = trace.tb_next
    found = None
    for level in reversed(levels):
        found = TracebackType(found, level.tb_frame, level.tb_lasti, level.tb_lineno)
    return found


class ConfigurationError(CloudTasksError):
    """The project or the location is not known.

    Examples
    --------
    >>> ct.connect("my-project").queues()
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.ConfigurationError: the location of the queues in project my-project is not known
      → ct.connect("my-project", "us-central1"), or set CLOUDTASKS_NB_LOCATION; gcloud tasks locations ...
    """


class CredentialsError(ConfigurationError):
    """There are no usable Google credentials.

    Examples
    --------
    >>> ct.connect("my-project", "us-central1").queues()
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.CredentialsError: no Google credentials were found
      → run: gcloud auth application-default login   (or work without an account: ct.local())
    """


class InvalidInputError(CloudTasksError, ValueError):
    """An argument is not valid.

    Examples
    --------
    >>> queue.update(rate=-1)
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.InvalidInputError: rate=-1 is not more than 0 and at most 500 dispatches a second
      → queue.pause() stops dispatching
    """


class ArgumentError(InvalidInputError, TypeError):
    """A call has an argument that is not known, or lacks one that it needs.

    Examples
    --------
    >>> queue.fan_out(df, url=handler, boddy=["day"])
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.ArgumentError: fan_out() has no argument "boddy"; did you mean "body"?
    """


class NaiveTimeError(InvalidInputError):
    """A time has no time zone.

    Examples
    --------
    >>> queue.enqueue(handler, at="2030-01-02 06:00")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.NaiveTimeError: at='2030-01-02 06:00:00' has no time zone
      → add an offset ("2030-01-02 06:00:00+00:00") or tz="UTC" or tz="Europe/Zurich"
    """


class TemplateError(InvalidInputError):
    """A template names a column that the data does not have.

    Examples
    --------
    >>> queue.fan_out(df, url="https://svc.example/run/{airport}")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.TemplateError: url names the column "airport", which the data does not have
      → the columns are day, origin
    """


class NotSerializableError(InvalidInputError):
    """A value cannot be written as JSON.

    Examples
    --------
    >>> queue.enqueue(handler, {"day": object()})
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.NotSerializableError: object cannot be written as JSON
      → convert it first, to text or to numbers
    """


class RowsError(InvalidInputError):
    """Some rows cannot become tasks.

    Examples
    --------
    >>> queue.fan_out(pd.DataFrame({"url": ["https://svc.example/run", None]}), url="{url}")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.RowsError: 1 of the 2 rows cannot become tasks
      row 1: url: "url" is missing
      → nothing was sent; leave them out first: df.dropna(subset=['url']); or errors="skip" sends the ...
    """


class DuplicateRowsError(InvalidInputError):
    """Several rows would send the same request.

    Examples
    --------
    >>> queue.fan_out(pd.concat([df, df]), url=handler)
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.DuplicateRowsError: 3 of 6 rows have the key of an earlier row: 3 is the same ...
      → key=[...] with columns that tell the rows apart, errors="skip" (the first is sent), or ...
    """


class UnknownNameError(CloudTasksError, AttributeError):
    """There is no attribute or method of this name.

    Examples
    --------
    >>> batch.retry()
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.UnknownNameError: 'Batch' object has no attribute 'retry'; did you mean "retry_failed"?
    """


class NotFoundError(CloudTasksError, LookupError):
    """The resource does not exist.

    Examples
    --------
    >>> try:
    ...     waiting = len(tasks.queue("nowhere").tasks())
    ... except ct.errors.NotFoundError:
    ...     waiting = 0
    >>> waiting
    0
    """


class QueueNotFoundError(NotFoundError):
    """The queue does not exist.

    Examples
    --------
    >>> tasks.queue("nowhere").tasks()
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.QueueNotFoundError: there is no queue "nowhere" ...
      → tasks.queue("nowhere", create=True) creates it; tasks.queues() lists the queues
    """


class TaskNotFoundError(NotFoundError):
    """The task does not exist, or not any more.

    Examples
    --------
    >>> issubclass(ct.errors.TaskNotFoundError, ct.errors.NotFoundError)
    True
    >>> queue.run("t1")["error"].item()  # verbs on many tasks return the errors instead
    'task "t1" is not in its queue: Requested entity was not found.'
    """


class BatchNotFoundError(NotFoundError):
    """There is no such batch in the outbox.

    Examples
    --------
    >>> tasks.batch("january")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.BatchNotFoundError: there is no batch "january" in this outbox
      → tasks.batches() lists those there are; queue.fan_out(...) makes one
    """


class AlreadyExistsError(CloudTasksError):
    """The resource exists already.

    Examples
    --------
    >>> task = queue.enqueue(handler, task_id="daily", delay="1h")
    >>> queue.enqueue(handler, task_id="daily", delay="1h")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.AlreadyExistsError: there is, or was lately, a task "daily" in queue reports: ...
      → use another task_id, or none; an id is free again 24 hours after its task left the queue
    """


class BatchExistsError(AlreadyExistsError):
    """The batch exists and differs from the request; nothing was sent.

    Examples
    --------
    >>> batch = queue.fan_out(df, url=handler, name="january")
    >>> queue.fan_out(df, url=handler, body=["day"], name="january")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.BatchExistsError: the batch january (...) was made of other templates; body ...
      → nothing was sent; any new name sends all
    """


class PermissionDeniedError(CloudTasksError):
    """The principal lacks a permission.

    Examples
    --------
    >>> try:
    ...     queue = tasks.queue("reports", create=True, rate=50)
    ... except ct.errors.PermissionDeniedError as error:
    ...     print(error.hint)  # the role to grant
    made queue reports with log_sampling_ratio=1.0 ...
    """


class PreconditionError(CloudTasksError):
    """The resource is not in a state that allows this.

    Examples
    --------
    >>> queue.delete()
    <Queue projects/local/locations/us-central1/queues/reports>
    >>> tasks.queue("reports", create=True)
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.PreconditionError: the queue "reports" cannot be created: ...
      → the name of a deleted queue is blocked for up to 3 days: use another name, tasks.queue("reports-2", ...
    """


class QuotaError(CloudTasksError):
    """A quota of the service is used up for the moment.

    Examples
    --------
    >>> try:
    ...     attempts = queue.attempts(limit=None)
    ... except ct.errors.QuotaError as error:
    ...     print(error)  # try again in a minute
    """


class UnavailableError(CloudTasksError):
    """The service did not answer.

    Examples
    --------
    >>> issubclass(ct.errors.EndpointError, ct.errors.UnavailableError)
    True
    >>> try:
    ...     found = tasks.queues()
    ... except ct.errors.UnavailableError:
    ...     found = None  # the service did not answer; nothing is lost, ask again later
    """


class EndpointError(UnavailableError):
    """Nothing answers at the endpoint.

    Examples
    --------
    >>> ct.connect(endpoint="127.0.0.1:9").queues()
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.EndpointError: nothing answers at 127.0.0.1:9
      → is the emulator running there? ct.local() starts one; cloudtasks-nb emulator --port 8123 too
    """


class ServiceError(CloudTasksError):
    """The service answered with an error.

    Examples
    --------
    >>> try:
    ...     queue.update(rate=50)
    ... except ct.errors.ServiceError as error:
    ...     print(error.code)
    <Queue projects/local/locations/us-central1/queues/reports>
    """


class BatchTimeoutError(CloudTasksError, TimeoutError):
    """The batch was not done in time; it continues.

    Examples
    --------
    >>> batch = queue.pause().fan_out(df, url=handler)
    >>> batch.wait(2)
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.BatchTimeoutError: batch ... is not done after 2 s: 3 rows: 3 ready; paused
      → the batch continues: batch.wait() waits longer, batch.progress() shows its state
    """


class OutboxError(CloudTasksError):
    """The outbox cannot be read or written.

    Examples
    --------
    >>> try:
    ...     batch = queue.fan_out(df, url=handler)
    ... except ct.errors.OutboxError as error:
    ...     print(error.hint)  # for example: the disk is full
    """


class StoreError(CloudTasksError):
    """The store of results cannot be read or written.

    Examples
    --------
    >>> df.to_csv("rows.csv")
    >>> other = ct.local(store="rows.csv")
    >>> other.batch(batch.id).results()
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.StoreError: batches/... cannot be read in ...rows.csv: ...
      → check that the folder can be written and that its disk has space; ...
    """


class HandlerError(CloudTasksError):
    """The function cannot be served.

    Examples
    --------
    >>> ct.serve("report")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.HandlerError: 'report' is not a function
      → give the function itself, ct.serve(report), not what a call of it returns
    """


class EmulatorError(CloudTasksError):
    """The embedded emulator cannot run.

    Examples
    --------
    >>> cloud_tasks_emulator.restore("yesterday")
    Traceback (most recent call last):
        ...
    cloudtasks_nb.errors.EmulatorError: There is no snapshot yesterday.
    """


class PortInUseError(EmulatorError):
    """The port is in use.

    Examples
    --------
    >>> issubclass(ct.errors.PortInUseError, ct.errors.EmulatorError)
    True
    """


class FolderInUseError(EmulatorError):
    """The folder is in use by another emulator.

    Examples
    --------
    >>> issubclass(ct.errors.FolderInUseError, ct.errors.EmulatorError)
    True
    """

"""One task of literal options, without columns and templates: a brace is a brace."""

from __future__ import annotations

import datetime as dt
from typing import Any

from google.cloud.tasks_v2 import types

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import check_has_body
from cloudtasks_nb.fanout.plan.options import LARGEST_TASK, TaskOptions, check_delivery, check_headers
from cloudtasks_nb.fanout.plan.schedule import literal_schedule
from cloudtasks_nb.fanout.plan.url import literal_url
from cloudtasks_nb.service.convert import HTTP_METHODS
from cloudtasks_nb.store.encode import to_json

__all__ = ["literal_task"]


def literal_task(options: TaskOptions, *, now: dt.datetime) -> Any:
    """Return one task as a raw Task without a name.

    Parameters
    ----------
    options : TaskOptions
        `url` is a text or a handler; a `body` of type str or bytes is sent as it is, None is no body, everything else
        is sent as JSON.
    now : datetime.datetime
        From when `delay`, and the 30 days that a schedule may reach ahead, count.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    delivery = check_delivery(options)
    if options.body is not None:
        check_has_body(delivery.method)
    body, json = _body(options.body)
    task = types.Task.pb()()
    request = task.http_request
    request.url = literal_url(options.url)
    request.http_method = HTTP_METHODS.index(delivery.method)
    for name, value in check_headers(options.headers, json=json).items():
        _encode(value, f'the header "{name}"')
        request.headers[name] = value
    request.body = body
    delivery.sign(request, delivery.audience_of(request.url))
    delivery.write(task)
    due = literal_schedule(at=options.at, delay=options.delay, tz=options.tz).fixed(now)
    if due is not None:
        task.schedule_time.FromMicroseconds(due)
    if task.ByteSize() > LARGEST_TASK:
        raise InvalidInputError(
            f"{task.ByteSize():,} bytes are too many for a task; the service takes up to 1 MiB",
            hint="shorten the headers or the body",
        )
    return task


def _body(given: Any) -> tuple[bytes, bool]:
    """Return the bytes of a body, and whether they are JSON."""
    json = not (given is None or isinstance(given, (str, bytes)))
    body = to_json(given) if json else _encode(given, "body") if isinstance(given, str) else given or b""
    if len(body) > LARGEST_TASK:
        raise InvalidInputError(
            f"body: {len(body):,} bytes are too many for a task; the service takes up to 1 MiB",
            resource="body",
            hint="put the data where the target can read it, and send where the data lies: "
            '{"file": "gs://bucket/day.parquet"}',
        )
    return body, json


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{what}: text with half a surrogate pair cannot be sent",
            resource=what,
            hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        ) from error

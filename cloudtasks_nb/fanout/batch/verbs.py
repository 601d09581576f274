"""The verb of a queue that makes a batch of many rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, TypedDict, Unpack, overload

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, near
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog, Order
from cloudtasks_nb.fanout.plan.options import TaskOptions
from cloudtasks_nb.fanout.plan.plan import Plan, compile_recipe
from cloudtasks_nb.fanout.plan.url import HandlerAddress

__all__ = ["FanOut", "Shared", "Words", "make_order", "refuse"]

#: The words that say how a row becomes a task; the others are about the batch.
_RECIPE = (
    "body",
    "key",
    "at",
    "delay",
    "tz",
    "headers",
    "method",
    "service_account",
    "audience",
    "dispatch_deadline",
    "retry",
)

_LONGEST_NAME = 200  # it stands in one line, and in a column of a frame
_LOCAL = re.compile(r"http://127\.0\.0\.1:\d{4,5}/")  # where handlers are


class Shared(TypedDict, total=False):
    """The keyword arguments that `fan_out` and `backfill` share, besides `url`, `tz` and `dry_run`."""

    body: Any
    at: Any
    delay: Any
    headers: Mapping[str, str] | None
    method: str | None
    service_account: str | None
    audience: str | None
    dispatch_deadline: Any
    retry: Mapping[str, Any] | None
    name: str | None
    errors: Literal["raise", "skip"]
    send_rate: float | None
    stop_after_failures: float | None
    progress: bool


class Words(Shared, total=False):
    """The keyword arguments of `fan_out` besides `url` and `dry_run`."""

    key: Any
    tz: Any


class FanOut:
    """What a queue does with many rows at once."""

    def __init__(self, catalog: Catalog, name: QueueName) -> None:
        self._catalog = catalog
        self._name = name

    @overload
    def fan_out(self, data: Any, *, url: Any, dry_run: Literal[False] = False, **words: Unpack[Words]) -> Batch: ...

    @overload
    def fan_out(self, data: Any, *, url: Any, dry_run: Literal[True], **words: Unpack[Words]) -> Plan: ...

    def fan_out(  # noqa: PLR0913 - each word is one of the task's or the batch's, keyword-only
        self,
        data: Any,
        *,
        url: Any,
        body: Any = None,
        key: Any = None,
        at: Any = None,
        delay: Any = None,
        tz: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
        service_account: str | None = None,
        audience: str | None = None,
        dispatch_deadline: Any = None,
        retry: Mapping[str, Any] | None = None,
        name: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        send_rate: float | None = None,
        stop_after_failures: float | None = None,
        progress: bool = True,
        dry_run: bool = False,
        **unknown: Any,
    ) -> Batch | Plan:
        """Make one task of each row; returns when every row is safe in the outbox, and sends in the background.

        The same cell run twice, also after a restart of the kernel, attaches to the batch and sends only rows that it
        does not have. Columns stand in braces, everything else is literal.

        Parameters
        ----------
        data : DataFrame, iterable of DataFrames, or anything with ``__arrow_c_stream__``
        url : str, Handler or callable
            ``"https://svc/run/{origin}"``, values percent-encoded; what `ct.serve` returned; a function of the row.
        body : optional
            None: the whole row as JSON; a list of columns; a dict with columns in braces; a function of the row.
        key : list of str, str or `ct.ROW`, optional
            The columns that identify a row; default: what is rendered.
        at, delay, tz : optional
            When a row is due, for all alike or from a column (``at="{when}"``).
        headers, method, service_account, audience, dispatch_deadline, retry : optional
            As for `enqueue`; header values may name columns.
        name : str, optional
            Of the batch; any new name sends all rows again.
        errors : {"raise", "skip"}
            Bad and duplicate rows raise, and nothing is sent; or they are left out and listed as `rejected`.
        send_rate : float, optional
            Tasks created a second, at most; on Google the advised ramp otherwise
            (https://cloud.google.com/tasks/docs/manage-cloud-task-scaling).
        stop_after_failures : int or float, optional
            Cancel the rest after so many failed rows, or (below 1) such a share of all.
        progress : bool
            Show a bar while planning.
        dry_run : bool
            Send nothing; return the `Plan`.

        Raises
        ------
        RowsError, DuplicateRowsError, TemplateError, BatchExistsError, QueueNotFoundError
            Nothing is sent, and nothing kept.
        TypeError
            For an unknown word; `rate` and `max_concurrent` are the queue's.
        """
        if unknown:
            refuse("fan_out", unknown, [*Words.__annotations__, "url", "dry_run"])
        words: Words = {
            "body": body,
            "key": key,
            "at": at,
            "delay": delay,
            "tz": tz,
            "headers": headers,
            "method": method,
            "service_account": service_account,
            "audience": audience,
            "dispatch_deadline": dispatch_deadline,
            "retry": retry,
            "name": name,
            "errors": errors,
            "send_rate": send_rate,
            "stop_after_failures": stop_after_failures,
            "progress": progress,
        }
        order = make_order(self._catalog, self._name, data, url=url, words=words)
        if dry_run:
            return self._catalog.dry_run(order, lambda: self._catalog.fan_out(order))
        return self._catalog.fan_out(order)


def make_order(catalog: Catalog, queue: QueueName, data: Any, *, url: Any, words: Words) -> Order:
    """Read and check the arguments of a fan-out, as far as that goes without the data.

    Raises
    ------
    InvalidInputError, TemplateError
        Naming the argument that is wrong.
    """
    given: Mapping[str, Any] = words
    recipe = compile_recipe(TaskOptions(url=_handler(url), **{word: given[word] for word in _RECIPE if word in given}))
    catalog.check_reachable(url)
    stop = words.get("stop_after_failures")
    _check_stop(stop)
    _check_rate(words.get("send_rate"))
    _check_name(words.get("name"))
    return Order(
        queue=queue,
        data=data,
        recipe=recipe,
        name=words.get("name"),
        errors=words.get("errors", "raise"),
        send_rate=words.get("send_rate"),
        progress=words.get("progress", True),
        facts={} if stop is None else {"stop_after_failures": stop},
    )


def refuse(verb: str, unknown: Mapping[str, Any], allowed: Iterable[str]) -> NoReturn:
    """Raise the TypeError for the first of the arguments that a verb does not have."""
    word = next(iter(unknown))
    if word in QUEUE_SETTINGS:
        raise TypeError(f"{word}= is a setting of the queue, not of a batch: queue.update({word}={unknown[word]!r})")
    raise TypeError(f'{verb}() has no argument "{word}"{near(word, allowed)}')


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _handler(url: Any) -> Any:
    """Return the address of a handler as the handler that it is, so that both make the same batch."""
    if not (isinstance(url, str) and _LOCAL.match(url)):
        return url
    from cloudtasks_nb.handlers.registry import name_at  # noqa: PLC0415 - loads aiohttp, for those who have handlers

    name = name_at(url)
    return url if name is None else HandlerAddress(url=url, name=name)


def _check_name(name: str | None) -> None:
    if name is None:
        return
    if not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise InvalidInputError(
            f"name={name!r} is no name of a batch",
            resource="name",
            hint='name="march": one line of text, or leave it out',
        )
    if len(name) > _LONGEST_NAME:
        raise InvalidInputError(
            f'name="{name[:20]}…" has {len(name):,} characters', resource="name", hint=f"use up to {_LONGEST_NAME}"
        )


def _check_rate(rate: float | None) -> None:
    if rate is not None and not _positive(rate):
        raise InvalidInputError(
            f"send_rate={rate!r} is no number of tasks created a second",
            resource="send_rate",
            hint="send_rate=200, or leave it out; how fast tasks are dispatched is the queue's: queue.update(rate=5)",
        )


def _check_stop(limit: float | None) -> None:
    if limit is not None and (not _positive(limit) or (limit > 1 and limit != int(limit))):
        raise InvalidInputError(
            f"stop_after_failures={limit!r} is neither a number of rows nor a share of them",
            resource="stop_after_failures",
            hint="stop_after_failures=10, or 0.05 for a twentieth of all rows",
        )

"""The request of a fan-out: its rows, their recipe and the options of the batch, checked before rows are read."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, TypeVar, cast

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import wrong_argument
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.plan.inputs import length, read_input
from cloudtasks_nb.fanout.plan.options import TaskKeywords
from cloudtasks_nb.fanout.plan.recipe import Recipe, compile_recipe

__all__ = [
    "LASTING",
    "BackfillKeywords",
    "BatchOptions",
    "FanOutKeywords",
    "FanOutRequest",
    "lasting_options",
    "make_request",
    "share_of",
    "takes",
]

#: The setting of a batch with the lasting options of a later `fan_out`; those of the first are in its description.
LASTING = "options"

_LASTING = ("send_rate", "canary", "pause_at")
_NO_TEXT = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # ends of lines, and what changes how other characters are shown
_JOINERS = "\u200c\u200d"  # which are parts of words and of emoji
_CANARY = 'canary=20 sends 20 rows first, canary="1%" a hundredth of all rows'
_PAUSE_AT = 'pause_at=10 holds the other rows back when 10 have failed, pause_at="5%" when more than 5 % have'
_LONGEST_NAME = 200  # it stands in one line, and in a column of a frame
_Method = TypeVar("_Method", bound=Callable[..., Any])


class _RowKeywords(TypedDict, total=False):
    body: Any
    key: Any


class _PeriodKeywords(TypedDict, total=False):
    across: Any
    newest_first: bool
    body: Any


class _BatchKeywords(TypedDict, total=False):
    """The fields of `BatchOptions`, for type checkers."""

    name: str | None
    errors: Literal["raise", "skip"]
    send_rate: float | None
    canary: float | str | None
    pause_at: float | str | None
    progress: bool


class FanOutKeywords(_RowKeywords, TaskKeywords, _BatchKeywords, total=False):
    """The optional arguments of `fan_out`."""


class BackfillKeywords(_PeriodKeywords, TaskKeywords, _BatchKeywords, total=False):
    """The optional arguments of `backfill`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """The options of `fan_out` and `backfill` that concern the batch as a whole, checked."""

    name: str | None = None
    errors: Literal["raise", "skip"] = "raise"  #: what to do with rows that cannot become tasks
    send_rate: float | None = None  #: tasks created a second
    canary: float | str | None = None  #: rows that are sent first, or a share of all rows, also as "1%"
    pause_at: float | str | None = None  #: failed rows that pause the sending, or a share, also as "5%"
    progress: bool = True  #: show a bar while planning

    @property
    def lasting(self) -> dict[str, Any]:
        """The options that hold in every round of the batch, also after a restart, as JSON values."""
        values = {name: getattr(self, name) for name in _LASTING}
        return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}  # of numpy

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.send_rate is not None and not _is_positive(self.send_rate):
            hint = (
                "send_rate=200, or leave it out; how fast tasks are dispatched is set on the queue: "
                "queue.update(rate=5)"
            )
            raise wrong_argument("send_rate", self.send_rate, "is not a number of tasks created a second", hint)
        _check_limit("canary", self.canary, _CANARY)
        _check_limit("pause_at", self.pause_at, _PAUSE_AT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutRequest:
    """A fan-out to be planned or sent."""

    queue: QueueName
    data: Any
    recipe: Recipe
    options: BatchOptions = field(default_factory=BatchOptions)
    function: Any = None  #: the `Handler` or `Deployment` that the tasks call; None: a URL
    series: Mapping[str, Any] | None = None  #: of a backfill its frequency, zone and columns, JSON-able

    @property
    def description(self) -> dict[str, Any]:
        """The description of the request for the batch's record, as JSON values."""
        described = self.recipe.describe()
        if self.series is not None:
            described["backfill"] = self.series
        return described


def make_request(queue: QueueName, data: Any, given: Mapping[str, Any]) -> FanOutRequest:
    """Check the options of a fan-out, and make frames of its data or a stream, if they are none.

    Parameters
    ----------
    given : mapping
        `TaskOptions` and the fields of `BatchOptions`.

    Raises
    ------
    InvalidInputError, TemplateError
        Naming the argument that is wrong, or the file that cannot be read.
    """
    options = BatchOptions(**{name: given[name] for name in _BatchKeywords.__annotations__ if name in given})
    recipe = compile_recipe(given)
    rows = read_input(data)
    count = length(rows) or 0
    if not isinstance(options.canary, str) and 0 < count <= (options.canary or 0):
        raise wrong_argument("canary", options.canary, f"leaves no row for later: there are {count:,}", _CANARY)
    function = given["url"] if hasattr(given["url"], "uncovered") else None
    return FanOutRequest(queue=queue, data=rows, recipe=recipe, options=options, function=function)


def lasting_options(record: BatchRecord) -> dict[str, Any]:
    """Return the lasting options of a batch, as the newest `fan_out` has set them."""
    found = record.settings.get(LASTING) or record.description.get(f"_{LASTING}", {})
    return {name: found.get(name) for name in _LASTING}


def share_of(option: float | str | None) -> float | None:
    """Return an option that may be a text such as ``"5%"`` as a number; NaN if it is no number.

    Examples
    --------
    >>> share_of("5%"), share_of(20), share_of("many"), share_of(None)
    (0.05, 20, nan, None)
    """
    if not isinstance(option, str):
        return option
    try:
        return float(option.removesuffix("%")) / 100 if option.endswith("%") else math.nan
    except ValueError:
        return math.nan


def takes(keywords: type, **defaults: Any) -> Callable[[_Method], _Method]:
    """Have a method that takes options by ``**`` show each of them, and give it their defaults.

    They are shown before the last argument that the method names itself.

    Parameters
    ----------
    keywords : type
        A TypedDict that names the options. Their defaults are those in `BatchOptions`, else None.
    **defaults
        Other defaults.
    """
    kinds = {name: getattr(kind, "__forward_arg__", kind) for name, kind in keywords.__annotations__.items()}
    every: dict[str, Any] = dict.fromkeys(kinds)
    every |= {one.name: one.default for one in fields(BatchOptions) if one.name in every} | defaults

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)
        *first, last, _ = signature.parameters.values()
        shown = [last.replace(name=name, default=every[name], annotation=kind) for name, kind in kinds.items()]

        @functools.wraps(method)
        def complete(*args: Any, **given: Any) -> Any:
            return method(*args, **{**every, **given})

        # `inspect` and IPython read it, and `near_names` refuses other arguments.
        complete.__signature__ = signature.replace(parameters=[*first, *shown, last])  # type: ignore[attr-defined]
        return cast("_Method", complete)

    return decorate


def _check_name(name: str | None) -> None:
    if name is None:
        return
    hint = 'use one line of text, such as name="march", or leave it out'
    if not (isinstance(name, str) and name.strip()):
        raise wrong_argument("name", name, "cannot name a batch", hint)
    for sign in name:
        if unicodedata.category(sign) in _NO_TEXT and sign not in _JOINERS:
            what = f"U+{ord(sign):04X} {unicodedata.name(sign, '')}".rstrip()
            raise wrong_argument("name", name, f"cannot name a batch: it has {what}", hint)
    if len(name) > _LONGEST_NAME:
        raise InvalidInputError(
            f'name="{name[:20]}…" has {len(name):,} characters', resource="name", hint=f"use up to {_LONGEST_NAME}"
        )


def _check_limit(name: str, limit: Any, hint: str) -> None:
    """Check an option that is a whole number of rows, or a share below 1, also in percent."""
    share: Any = share_of(limit)
    if limit is None or (_is_positive(share) and share < 1) or (_is_positive(limit) and limit == int(limit)):
        return
    raise wrong_argument(name, limit, "is neither a number of rows nor a share of them", hint)


def _is_positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and 0 < float(value) < math.inf

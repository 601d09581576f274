"""The request of a fan-out: its rows, their recipe and the options of the batch, checked before rows are read."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar, cast

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import wrong_argument
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.outbox.records import LastingOptions
from cloudtasks_nb.fanout.plan.inputs import length, read_input
from cloudtasks_nb.fanout.plan.recipe import Recipe, TaskKeywords, compile_recipe

__all__ = ["BackfillKeywords", "BatchOptions", "FanOutKeywords", "FanOutRequest", "make_request", "share_of", "takes"]

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


class _PlanOptions(TypedDict, total=False):
    name: str | None
    errors: Literal["raise", "skip"]  #: what to do with rows that cannot become tasks


class BatchOptions(_PlanOptions, LastingOptions, total=False):
    """The options of `fan_out` and `backfill` that concern the batch as a whole."""

    progress: bool  #: show a bar while planning


_DEFAULTS = BatchOptions(name=None, errors="raise", send_rate=None, canary=None, pause_at=None, progress=True)


class FanOutKeywords(_RowKeywords, TaskKeywords, BatchOptions, total=False):
    """The optional arguments of `fan_out`."""


class BackfillKeywords(_PeriodKeywords, TaskKeywords, BatchOptions, total=False):
    """The optional arguments of `backfill`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutRequest:
    """A fan-out to be planned or sent."""

    queue: QueueName
    data: Any
    recipe: Recipe
    options: BatchOptions = field(default_factory=_DEFAULTS.copy)
    function: Any = None  #: the `Handler` or `Deployment` that the tasks call; None: a URL
    series: Mapping[str, Any] | None = None  #: of a backfill its frequency, zone and columns, JSON-able

    @property
    def description(self) -> dict[str, Any]:
        """The description of the request for the batch's record, as JSON values."""
        described = self.recipe.describe()
        if self.series is not None:
            described["backfill"] = self.series
        return described

    @property
    def lasting(self) -> LastingOptions:
        """Those of the options that are stored with the batch."""
        options: Mapping[str, Any] = self.options
        return cast("LastingOptions", {name: options[name] for name in LastingOptions.__annotations__})


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
    chosen = {name: given[name] for name in _DEFAULTS if name in given}
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in chosen.items()}  # of numpy
    options = cast("BatchOptions", {**_DEFAULTS, **plain})
    _check_options(options)
    recipe = compile_recipe(given)
    rows = read_input(data)
    count = length(rows) or 0
    canary = options["canary"]
    if canary and not isinstance(canary, str) and 0 < count <= canary:
        raise wrong_argument("canary", canary, f"leaves no row for later: there are {count:,}", _CANARY)
    function = given["url"] if hasattr(given["url"], "uncovered") else None
    return FanOutRequest(queue=queue, data=rows, recipe=recipe, options=options, function=function)


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
        A TypedDict that names the options. Their defaults are those of `BatchOptions`, else None.
    **defaults
        Other defaults.
    """
    kinds = {name: getattr(kind, "__forward_arg__", kind) for name, kind in keywords.__annotations__.items()}
    every: dict[str, Any] = dict.fromkeys(kinds)
    every |= {name: default for name, default in _DEFAULTS.items() if name in every} | defaults

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


def _check_options(options: BatchOptions) -> None:
    _check_name(options["name"])
    send_rate = options["send_rate"]
    if send_rate is not None and not _is_positive(send_rate):
        hint = "send_rate=200, or leave it out; how fast tasks are dispatched is set on the queue: queue.update(rate=5)"
        raise wrong_argument("send_rate", send_rate, "is not a number of tasks created a second", hint)
    _check_limit("canary", options["canary"], _CANARY)
    _check_limit("pause_at", options["pause_at"], _PAUSE_AT)


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

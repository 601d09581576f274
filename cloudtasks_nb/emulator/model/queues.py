"""Check queue configurations, fill in their defaults, apply update masks, and convert between the two API versions.

A queue is kept as its v2beta3 message, which has everything that the v2 one has and more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloudtasks_nb.emulator.model.apis import beta, new_numbers, v2, well_known
from cloudtasks_nb.emulator.model.attempts import RetryPolicy
from cloudtasks_nb.emulator.model.clock import DAY, HOUR, SECOND
from cloudtasks_nb.emulator.model.protobuf import retag
from cloudtasks_nb.emulator.model.refusal import invalid_argument
from cloudtasks_nb.emulator.model.regions import app_engine_host

__all__ = [
    "PAUSED",
    "RUNNING",
    "QueueConfig",
    "check_duration",
    "check_header_names",
    "check_retry",
    "configured",
    "declared",
    "duration",
    "from_v2",
    "policy",
    "to_v2",
    "updated",
]

RUNNING, PAUSED = 1, 2

_PUSH = 2
_MAX_RATE, _MAX_CONCURRENT, _MAX_BURST = 500, 5000, 500
_DEFAULT_RATE, _DEFAULT_CONCURRENT = 500.0, 1000
_METHODS = range(8)
_PORTS = range(65_536)
_MAX_HEADERS = 80 * 1024
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token: https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_MAX_DURATION = 315_576_000_000  # seconds; the largest valid `google.protobuf.Duration`
_NANOS = 10**9
# The two versions number the fields of Queue differently; everything inside them is alike.
_TO_BETA, _TO_V2 = new_numbers(v2.Queue, beta.Queue), new_numbers(beta.Queue, v2.Queue)
_ONLY_IN_BETA = ("task_ttl", "tombstone_ttl")
_BURST = "rate_limits.max_burst_size"
_RETRY_DURATIONS = {field.name: field.json_name for field in beta.RetryConfig.DESCRIPTOR.fields if field.message_type}
_RETRY_NUMBERS = ("max_attempts", "max_doublings")
_NO_SETTINGS = {"name", "state", "purge_time", "type_", "stats"}
_SETTINGS = [name for name in beta.Queue.DESCRIPTOR.fields_by_name if name not in _NO_SETTINGS]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The settings of a queue that the store and the dispatcher use."""

    rate: float  #: dispatches a second
    burst: int
    max_concurrent: int
    retry: RetryPolicy
    sampling_ratio: float
    tombstone_ttl: int  #: microseconds
    task_ttl: int  #: microseconds
    http_target: Any | None
    routing: Any | None  #: `AppEngineRouting` that overrides the tasks' own

    @classmethod
    def of(cls, queue: Any, default_tombstone: int) -> QueueConfig:
        """Read a complete v2beta3 queue."""
        limits, engine = queue.rate_limits, queue.app_engine_http_queue
        return cls(
            rate=limits.max_dispatches_per_second,
            burst=limits.max_burst_size,
            max_concurrent=limits.max_concurrent_dispatches,
            retry=policy(queue.retry_config, RetryPolicy(max_doublings=0)),
            sampling_ratio=queue.stackdriver_logging_config.sampling_ratio,
            tombstone_ttl=duration(queue.tombstone_ttl) if queue.HasField("tombstone_ttl") else default_tombstone,
            task_ttl=duration(queue.task_ttl),
            http_target=queue.http_target if queue.HasField("http_target") else None,
            routing=engine.app_engine_routing_override if engine.HasField("app_engine_routing_override") else None,
        )


def duration(message: Any) -> int:
    """Return a `google.protobuf.Duration` in microseconds."""
    return message.seconds * SECOND + message.nanos // 1000


def check_duration(message: Any, field: str) -> None:
    """Check that a `google.protobuf.Duration` is valid, before anything converts it.

    Raises
    ------
    RefusedError
        If it is longer than ten thousand years, or its nanoseconds are a second or more, or of the other sign.
    """
    seconds, nanos = message.seconds, message.nanos
    valid = abs(seconds) <= _MAX_DURATION and abs(nanos) < _NANOS and seconds * nanos >= 0
    _refuse_if(not valid, f"{field} is not a valid duration.")


def check_header_names(names: Iterable[str], field: str) -> None:
    """Check that HTTP allows the names of headers.

    Raises
    ------
    RefusedError
        If a name is empty, or has a character that a token cannot have.
    """
    for name in names:
        _refuse_if(_HEADER_NAME.fullmatch(name) is None, f'{field}: "{name}" is not the name of an HTTP header.')


def policy(config: Any, base: RetryPolicy) -> RetryPolicy:
    """Read a `RetryConfig`; what it lacks is taken from `base`."""
    durations = {name: duration(getattr(config, name)) for name in _RETRY_DURATIONS if config.HasField(name)}
    numbers = {name: number for name in _RETRY_NUMBERS if (number := getattr(config, name))}
    return replace(base, **durations, **numbers)


def check_retry(config: Any) -> None:
    """Check a `RetryConfig` of a queue or a task.

    Raises
    ------
    RefusedError
        If a setting is outside its limits.
    """
    durations = {json_name: getattr(config, name) for name, json_name in _RETRY_DURATIONS.items()}
    for name, value in durations.items():
        check_duration(value, f"RetryConfig.{name}")
    _refuse_if(config.max_attempts < -1, "RetryConfig.maxAttempts must be greater or equal to -1.")
    _refuse_if(config.max_doublings < 0, "RetryConfig.maxDoublings cannot be negative.")
    for name, value in durations.items():
        _refuse_if(duration(value) < 0, f"RetryConfig.{name} cannot be negative.")
    _refuse_if(
        config.HasField("max_backoff") and duration(config.min_backoff) > duration(config.max_backoff),
        "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff.",
    )


def from_v2(queue: Any) -> Any:
    """Return a v2 queue as v2beta3."""
    out = beta.Queue.FromString(retag(queue.SerializeToString(), _TO_BETA))
    out.rate_limits.max_burst_size = 0  # output only in v2: a client's value is ignored
    if queue.HasField("app_engine_routing_override"):
        override = out.app_engine_http_queue.app_engine_routing_override
        override.MergeFromString(queue.app_engine_routing_override.SerializeToString())
    return out


def to_v2(queue: Any) -> Any:
    """Return a v2beta3 queue as v2."""
    out = v2.Queue.FromString(retag(queue.SerializeToString(), _TO_V2))
    if queue.app_engine_http_queue.HasField("app_engine_routing_override"):
        override = queue.app_engine_http_queue.app_engine_routing_override
        out.app_engine_routing_override.MergeFromString(override.SerializeToString())
    return out


def configured(given: Any) -> Any:
    """Check the settings of a new v2beta3 queue and fill in the service's defaults.

    Raises
    ------
    RefusedError
        If a setting is outside its limits.
    """
    _refuse_if(given.type_ not in {0, _PUSH}, "Queue.type must be PUSH: there are no pull queues here.")
    queue = beta.Queue(name=given.name, state=RUNNING, type_=_PUSH)
    well_known.FieldMask(paths=_SETTINGS).MergeMessage(given, queue)
    # Only here and where the mask names the whole config: an update of this field alone can set it to 0.
    if not queue.retry_config.max_doublings:
        queue.retry_config.max_doublings = RetryPolicy().max_doublings
    return _check_and_fill_in(queue)


def declared(old: Any | None, given: Any) -> Any:
    """Return a queue as a configuration file declares it: a new one, or `old` with all settings of `given`."""
    queue = configured(given) if old is None else updated(old, given, ())
    queue.state = given.state or queue.state
    return queue


def updated(old: Any, given: Any, paths: Sequence[str], *, is_v2: bool = False) -> Any:
    """Return `old` with the fields of `given` that the mask names.

    Parameters
    ----------
    old, given : Queue
        Two v2beta3 queues.
    paths : sequence of str
        The mask's paths of v2beta3, which are all there; none stands for all fields.
    is_v2 : bool
        Whether `given` was a v2 queue. Settings that v2 lacks, or returns but does not accept, then stay as they were.

    Raises
    ------
    RefusedError
        If a setting is outside its limits.
    """
    if is_v2:
        given = _keep_what_v2_cannot_set(old, given)
    if not paths:
        fresh = configured(given)
        fresh.name, fresh.state, fresh.type_ = old.name, old.state, old.type_
        if old.HasField("purge_time"):
            fresh.purge_time.CopyFrom(old.purge_time)
        return fresh
    if is_v2:
        paths = [path for path in paths if path != _BURST]
    settings = well_known.FieldMask(paths=[path for path in paths if path.split(".")[0] in _SETTINGS])
    queue = beta.Queue()
    queue.CopyFrom(old)
    settings.MergeMessage(given, queue, replace_message_field=True, replace_repeated_field=True)
    rate_changed = queue.rate_limits.max_dispatches_per_second != old.rate_limits.max_dispatches_per_second
    if rate_changed and _BURST not in paths:
        queue.rate_limits.max_burst_size = 0  # derived from the new rate
    if "retry_config" in paths and not queue.retry_config.max_doublings:
        queue.retry_config.max_doublings = RetryPolicy().max_doublings
    return _check_and_fill_in(queue)


def _keep_what_v2_cannot_set(old: Any, given: Any) -> Any:
    """Return a queue that was given as v2 with the settings of the old one that v2 does not have."""
    queue = beta.Queue()
    queue.CopyFrom(given)
    well_known.FieldMask(paths=_ONLY_IN_BETA).MergeMessage(old, queue)
    if (given.rate_limits.max_dispatches_per_second or _DEFAULT_RATE) == old.rate_limits.max_dispatches_per_second:
        queue.rate_limits.max_burst_size = old.rate_limits.max_burst_size
    return queue


def _check_and_fill_in(queue: Any) -> Any:
    """Check a queue, fill in the service's defaults, and return it."""
    _check(queue)
    limits, retry, default = queue.rate_limits, queue.retry_config, RetryPolicy()
    limits.max_dispatches_per_second = limits.max_dispatches_per_second or _DEFAULT_RATE
    limits.max_concurrent_dispatches = limits.max_concurrent_dispatches or _DEFAULT_CONCURRENT
    limits.max_burst_size = limits.max_burst_size or max(10, int(limits.max_dispatches_per_second / 5))
    retry.max_attempts = retry.max_attempts or default.max_attempts
    for name in ("min_backoff", "max_backoff"):
        if not retry.HasField(name):
            getattr(retry, name).FromMicroseconds(getattr(default, name))
    if not queue.HasField("task_ttl"):
        queue.task_ttl.FromMicroseconds(31 * DAY)
    check_retry(retry)
    engine = queue.app_engine_http_queue
    if engine.HasField("app_engine_routing_override"):  # its host is output only
        override = engine.app_engine_routing_override
        override.host = app_engine_host(override, queue.name)
    return queue


def _check(queue: Any) -> None:
    limits = queue.rate_limits
    for name, value, most in (
        ("maxDispatchesPerSecond", limits.max_dispatches_per_second, _MAX_RATE),
        ("maxConcurrentDispatches", limits.max_concurrent_dispatches, _MAX_CONCURRENT),
        ("maxBurstSize", limits.max_burst_size, _MAX_BURST),
    ):
        _refuse_if(value < 0, f"RateLimits.{name} cannot be negative.")
        # Not `value > most`, which is false for NaN.
        _refuse_if(not value <= most, f"RateLimits.{name} must be less than or equal to {most}.")
    check_retry(queue.retry_config)
    ratio = queue.stackdriver_logging_config.sampling_ratio
    _refuse_if(not 0.0 <= ratio <= 1.0, "StackdriverLoggingConfig.samplingRatio must be between 0.0 and 1.0.")
    for field, low, high, text in (
        ("task_ttl", 10 * DAY, 3650 * DAY, "Queue.taskTtl must be between [240h, 87600h]."),
        ("tombstone_ttl", HOUR, 9 * DAY, "Queue.tombstoneTtl must be between [1h, 216h]."),
    ):
        value = getattr(queue, field)
        check_duration(value, text.partition(" ")[0])
        _refuse_if(queue.HasField(field) and not low <= duration(value) <= high, text)
    _check_target(queue.http_target)


def _check_target(target: Any) -> None:
    override, method = target.uri_override, target.http_method
    _refuse_if(method not in _METHODS, f"{method} is not a valid HttpMethod.")
    _refuse_if(override.HasField("host") and not override.host, "UriOverride.host cannot be an empty string.")
    _refuse_if(override.port not in _PORTS, "UriOverride.port must be between 1 and 65535, or 0 for none.")
    check_header_names((one.header.key for one in target.header_overrides), "HttpTarget.headerOverrides")
    size = sum(len(one.header.key.encode()) + len(one.header.value.encode()) for one in target.header_overrides)
    _refuse_if(size >= _MAX_HEADERS, "The size of HttpTarget.headerOverrides must be less than 80KB.")
    oauth, oidc = target.oauth_token, target.oidc_token
    _refuse_if(
        target.HasField("oauth_token") and not (oauth.service_account_email and oauth.scope),
        "HttpTarget.oauthToken needs a serviceAccountEmail and a scope.",
    )
    _refuse_if(
        target.HasField("oidc_token") and not oidc.service_account_email,
        "HttpTarget.oidcToken needs a serviceAccountEmail.",
    )


def _refuse_if(wrong: bool, text: str) -> None:  # noqa: FBT001 - the condition is clear at each call
    if wrong:
        raise invalid_argument(text)

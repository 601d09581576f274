"""Settings of queues: defaults, limits, update masks and the two versions."""

import re
from typing import Any

import pytest
from google.protobuf import json_format

from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.queues import PAUSED, configured, from_v2, to_v2, updated
from tests.cases import cases
from tests.unit.emulator.conftest import QUEUE, refused


def queue(**settings: Any) -> Any:
    """Make a v2beta3 queue from JSON."""
    return json_format.ParseDict({"name": QUEUE, **settings}, beta.Queue())


def headers(size: int) -> list[dict[str, Any]]:
    """Make overrides of two headers, whose names and values have so many bytes together."""
    return [{"header": {"key": key, "value": value}} for key, value in (("X-A", "ü"), ("X-B", "x" * (size - 8)))]


@cases(
    ("rateLimits.maxDispatchesPerSecond", -1, "… cannot be negative."),
    *(("rateLimits.maxDispatchesPerSecond", rate, "… must be less than or equal to 500.") for rate in ("NaN", 500.5)),
    ("rateLimits.maxConcurrentDispatches", -1, "… cannot be negative."),
    ("rateLimits.maxConcurrentDispatches", 5001, "… must be less than or equal to 5000."),
    ("rateLimits.maxBurstSize", -1, "… cannot be negative."),
    ("rateLimits.maxBurstSize", 501, "… must be less than or equal to 500."),
    *(
        (f"retryConfig.{name}", "-1s", "… cannot be negative.")
        for name in ("minBackoff", "maxBackoff", "maxRetryDuration")
    ),
    ("retryConfig.maxDoublings", -1, "… cannot be negative."),
    ("retryConfig.maxAttempts", -2, "… must be greater or equal to -1."),
    ("retryConfig.minBackoff", "3601s", "… must be less than or equal to RetryConfig.maxBackoff."),
    ("stackdriverLoggingConfig.samplingRatio", 1.5, "… must be between 0.0 and 1.0."),
    ("queue.type", "PULL", "… must be PUSH: there are no pull queues here."),
    ("queue.taskTtl", "86400s", "… must be between [240h, 87600h]."),
    ("queue.tombstoneTtl", "60s", "… must be between [1h, 216h]."),
    ("httpTarget.httpMethod", 9, "9 is not a valid HttpMethod."),
    ("httpTarget.uriOverride.host", "", "… cannot be an empty string."),
    ("httpTarget.uriOverride.port", "-1", "… must be between 1 and 65535, or 0 for none."),
    ("httpTarget.uriOverride.port", "65536", "… must be between 1 and 65535, or 0 for none."),
    ("httpTarget.headerOverrides", headers(80 * 1024), "The size of … must be less than 80KB."),
    ("httpTarget.oauthToken", {}, "… needs a serviceAccountEmail and a scope."),
    ("httpTarget.oauthToken", {"scope": "s"}, "… needs a serviceAccountEmail and a scope."),
    ("httpTarget.oauthToken", {"serviceAccountEmail": "a@x"}, "… needs a serviceAccountEmail and a scope."),
    ("httpTarget.oidcToken", {"audience": "a"}, "… needs a serviceAccountEmail."),
)
def test_settings_outside_their_limits(path: str, value: Any, text: str) -> None:
    """A setting outside its limits is refused with the service's text, which names the last group and the field."""
    *groups, field = path.removeprefix("queue.").split(".")
    settings = {field: value}
    for group in reversed(groups):
        settings = {group: settings}
    group = path.split(".")[-2]
    text = text.replace("…", f"{group[0].upper()}{group[1:]}.{field}")
    with refused(text=f"^{re.escape(text)}$"):
        configured(queue(**settings))


@cases(
    {"uriOverride": {"port": "65535"}},
    {"uriOverride": {"port": "0"}},
    {"headerOverrides": headers(80 * 1024 - 1)},
    {"oauthToken": {"serviceAccountEmail": "a@x", "scope": "s"}},
    {"oidcToken": {"serviceAccountEmail": "a@x"}},
)
def test_targets_that_are_taken(target: dict[str, Any]) -> None:
    """A target of a queue at its limits is taken; the audience of a token may be left to the URL."""
    assert json_format.MessageToDict(configured(queue(httpTarget=target)).http_target) == target


DURATIONS = [
    ("retry_config", "min_backoff"), ("retry_config", "max_backoff"), ("retry_config", "max_retry_duration"),
    ("", "task_ttl"), ("", "tombstone_ttl"),
]  # fmt: skip


@pytest.mark.parametrize(("seconds", "nanos"), [(10**17, 0), (-(10**17), 0), (1, -5), (-1, 5), (1, 10**9)])
@pytest.mark.parametrize(("group", "field"), DURATIONS)
def test_invalid_durations(group: str, field: str, seconds: int, nanos: int) -> None:
    """A duration that no client could read, or no file could hold, is refused and not stored."""
    given = queue()
    message = getattr(getattr(given, group) if group else given, field)
    message.seconds, message.nanos = seconds, nanos
    with refused(text=r"is not a valid duration\.$"):
        configured(given)


def test_the_host_of_a_routing_is_output_only() -> None:
    """The host of a queue's App Engine routing is computed from its other parts; a client's host is ignored."""
    routing = {"service": "worker", "host": "evil.example"}
    made = configured(queue(appEngineHttpQueue={"appEngineRoutingOverride": routing}))
    assert to_v2(made).app_engine_routing_override.host == "worker.p.uc.r.appspot.com"
    given = queue(appEngineHttpQueue={"appEngineRoutingOverride": {"service": "other", "host": "evil.example"}})
    for path in ("service", "host"):
        made = updated(made, given, [f"app_engine_http_queue.app_engine_routing_override.{path}"])
        assert to_v2(made).app_engine_routing_override.host == "other.p.uc.r.appspot.com"


RATE, BURST = "rate_limits.max_dispatches_per_second", "rate_limits.max_burst_size"
CONCURRENT, DOUBLINGS = "rate_limits.max_concurrent_dispatches", "retry_config.max_doublings"
FASTER = {"rateLimits": {"maxDispatchesPerSecond": 500, "maxBurstSize": 3}}


@cases(
    ({"rateLimits": {"maxConcurrentDispatches": 8}}, [CONCURRENT], {CONCURRENT: 8}),
    ({"retryConfig": {"maxDoublings": 0}}, [DOUBLINGS], {DOUBLINGS: 0}),
    ({"retryConfig": {"maxAttempts": 9}}, ["retry_config"], {"retry_config.max_attempts": 9, DOUBLINGS: 16}),
    ({"state": "DISABLED"}, ["state"], {}),
    ({"name": "other"}, ["name"], {}),
    ({}, ["stats"], {}),
    (FASTER, [RATE], {RATE: 500, BURST: 100}),  # the burst follows the rate, unless the mask names it
    (FASTER, [RATE, BURST], {RATE: 500, BURST: 3}),
    # Without a mask every setting is replaced, those that are not given by their defaults.
    (
        {"retryConfig": {"maxAttempts": 4}},
        [],
        {RATE: 500, BURST: 100, "retry_config.max_attempts": 4, DOUBLINGS: 16, "task_ttl.seconds": 31 * 86_400},
    ),
)
def test_a_mask_changes_what_it_names(given: dict[str, Any], paths: list[str], changed: dict[str, float]) -> None:
    """A mask changes its fields, and groups as a whole, and leaves the others; output-only fields do not change."""
    retry = {"maxAttempts": 3, "maxDoublings": 2}
    old = configured(queue(rateLimits={"maxDispatchesPerSecond": 5}, retryConfig=retry, taskTtl="864000s"))
    old.state, old.purge_time.seconds = PAUSED, 9
    expected = beta.Queue()
    expected.CopyFrom(old)
    for path, value in changed.items():
        group, _, field = path.partition(".")
        setattr(getattr(expected, group), field, value)
    assert updated(old, queue(**given), paths) == expected


@cases(
    ([], 7, 3),
    ([], 50, 10),
    (["rate_limits"], 7, 3),
    (["rate_limits.max_burst_size"], 50, 3),
    (["rate_limits.max_burst_size", "rate_limits.max_dispatches_per_second"], 50, 10),
)
def test_what_v2_does_not_have_stays(paths: list[str], rate: int, burst: int) -> None:
    """An update by a client of v2 leaves lifetimes as they were, and a burst as long as its rate stays."""
    limits = {"maxDispatchesPerSecond": 7, "maxBurstSize": 3}
    old = configured(queue(rateLimits=limits, taskTtl="864000s", tombstoneTtl="7200s"))
    given = v2.Queue(name=QUEUE, rate_limits=v2.RateLimits(max_dispatches_per_second=rate, max_burst_size=99))
    new = updated(old, from_v2(given), paths, is_v2=True)
    assert (new.task_ttl.seconds, new.tombstone_ttl.seconds) == (864_000, 7_200)
    assert new.rate_limits.max_burst_size == burst

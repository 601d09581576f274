"""Arguments that are none, and what is said of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors


@pytest.mark.parametrize("verb", ["run", "delete_tasks"])
def test_a_queue_that_is_not_there(tasks: ct.Client, verb: str) -> None:
    """Tasks of a queue that does not exist are no verdicts: the error names the queue."""
    with pytest.raises(errors.QueueNotFoundError, match='no queue "nowhere"'):
        getattr(tasks.queue("nowhere"), verb)(["a", "b"])


@pytest.mark.parametrize("verb", ["tasks", "attempts"])
@pytest.mark.parametrize("limit", ["5", 1.5, True])
def test_limits_that_are_no_number(queue: ct.Queue, verb: str, limit: Any) -> None:
    """A limit that is no whole number is refused by its word."""
    with pytest.raises(errors.InvalidInputError, match=f"limit={limit!r} is not a whole number"):
        getattr(queue, verb)(limit=limit)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_backoff": pd.Timedelta("10s")}, "max_backoff 3600s → 10s"),
        ({"min_backoff": "1s", "rate": 20}, "min_backoff 0.1s → 1s, rate 500 → 20"),
        ({"max_concurrent": 8}, "max_concurrent 1000 → 8"),
    ],
)
def test_changed_settings_are_said_in_one_form(
    tasks: ct.Client, queue: ct.Queue, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], text: str
) -> None:
    """Before and after are said alike, in one line, in whatever form the value was given."""
    tasks.queue(queue.id, create=True, **settings)
    assert capsys.readouterr().out == f"queue {queue.id}: {text}\n"


@pytest.mark.parametrize("settings", [{"rate": -1}, {"rate": 1000}, {"max_concurrent": "x"}, {"max_attempts": 1.5}])
def test_refused_settings_have_a_next_step(queue: ct.Queue, settings: dict[str, Any]) -> None:
    """Whether we or the service refuse a value, the error says where to look."""
    with pytest.raises(errors.InvalidInputError) as caught:
        queue.update(**settings)
    assert caught.value.hint


def test_a_queue_is_routed_to_a_handler(tasks: ct.Client, queue: ct.Queue) -> None:
    """What `ct.serve` returned is as good as its URL."""

    def report() -> None:
        """Do nothing."""

    with ct.serve(report) as handler:
        queue.route(handler)
        assert tasks.queues()["target"].to_dict()[queue.id].removesuffix("/*") in handler.url


def test_google_cannot_be_routed_to_this_machine(queue: ct.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loopback URL is refused for a queue of Google's, before it is asked."""
    monkeypatch.setattr(type(queue._connection.transport), "google", True)
    with pytest.raises(errors.InvalidInputError, match="Google cannot reach"):
        queue.route("http://127.0.0.1:9/run")

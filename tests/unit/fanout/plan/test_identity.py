"""Ids that are derived, so that the same thing has the same id in every process."""

import re
import uuid
from dataclasses import replace
from itertools import islice

import pytest

from cloudtasks_nb.fanout.plan.identity import (
    batch_ids,
    batch_of,
    completion_id,
    key_head,
    named_identity,
    request_id,
    round_of,
    row_sum,
    rows_identity,
    task_id,
    task_ids,
)
from tests.cases import cases
from tests.unit.fanout.conftest import PLACE, digest

KEYS = [digest(str(row)) for row in range(50)]


def test_a_task_id_shows_its_batch_and_its_try() -> None:
    """A task's id contains its batch and its try, for a machine without the outbox."""
    task = task_id("a91f03c2", KEYS[0], 3)
    assert re.fullmatch(r"[0-9a-f]{20}-a91f03c2-3", task)
    assert batch_of(task) == "a91f03c2"


def test_task_ids_differ_by_key_batch_and_try() -> None:
    """No two rows, batches or tries share a task."""
    ids = [task_id(batch, key, attempt) for batch in ("a91f03c2", "00000000") for attempt in (1, 2, 12) for key in KEYS]
    assert len(set(ids)) == len(ids)
    assert len({task[:20] for task in ids}) == len(ids)


def test_task_ids_are_spread_by_their_head() -> None:
    """Tasks that are created one after the other lie far apart for the service."""
    firsts = {task[0] for task in task_ids("a91f03c2", b"".join(KEYS), 1)}
    assert len(firsts) > 10


def test_many_task_ids_are_those_of_each() -> None:
    """The quick way for many rows gives the same ids as one row at a time."""
    assert task_ids("a91f03c2", b"".join(KEYS), 7) == [task_id("a91f03c2", key, 7) for key in KEYS]
    assert task_ids("a91f03c2", b"", 1) == []


def test_a_task_id_leads_back_to_its_key() -> None:
    """The row of a task is found by the beginning of its key, whatever batch and try it is of."""
    assert key_head(task_id("a91f03c2", KEYS[3], 2)) == KEYS[3][:10]


@cases(
    "88947425534926389671",
    "report-1",
    "",
    completion_id("a91f03c2", "https://x", 1),
    "z" * 20 + "-a91f03c2-1",
    "0" * 20 + "-a91f03c2-0",
)
def test_other_ids_are_of_no_batch(task: str) -> None:
    """Ids that somebody else gave, and those of notifications, are of no row."""
    assert batch_of(task) is None
    assert key_head(task) == b""


def test_rows_are_the_same_in_any_order() -> None:
    """A batch without a name is its rows, not their order, and pieces of it add up."""
    digests = list(range(50))
    total = row_sum(KEYS, digests)
    assert row_sum(KEYS[::-1], digests[::-1]) == total
    assert row_sum(KEYS[:20], digests[:20]) + row_sum(KEYS[20:], digests[20:]) == total


def test_rows_are_not_the_same_when_requests_change_places() -> None:
    """Two rows that swap their requests make another batch."""
    assert row_sum(KEYS[:2], [1, 2]) != row_sum(KEYS[:2], [2, 1])


@pytest.mark.parametrize("field", ["endpoint", "project", "location", "queue"])
def test_a_batch_is_of_its_place(field: str) -> None:
    """The same rows, or the same name, elsewhere are another batch."""
    other = replace(PLACE, **{field: "other"})
    assert rows_identity(PLACE, b"recipe", 7) != rows_identity(other, b"recipe", 7)
    assert named_identity(PLACE, "nightly") != named_identity(other, "nightly")


def test_a_batch_without_a_name_is_of_its_recipe() -> None:
    """The same rows of another recipe are another batch."""
    assert rows_identity(PLACE, b"recipe", 7) != rows_identity(PLACE, b"other", 7)


def test_sums_that_are_negative_or_large_are_identities_too() -> None:
    """Taking duplicates back from a sum never leads out of what can be digested."""
    assert rows_identity(PLACE, b"", -1) == rows_identity(PLACE, b"", (1 << 256) - 1)


def test_a_batch_has_further_ids_for_when_one_is_taken() -> None:
    """Another batch that happens to have the same id is no obstacle."""
    ids = list(islice(batch_ids(b"identity"), 20))
    assert len(set(ids)) == 20
    assert all(re.fullmatch("[0-9a-f]{8}", batch) for batch in ids)
    assert ids[0] == next(batch_ids(b"identity"))


def test_a_request_sent_again_has_the_same_id() -> None:
    """A request id stays with the tasks; any other tasks, or the next request with the same ones, have another."""
    one = request_id("a91f03c2", 1, ["a", "b"])
    assert one == request_id("a91f03c2", 1, ["a", "b"])
    assert len({one, request_id("a91f03c2", 2, ["a", "b"]), request_id("a91f03c2", 1, ["a"])}) == 3
    assert str(uuid.UUID(one)) == one


def test_notifications_have_an_id_for_each_round_and_url() -> None:
    """Two processes that notify of the same round create the same task."""
    ids = {completion_id("a91f03c2", url, round_) for url in ("https://x", "https://y") for round_ in (1, 2)}
    assert len(ids) == 4
    assert {round_of(one) for one in ids} == {1, 2}
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,500}", one) for one in ids)

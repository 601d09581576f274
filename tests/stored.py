"""What is stored of the tasks of a batch, read as simply as the format allows, and results of their own of tests."""

import datetime as dt
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudtasks_nb.fanout.batch.stored_results import own_key
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.store.results import ResultWriter, StoredResult, result_objects, tag_of, unpack_result
from cloudtasks_nb.store.store import Store


def stored_results(place: Store | str | Path, batch: str) -> list[StoredResult]:
    """Return the results of all lines that are whole."""
    store = place if isinstance(place, Store) else Store(place)
    paths = [found.path for page in result_objects(store, batch, failures=False) for found in page]
    results = []
    for line in (line for data in store.get_many(paths) for line in (data or b"").splitlines()):
        with suppress(ValueError, TypeError, KeyError):
            results.append(unpack_result(line))
    return results


def best_results(place: Store | str | Path, batch: str) -> dict[str, StoredResult]:
    """Return the result that counts of each task, by the task's id."""
    ranked = sorted(stored_results(place, batch), key=lambda result: result.rank)
    return {result.task: result for result in ranked}


def store_result(outbox: Outbox, store: Store, task: str, **words: Any) -> None:
    """Store what the task of a row has come to, as its handler does: an error if there is one, else the result 7."""
    error, tag = words.get("error"), tag_of(own_key(outbox, batch_of(task) or ""), task)
    usual: dict[str, Any] = {"status": 500 if error and "gave_up" not in words else 200, "error": None, "tag": tag}
    usual |= {"attempt": 1, "started": dt.datetime.now(dt.UTC), "duration": 0.5, "result": None if error else 7}
    ResultWriter(store).put(StoredResult(task=task, **{**usual, **words}))

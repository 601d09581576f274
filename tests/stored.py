"""What is stored of the tasks of a batch, read as simply as the format allows."""

from contextlib import suppress
from pathlib import Path

from cloudtasks_nb.store.results import StoredResult, result_objects, unpack_result
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

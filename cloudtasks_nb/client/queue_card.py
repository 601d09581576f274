"""The card that a notebook shows of a queue: its state, its settings and its newest attempts."""

from __future__ import annotations

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import UNLIMITED
from cloudtasks_nb.client.reads import newest_attempts
from cloudtasks_nb.display.card import card
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.outcome_tracker import NO_LOG
from cloudtasks_nb.service.absent_handlers import describe_absent
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.costs import log_note

__all__ = ["queue_card"]


def queue_card(connection: Connection, catalog: Catalog, name: QueueName) -> dict[str, str]:
    """Return the card of a queue by MIME type; an error of the service is a note on it."""
    badge = "LOCAL" if connection.endpoint.local else name.project
    title = f"Queue {name.queue}"
    try:
        found = _loop.run(connection.watcher.read_queue(name), timeout=10)
    except (CloudTasksError, TimeoutError) as error:
        return card(title, badge=badge, notes=[str(error) or "the service did not answer in time"])
    facts = {
        "state": found["state"],
        "tasks": found.get("tasks"),
        "running": found.get("running"),
        "rate": f"{found['rate']:g}/s",
        "max_concurrent": found["max_concurrent"],
        "max_attempts": "unlimited" if found["max_attempts"] == UNLIMITED["max_attempts"] else found["max_attempts"],
        "max_retry_duration": duration_text(found["max_retry_duration"])
        if found["max_retry_duration"]
        else "unlimited",
        "target": found["target"],
    }
    notes = ["finished tasks are not in the queue: queue.attempts() shows them"]
    if not found["log_sampling_ratio"]:
        notes.append(NO_LOG.format(queue="this queue"))
    elif not connection.endpoint.local:
        notes += filter(None, [log_note(name, found.get("done_last_minute", 0), found["log_sampling_ratio"])])
    shown = None
    try:
        notes[:0] = _absent_handlers(connection, str(name))
        newest = newest_attempts(connection, catalog, name, 5)
        shown = newest[["time", "task", "attempt", "status", "duration", "url"]]
    except CloudTasksError as error:
        notes.append(str(error))
    return card(title, badge=badge, facts=facts, frame=shown, notes=notes)


def _absent_handlers(connection: Connection, queue: str) -> list[str]:
    """Return a line for each handler of this machine that tasks wait for and that does not listen."""
    addresses = connection.absent_handlers(queue)
    if not addresses:
        return []
    from cloudtasks_nb.handlers.serving import name_at  # noqa: PLC0415 - loads aiohttp, which only handlers need

    tasks = connection.call("ListTasks", parent=queue, page_size=100).tasks
    urls = {task.http_request.url.partition("?")[0] for task in tasks}
    lines = []
    for address in addresses:
        there = (url for url in urls if url.startswith(f"http://{address}/"))
        line, action = describe_absent(address, next((url for url in there if name_at(url) is not None), None))
        lines.append(f"{line}: run {action}" if action else line)
    return lines

"""The notes of a batch: what happened to its rows, and which line continues; its verbs at the edge."""

import pickle
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch.completion import registered
from tests.cases import cases
from tests.integration.conftest import Target, until
from tests.integration.fanout.conftest import reached, sent

TARGET = "http://127.0.0.1:9/run"
ROWS = pd.DataFrame({"n": range(5)})
AGAIN = "batch.resend(batch.tasks().query(\"state == 'gone'\"))"


@pytest.fixture
def batch(paused: ct.Queue) -> ct.Batch:
    """Give a batch whose five tasks wait in a paused queue."""
    return sent(paused.fan_out(ROWS, url=TARGET))


def lines(batch: ct.Batch) -> list[str]:
    """Return the lines of its repr below the counts."""
    return repr(batch).splitlines()[3:]


def delete_two(queue: ct.Queue) -> None:
    """Delete two tasks."""
    queue.delete_tasks(queue.tasks().head(2))


@cases(
    (delete_two, 2, "2 gone: deleted from the queue"),
    (ct.Queue.purge, 5, "5 gone: not in the queue since it was purged"),
    (ct.Queue.delete, 5, "5 gone: the queue was deleted"),
)
def test_how_tasks_were_lost(
    paused: ct.Queue, batch: ct.Batch, remove: Callable[[ct.Queue], Any], gone: int, line: str
) -> None:
    """The repr shows why tasks that were removed from the queue are gone, and the line that sends them again."""
    remove(paused)
    reached(batch, lambda progress: progress.gone == gone)
    assert f"{line} → {AGAIN}" in lines(batch)
    messages = batch.tasks().query("state == 'gone'")["last_message"]
    assert set(messages) == {line.partition(": ")[2]}


@pytest.fixture
def notes(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Give a function that returns the lines printed since its last call."""
    capsys.readouterr()
    return lambda: list(capsys.readouterr().out.splitlines())


def test_nothing_to_do_prints_a_note(batch: ct.Batch, notes: Callable[[], list[str]]) -> None:
    """A verb that sends nothing again prints why, for all the rows that it was given."""
    before = batch.tasks()
    batch.retry_failed()
    batch.resend(before)
    assert notes() == [
        f"nothing is sent again: no row of batch {batch.id} is in state failed",
        "0 of 5 sent again: 5 are not final",
    ]
    batch.cancel().wait("240s")
    batch.resend(before.head(3))
    batch.resend(before)
    batch.resend(before.head(1))
    assert notes() == ["2 of 5 sent again: 3 have a newer try", "0 of 1 sent again: 1 has a newer try"]


def test_waiting_prints_what_blocks_the_batch(
    batch: ct.Batch, notes: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a batch in a paused queue prints one note about the queue."""
    monkeypatch.setattr("cloudtasks_nb.fanout.batch.live._LASTING", 0.1)

    def told() -> list[str]:
        with pytest.raises(ct.errors.BatchTimeoutError, match=r"not done after 1\.5 s: 5 rows"):
            batch.wait(1.5)
        return notes()

    assert until(told) == [f"the queue {batch.queue} is paused and dispatches nothing → queue.resume()"]


def test_a_batch_behind_another(tasks: ct.Client, target: Target) -> None:
    """It says how many tasks of an earlier batch of its queue are before it, until these have ended."""
    queue, held = tasks.queue("one", create=True, max_concurrent=1), target.hold()
    target.script(held)
    first = queue.fan_out(pd.DataFrame({"n": range(3)}), url=target.url)
    target.wait()
    second = queue.fan_out(pd.DataFrame({"n": range(3, 5)}), url=target.url)
    reached(second, lambda progress: progress.reason == f"3 tasks of batch {first.id} before it")
    assert str(second.status()) == f"running: 3 tasks of batch {first.id} before it"
    assert "before it" not in str(first.status())
    held.release()
    assert second.wait("240s").reason is None


def test_a_batch_of_another_project(tasks: ct.Client) -> None:
    """A queue that was named in full has batches like any other, found by the connection that made them and by id."""
    queue = tasks.queue("projects/other/locations/us-central1/queues/far", create=True).pause()
    made = queue.fan_out(ROWS, url=TARGET)
    assert tasks.batch(made.id) == made
    assert made.id in tasks.batches().index
    with ct.connect("demo", "us-central1", endpoint=tasks.endpoint) as another:
        assert made.id not in another.batches().index
        assert another.batch(made.id) == made


def test_one_notification_an_address(paused: ct.Queue, batch: ct.Batch, notes: Callable[[], list[str]]) -> None:
    """Naming the batch's own queue changes nothing; a note lists the other addresses that are notified too."""
    url = "http://127.0.0.1:9/done"
    for queue in (None, paused, paused.id, paused.name):
        batch.on_complete(url, queue=queue)
    assert list(registered(batch._outbox.batches.facts(batch.id))) == [url]
    assert len(set(notes())) == 1
    batch.on_complete(f"{url}?x=1")
    assert notes()[0].endswith(f"; so is {url}")
    for strange in (5, "projects/other/locations/us-central1/queues/far"):
        with pytest.raises(InvalidInputError, match="queue"):
            batch.on_complete(url, queue=strange)


def test_a_queue_that_signs_for_itself(paused: ct.Queue, batch: ct.Batch) -> None:
    """A queue whose own token would take the place of the notification's is refused, and so is a token of nobody."""
    paused.route(service_account="queue@demo.iam.gserviceaccount.com")
    with pytest.raises(InvalidInputError, match="token of another account"):
        batch.on_complete("https://svc/done", service_account="sa@demo.iam.gserviceaccount.com")
    batch.on_complete("https://svc/done", service_account="queue@demo.iam.gserviceaccount.com")
    paused.route()
    with pytest.raises(InvalidInputError, match="audience="):
        batch.on_complete("https://svc.example.com/done", audience="https://svc.example.com")


def test_batch_no_time_asks_whether_it_is_done(batch: ct.Batch) -> None:
    """`wait(timeout=0)` raises while rows are not final, and returns once they are."""
    with pytest.raises(ct.errors.BatchTimeoutError, match="not done after 0"):
        batch.wait(timeout=0)
    batch.cancel().wait(timeout="240s")
    assert batch.wait(timeout=0).cancelled == len(ROWS)


def test_rows_of_another_batch_are_not_resent(batch: ct.Batch, paused: ct.Queue) -> None:
    """Rows of another batch are refused, whether few or all are; nothing is sent."""
    other = paused.fan_out(ROWS, url=TARGET, name="other").cancel()
    other.wait(timeout="240s")
    with pytest.raises(InvalidInputError, match=f"5 of 10 tasks are not of batch {other.id}"):
        other.resend(pd.concat([batch.tasks(), other.tasks()]))
    assert other.progress().cancelled == len(ROWS)


def test_what_belongs_to_a_process_is_not_pickled(tasks: ct.Client, queue: ct.Queue, batch: ct.Batch) -> None:
    """Who sends a batch to another process hears how to have it there; its progress can be sent."""
    with ct.serve(dict) as handler:
        ways = {
            batch: f'tasks.batch."{batch.id}".',
            queue: f'tasks.queue."{queue.id}".',
            tasks: "ct.connect or ct.local",
        }
        for made, way in {**ways, handler: "handler.url"}.items():
            with pytest.raises(TypeError, match=way):
                pickle.dumps(made)
    assert pickle.loads(pickle.dumps(batch.progress())) == batch.progress()  # noqa: S301 - our own bytes


def test_a_batch_is_no_sequence(batch: ct.Batch) -> None:
    """Who counts its rows, or loops over them, hears of its frame; it is true."""
    for use in (len, list, pd.Series):
        with pytest.raises(TypeError, match=r"batch\.tasks\(\) is a frame"):
            use(batch)
    assert batch

"""Calls that the service carried out and whose answers were lost on the way, through a proxy that drops them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import AlreadyExistsError, QueueNotFoundError, UnavailableError
from tests.integration.conftest import Emulator, Target
from tests.raising import raises

URL = "http://127.0.0.1:9/run"


class LossyProxy(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A gRPC proxy that hands calls on to the emulator, and can drop answers or calls."""

    def __init__(self, channel: Any) -> None:
        self.calls: list[str] = []
        self._channel = channel
        self._faults: dict[str, list[tuple[grpc.StatusCode, bool, Callable[[], object]]]] = {}

    def lose_answer(self, rpc: str, then: Callable[[], object] = lambda: None) -> None:
        """Drop the next answer to an RPC, after `then` was called."""
        self._faults.setdefault(rpc, []).append((grpc.StatusCode.UNAVAILABLE, True, then))

    def lose_call(self, rpc: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Do not hand on the next call of an RPC."""
        self._faults.setdefault(rpc, []).append((code, False, lambda: None))

    def service(self, handler_call_details: Any) -> Any:
        """Hand on any method."""
        path = handler_call_details.method
        rpc = path.rpartition("/")[2]

        def answer(request: bytes, context: Any) -> bytes:
            self.calls.append(rpc)
            waiting = self._faults.get(rpc)
            code, carried_out, then = waiting.pop(0) if waiting else (None, True, None)
            if not carried_out:
                context.abort(code, "the call was lost")
            try:
                made, call = self._channel.unary_unary(path).with_call(request, timeout=20)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            if then is not None:
                then()
                context.abort(code, "the answer was lost")
            metadata = [*call.initial_metadata(), *call.trailing_metadata()]
            context.send_initial_metadata([pair for pair in metadata if pair[0].startswith("x-")])
            return bytes(made)

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def proxy(emulator: Emulator) -> Iterator[LossyProxy]:
    """Put a proxy in front of the file's emulator."""
    made = LossyProxy(emulator.channel)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[made])
        made.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield made
        server.stop(None).wait()


@pytest.fixture
def connection(proxy: LossyProxy) -> Iterator[ct.Client]:
    """Give a connection through the proxy."""
    with ct.connect("demo", "us-central1", endpoint=f"127.0.0.1:{proxy.port}") as connected:
        yield connected


@pytest.fixture
def through(connection: ct.Client, paused: ct.Queue) -> ct.Queue:
    """Give a paused queue of the emulator, used through the proxy."""
    return connection.queue(paused.id)


def ids(queue: ct.Queue) -> list[str]:
    """Return the ids of the tasks in a queue, sorted."""
    return sorted(queue.tasks().index)


@pytest.mark.parametrize(("carried_out", "left", "calls"), [(True, ["after"], 1), (False, [], 2)])
def test_a_purge(
    proxy: LossyProxy, paused: ct.Queue, through: ct.Queue, left: list[str], calls: int, *, carried_out: bool
) -> None:
    """The time of the last purge shows whether it was carried out: a task that was created after it stays."""
    paused.enqueue(URL, task_id="before")
    if carried_out:
        proxy.lose_answer("PurgeQueue", lambda: paused.enqueue(URL, task_id="after"))
    else:
        proxy.lose_call("PurgeQueue")
    assert through.purge() is through
    assert (ids(paused), proxy.calls.count("PurgeQueue")) == (left, calls)


def test_a_purge_of_which_nothing_is_known(proxy: LossyProxy, paused: ct.Queue, through: ct.Queue) -> None:
    """Without the permission to read the queue the purge is not repeated, and the error says what is unknown."""
    proxy.lose_call("GetQueue", grpc.StatusCode.PERMISSION_DENIED)
    proxy.lose_answer("PurgeQueue", lambda: paused.enqueue(URL, task_id="after"))
    unknown = "it is not known whether it was purged"
    with raises(UnavailableError, unknown, hint="tasks that were created since") as caught:
        through.purge()
    assert (caught.value.resource, ids(paused), proxy.calls.count("PurgeQueue")) == (paused.name, ["after"], 1)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_state_that_was_set(
    proxy: LossyProxy, queue: ct.Queue, through: ct.Queue, tasks: ct.Client, *, carried_out: bool
) -> None:
    """A pause or a resumption is repeated: it does no harm to a queue that is in that state."""
    lose = proxy.lose_answer if carried_out else proxy.lose_call
    for rpc, verb, state in (("ResumeQueue", through.resume, "RUNNING"), ("PauseQueue", through.pause, "PAUSED")):
        lose(rpc)
        verb()
        assert (tasks.queues().state[queue.id], proxy.calls.count(rpc)) == (state, 2)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_change_of_settings(
    proxy: LossyProxy, paused: ct.Queue, through: ct.Queue, tasks: ct.Client, *, carried_out: bool
) -> None:
    """An update is repeated only if the queue does not have the settings."""
    (proxy.lose_answer if carried_out else proxy.lose_call)("UpdateQueue")
    through.update(rate=0.3, max_attempts=7, min_backoff="1500ms")
    found = tasks.queues().loc[paused.id]
    assert (found.rate, found.max_attempts, found.min_backoff.total_seconds()) == (0.3, 7, 1.5)
    assert proxy.calls.count("UpdateQueue") == (1 if carried_out else 2)


def test_a_change_of_a_queue_that_was_deleted_since(proxy: LossyProxy, paused: ct.Queue, through: ct.Queue) -> None:
    """UpdateQueue creates a queue that does not exist, so it is not repeated."""
    proxy.lose_answer("UpdateQueue", paused.delete)
    with pytest.raises(UnavailableError, match="not known whether it was changed"):
        through.update(rate=3)
    assert proxy.calls.count("UpdateQueue") == 1


def test_a_queue_that_was_created(proxy: LossyProxy, connection: ct.Client) -> None:
    """The queue exists after the call: it is not created again, and has the settings."""
    proxy.lose_answer("CreateQueue")
    connection.queue("reports", create=True, rate=3)
    assert connection.queues().rate["reports"] == 3
    assert proxy.calls.count("CreateQueue") == 1


def test_a_queue_that_was_deleted(proxy: LossyProxy, through: ct.Queue) -> None:
    """That the queue does not exist when the deletion is repeated is success; without a lost answer it is an error."""
    proxy.lose_answer("DeleteQueue")
    through.delete()
    with pytest.raises(QueueNotFoundError):
        through.delete()
    assert proxy.calls.count("DeleteQueue") == 3


@pytest.mark.parametrize("batching", [True, False])
def test_tasks_that_were_deleted(proxy: LossyProxy, paused: ct.Queue, through: ct.Queue, *, batching: bool) -> None:
    """A deletion whose answer was lost counts as done; a task that never existed is reported."""
    paused.enqueue(URL, task_id="a")
    proxy.lose_answer("BatchDeleteTasks" if batching else "DeleteTask")
    if not batching:
        proxy.lose_call("BatchDeleteTasks", grpc.StatusCode.UNIMPLEMENTED)
    made = through.delete_tasks(["a"])
    assert (made.ok.tolist(), ids(paused)) == ([True], [])
    assert through.delete_tasks(["b"]).ok.tolist() == [False]


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_task_that_was_run(
    proxy: LossyProxy, paused: ct.Queue, through: ct.Queue, target: Target, *, carried_out: bool
) -> None:
    """The number of its dispatches shows whether it was, and the target is called once."""
    target.script(500)
    paused.enqueue(target.url, task_id="a")
    proxy.lose_answer("RunTask", target.wait) if carried_out else proxy.lose_call("RunTask")
    assert through.run(["a"]).ok.tolist() == [True]
    assert (len(target.wait()), proxy.calls.count("RunTask")) == (1, 1 if carried_out else 2)


def test_a_task_that_left_its_queue(
    proxy: LossyProxy, paused: ct.Queue, through: ct.Queue, target: Target, emulator: Emulator
) -> None:
    """It was dispatched or deleted: the call is not repeated, and its row says what is unknown."""
    name = paused.enqueue(target.url, task_id="a").name["a"]
    proxy.lose_answer("RunTask", lambda: emulator.gone(name))
    made = through.run(["a"])
    assert made.ok.tolist() == [False]
    assert "it is not known whether it was dispatched" in made.error[0]
    assert (len(target.received), proxy.calls.count("RunTask")) == (1, 1)


def test_a_task_that_was_created(proxy: LossyProxy, paused: ct.Queue, through: ct.Queue) -> None:
    """It is created once. With an id of the caller's the error says whose the task may be."""
    proxy.lose_answer("CreateTask")
    made = through.enqueue(URL)
    assert ids(paused) == list(made.index)
    proxy.lose_answer("CreateTask")
    with pytest.raises(AlreadyExistsError, match="that call may have created it"):
        through.enqueue(URL, task_id="a")
    assert len(ids(paused)) == 2

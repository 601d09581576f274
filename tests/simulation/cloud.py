"""Cloud Tasks in this process: the emulator's own engine, without sockets, with hooks for faults.

`Cloud` answers serialized requests. `Wire` is a transport of the toolkit that hands them over, in a simulated world
from one process to another. Targets are functions of the test.
"""

import asyncio
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from cloudtasks_nb._names import CLOCK_AHEAD_METADATA, INSTANCE_METADATA, LOG_IMMEDIATE_METADATA
from cloudtasks_nb.emulator.api.engine import Engine
from cloudtasks_nb.emulator.api.rpcs import all_calls
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.model.apis import v2
from cloudtasks_nb.emulator.model.attempts import AttemptResult
from cloudtasks_nb.emulator.model.clock import Clock
from cloudtasks_nb.emulator.model.methods import METHODS
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.database import TaskDatabase
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.store.sweep import sweep
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.refusal import of_status
from cloudtasks_nb.service.transport import Transport
from tests.simulation.world import Process

_SWEEP_EVERY = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A request that reached a target."""

    task: str  #: short id
    attempt: int  #: 1 for the first
    body: Any  #: from JSON
    headers: dict[str, str]
    at: float  #: seconds of the world


@dataclass(frozen=True, kw_only=True)
class Creation:
    """A task that was created."""

    task: str  #: short id
    url: str
    caller: Process
    at: float  #: seconds of the world


#: The process whose call is answered.
_caller: ContextVar[Process] = ContextVar("caller")


class _Targets:
    """In place of the HTTP client of the emulator."""

    def __init__(self, cloud: "Cloud") -> None:
        self._cloud = cloud

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:
        """Call the target."""
        if connected is not None:
            connected()
        return await self._cloud.deliver(call)

    async def close(self) -> None:
        """Close nothing."""


class _Engine(Engine):
    def __init__(self, cloud: "Cloud", *parts: Any) -> None:
        self._cloud = cloud
        super().__init__(*parts)

    def deliverer(self) -> Any:
        return _Targets(self._cloud)


@dataclass(eq=False)
class Cloud:
    """A service in a process of a world.

    Parameters
    ----------
    process : Process
        Where it runs.
    target : callable
        Called with each delivery; returns the HTTP status of the answer.
    takes : float
        Seconds until a target answers.
    """

    process: Process
    target: Callable[[Delivery], int]
    takes: float = 0.2
    settings: Settings = field(default_factory=lambda: Settings(quiet=True))
    creations: list[Creation] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    #: Called with the calling process and each RPC, before it is executed and after that: may raise a `RefusedError`,
    #: and returns for how many seconds the request, or its answer, is on the way.
    before: Callable[[Process, str], float] = lambda _process, _rpc: 0.01
    after: Callable[[Process, str], float] = lambda _process, _rpc: 0.01

    def __post_init__(self) -> None:
        self.process.home.mkdir(parents=True, exist_ok=True)
        with self.process.world.within(self.process):
            self.process.run(self._start())

    async def _start(self) -> None:
        folder = self.process.home
        self._database = TaskDatabase(folder / "tasks.sqlite3", durable=False)
        self.clock = Clock(self.process.world.now_ns)
        store = Store(self._database, self.clock, self.settings)
        add = store.add_all

        def add_all(queue: Any, tasks: Any, now: int) -> Any:
            refused = add(queue, tasks, now)
            for task in (task for index, task in tasks.items() if index not in refused):
                url = v2.Task.FromString(task.head).http_request.url
                self.creations.append(
                    Creation(task=task.id, url=url, caller=_caller.get(), at=self.process.world.elapsed)
                )
            return refused

        store.add_all = add_all  # type: ignore[method-assign]
        self.engine = _Engine(self, self.settings, folder, store, self.clock)
        self._paths = all_calls(self.engine)
        self._sweep()

    def _sweep(self) -> None:
        sweep(self.engine.store, self.clock.now())
        if len(self._database):
            self.engine.committer.commit_soon()
        asyncio.get_running_loop().call_later(_SWEEP_EVERY, self._sweep)

    def close(self) -> None:
        """Close its file."""
        self._database.close()

    @property
    def metadata(self) -> dict[str, str]:
        """What comes with each answer."""
        ahead = {CLOCK_AHEAD_METADATA: str(self.clock.advanced)} if self.clock.advanced else {}
        immediate = "true" if self.engine.store.log.immediate else "false"
        return {INSTANCE_METADATA: "cloud", LOG_IMMEDIATE_METADATA: immediate, "date": self.engine.date(), **ahead}

    async def deliver(self, call: HttpCall) -> AttemptResult:
        """Have the target answer."""
        await asyncio.sleep(self.takes)
        headers = {name.lower(): value for name, value in call.headers.items()}
        delivery = Delivery(
            task=headers["x-cloudtasks-taskname"],
            attempt=int(headers["x-cloudtasks-taskretrycount"]) + 1,
            body=json.loads(call.body or b"null"),
            headers=headers,
            at=self.process.world.elapsed,
        )
        self.deliveries.append(delivery)
        return AttemptResult(http_status=self.target(delivery))

    async def answer(self, caller: Process, path: str, request: bytes) -> bytes:
        """Execute an RPC, with the faults of the hooks."""
        rpc = path.rpartition("/")[2]
        _caller.set(caller)
        await asyncio.sleep(self.before(caller, rpc))
        answer = await self._paths[path](METHODS[path].request.FromString(request))
        await asyncio.sleep(self.after(caller, rpc))
        return answer


class Wire(Transport):
    """Calls of a process of a world to a service of this world."""

    cloud: Cloud

    def __init__(self, process: Process, cloud: Cloud) -> None:
        super().__init__(Endpoint(project="demo", location="here", target="127.0.0.1:1", local=True), Auth())
        self.process, self.cloud = process, cloud

    async def _sent(self, method: Any, request: bytes, timeout: float, routed: str) -> bytes:  # noqa: ARG002 - as it is called
        self.check_open()
        loop, there, sent = asyncio.get_running_loop(), self.cloud.process.loop, self.process.ticks()
        answered = loop.create_future()

        def end(task: asyncio.Task[bytes]) -> None:
            if not answered.done():
                answered.set_result(task)

        def arrive(task: asyncio.Task[bytes]) -> None:
            if not task.cancelled():
                task.exception()  # the caller may not wait for it any more
                loop.call_soon(end, task)

        def begin() -> None:
            task = there.create_task(self.cloud.answer(self.process, method.path, request))
            task.add_done_callback(arrive)

        there.call_soon(begin)
        try:
            async with asyncio.timeout(timeout):
                task = await answered
        except TimeoutError:
            raise of_status(RefusedError("DEADLINE_EXCEEDED", "Deadline Exceeded").status()) from None
        self._heard(self.cloud.metadata, self.process.ticks() - sent)
        try:
            return bytes(task.result())
        except RefusedError as error:
            raise of_status(error.status()) from error

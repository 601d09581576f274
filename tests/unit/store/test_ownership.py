"""One home owns a batch, however homes freeze, die and are copied, and whatever the store answers late, or never."""

import random
import tomllib
import types
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.store.ownership import BEAT, PEEK, Identity, Owner, Ownership, Purpose, Seen

T = TypeVar("T")

TICK = 0.5  # seconds
STALE = 60.0  # seconds for which a mount may show a folder as it was
RESERVED = 3600.0  # seconds for which the name of a task is reserved
FOREVER = 1e9
DEADLINE = 30.0  # seconds of a request
ROWS = range(4)
PACE = 15.0  # seconds between two rows


class Call(NamedTuple):
    """A call of the store or the service that a coroutine waits for."""

    name: str
    function: Callable[[], Any]


@types.coroutine
def call(name: str, function: Callable[[], Any]) -> Generator[Call, Any, Any]:
    """Wait for what a function returns; anything may happen before it is called, and before its answer comes."""
    return (yield Call(name, function))


@types.coroutine
def sleep(seconds: float) -> Generator[float, Any, None]:
    """Wait for some seconds."""
    yield seconds


@dataclass
class World:
    """The store, the service and the time."""

    now: float = 1000.0
    objects: dict[int, Seen] = field(default_factory=dict)
    versions: list[tuple[float, dict[int, Seen]]] = field(default_factory=list)  # which objects there were, since when
    faults: list[str] = field(default_factory=list)
    late: list[tuple[float, Callable[[], object]]] = field(default_factory=list)  # what the store carries out later
    created: dict[int, float] = field(default_factory=dict)  # when the task of a row was created last
    excused: set[int] = field(default_factory=set)  # rows of requests that were frozen between check and write
    final: int = 0  # the number of a cancel that is finished
    homes: list["Home"] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def at(self, time: float) -> dict[int, Seen]:
        """Return which objects there were at a time."""
        return next((objects for at, objects in reversed(self.versions) if at <= time), {})

    def change(self, number: int, seen: Seen | None) -> None:
        """Store an object; None deletes it."""
        if seen is None:
            self.objects.pop(number, None)
        else:
            self.objects[number] = seen
        self.versions.append((self.now, dict(self.objects)))

    def create_task(self, row: int, checked: float, number: int) -> None:
        """Take a request; the check before it was made at a time, by the owner with a number."""
        if self.now - checked > DEADLINE:
            self.excused.add(row)
        before = self.created.get(row)
        if before is not None and self.now - before < RESERVED:
            return
        if row not in self.excused:
            if before is not None:
                self.broken.append(f"row {row} is sent twice")
            if number < self.final:
                self.broken.append(f"row {row} is sent by {number} past the cancel {self.final}")
        self.created[row] = self.now

    def check(self) -> None:
        """Look for two owners; a copy of a home that has begun within one beat may be the second one."""
        valid = [home for home in self.homes if home.work and home.own and home.own.may_send]
        newest = max(valid, key=lambda home: home.own.number if home.own else 0, default=None)
        others = [home for home in valid if home is not newest]
        if newest and any(home.identity_.id != newest.identity_.id or not newest.continues for home in others):
            self.broken.append(f"{[home.identity_ for home in valid]} have a valid lease")
        assert not self.broken


@dataclass
class Home:
    """A home, its process, and what that sees of the store."""

    world: World
    identity_: Identity
    kept: list[Identity] = field(default_factory=list)  # backups
    own: Ownership | None = None
    work: list["Work"] = field(default_factory=list)
    wrote: float = 0.0  # when this machine wrote to the store, which then shows it the folder as it is
    refused: str = ""  # why it did not get the batch
    ahead: float = 0.0  # of its clock
    continues: bool = False  # when it created its number, it knew the token of the one before
    blind: bool = False  # it gets no answer about owners that came after

    # What the protocol asks of a home

    async def identity(self) -> Identity:
        """Return who it is."""
        return self.identity_

    async def remember(self, *tokens: str) -> None:
        """Store tokens, and keep what was stored before."""
        self.kept.append(self.identity_)
        self.identity_ = replace(self.identity_, tokens=tokens)

    async def succeed(self, other: Seen) -> None:
        """Find out what others have sent in any case."""

    async def become_another(self) -> None:
        """Take a new id."""
        self.identity_ = replace(self.identity_, id=f"{self.identity_.id}'{len(self.world.versions)}", tokens=())

    # The objects as this machine sees them

    async def numbers(self) -> dict[int, float]:
        """List the objects."""

        def answer() -> dict[int, float]:
            return {number: seen.modified for number, seen in self._visible().items()}

        return await self._ask("list", answer)

    async def read(self, number: int) -> Seen | None:
        """Read an object."""
        if self.blind and self.own and 0 < self.own.number < number:
            raise StoreError("the store does not answer")
        return await self._ask("read", lambda: self.world.objects.get(number) if number in self._visible() else None)

    async def create(self, number: int, owner: Owner) -> None:
        """Write an object that does not exist."""
        await self._write(number, owner, new=True)

    async def write(self, number: int, owner: Owner) -> None:
        """Write an object."""
        await self._write(number, owner, new=False)

    async def now(self) -> float:
        """Return the time of the store."""
        await self._ask("touch", self._touch)
        return await self._ask("now", lambda: self.world.now)

    async def delete(self, numbers: Collection[int]) -> None:
        """Delete objects."""
        for number in numbers:
            await self._ask("delete", partial(self.world.change, number, None))

    async def _write(self, number: int, owner: Owner, *, new: bool) -> None:
        def answer() -> None:
            if not new or number not in self.world.objects:
                if new:
                    before = self.world.objects.get(number - 1)
                    self.continues = before is not None and any(before.owner.token in one.tokens for one in self.kept)
                self.world.change(number, Seen(owner, self.world.now))
            self._touch()

        await self._ask("create" if new else "write", answer)

    def _touch(self) -> None:
        self.wrote = self.world.now

    def _visible(self) -> dict[int, Seen]:
        stale = self.world.faults[-1:] == ["stale"]
        return self.world.at(max(self.wrote, self.world.now - STALE) if stale else self.world.now)

    async def _ask(self, name: str, answer: Callable[[], T]) -> T:
        """Carry a call of the store out, or not, or later, as the faults say."""

        def faulty() -> Any:
            fault, found = self.world.faults[-1] if self.world.faults else "", None
            if fault == "late":
                self.world.late.append((self.world.now + 20.0, answer))
            elif fault != "refused":
                found = answer()
            del self.world.faults[-1:]
            if fault in {"late", "refused", "lost"}:
                raise StoreError("the store does not answer")
            return found

        found: T = await call(name, faulty)
        return found

    # Processes

    def start(self, verb: str) -> None:
        """Begin a process."""
        self.own = Ownership(self, self, lambda: self.world.now + self.ahead, sleep)
        self.work = [Work(partial(self._send, self.own, verb)), Work(partial(self._keep, self.own))]

    async def _send(self, own: Ownership, verb: str) -> None:
        """Own the batch, and send the rows of which nothing tells that they were sent; or cancel, or delete."""
        purpose = {"cancel": Purpose.CANCELS, "delete": Purpose.DELETED}.get(verb, Purpose.SENDS)
        while True:
            try:
                await own.take(purpose, over=verb in {"over", "cancel"})
                await own.settle()
                finishes = own.previous and own.previous.purpose is Purpose.CANCELS and not own.previous.ended
                if purpose is Purpose.CANCELS or finishes:
                    await call("finish", lambda: self._finish(own))
                if purpose is Purpose.DELETED:
                    await own.clear()
                elif verb == "hold":
                    await sleep(FOREVER)
                elif not finishes and purpose is Purpose.SENDS:
                    await self._send_rows(own)
                own.stop()
                await own.end()
                self.work = []
                return  # noqa: TRY300 - the loop goes on after errors only
            except PreconditionError as error:
                self.refused = error.message
                return
            except StoreError:
                await sleep(PEEK)

    def _finish(self, own: Ownership) -> None:
        """Delete the tasks once more; from then on the cancel is final."""
        if own.may_send:
            self.world.final = max(self.world.final, own.number)

    async def _send_rows(self, own: Ownership) -> None:
        known = await call("find out", lambda: set(self.world.created))
        for row in ROWS:
            await sleep(PACE if row else PEEK)
            if row not in known:
                if not own.may_send:
                    raise StoreError("the lease has ended")
                await call("send", partial(self.world.create_task, row, self.world.now, own.number))

    async def _keep(self, own: Ownership) -> None:
        while True:
            for _ in range(int(BEAT / PEEK)):
                await sleep(PEEK)
                await _despite_errors(own.peek)
            await _despite_errors(own.beat)


@dataclass
class Work:
    """A coroutine, and what it waits for."""

    begin: Callable[[], Coroutine[Any, Any, None]]
    coroutine: Coroutine[Any, Any, None] | None = None
    waits: Any = None  # a function that is to be called, or the time until which it sleeps
    answer: Any = None

    def step(self, now: float) -> bool:
        """Make the next step: call a function, or hand its answer over; return False if there is none now."""
        if isinstance(self.waits, Call):
            try:
                self.answer = self.waits.function()
            except StoreError as error:
                self.answer = error
            self.waits = None
            return True
        if self.waits is not None and now < self.waits:
            return False
        self.waits, self.coroutine = None, self.coroutine or self.begin()
        try:
            if isinstance(self.answer, StoreError):
                found = self.coroutine.throw(self.answer)
            else:
                found = self.coroutine.send(self.answer)
        except StopIteration:
            self.waits = float("inf")
            return False
        self.answer = None
        self.waits = found if isinstance(found, Call) else now + found
        return True


async def _despite_errors(method: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with suppress(StoreError):
        await method()


def play(commands: Iterable[Sequence[Any]]) -> World:
    """Carry commands out one after the other, and check after every step."""
    world = World()
    world.homes = [Home(world, Identity(f"home{n}", f"person{n}", ()), ahead=1000.0 * n) for n in range(3)]
    for name, *arguments in commands:
        COMMANDS[name](world, *arguments)
    return world


def _start(world: World, number: int, verb: str) -> None:
    world.homes[number % len(world.homes)].start(verb)


def _step(world: World, home: Home, count: int) -> None:
    for _ in range(count):
        for work in list(home.work):
            if work in home.work:
                work.step(world.now)
                world.check()


def _steps(world: World, number: int, count: int) -> None:
    _step(world, world.homes[number % len(world.homes)], count)


def _to(world: World, number: int, name: str) -> None:
    """Have one home work until it is about to make a call, at most for half a minute, while the others are frozen."""
    home, end = world.homes[number % len(world.homes)], world.now + 30.0
    while world.now < end and not any(isinstance(work.waits, Call) and work.waits.name == name for work in home.work):
        moved = False
        for work in list(home.work):
            moved |= work in home.work and work.step(world.now)
            world.check()
        if not moved:
            _jump(world, TICK)


def _turn(world: World, number: int, verb: str, seconds: float, seed: int) -> None:
    """Start one home, and have it work while the others are frozen."""
    _start(world, number, verb)
    _run(world, seconds, {*range(len(world.homes))} - {number % len(world.homes)}, seed)


def _run(world: World, seconds: float, frozen: Collection[int], seed: int) -> None:
    """Let the homes that are not frozen work, in an order that differs each time."""
    order, end = random.Random(seed), world.now + seconds
    while world.now < end:
        _jump(world, TICK)
        awake = [home for number, home in enumerate(world.homes) if number not in frozen]
        order.shuffle(awake)
        for home in awake:
            _step(world, home, order.randint(1, 4))


def _jump(world: World, seconds: float) -> None:
    world.now += seconds
    for due in [each for each in world.late if each[0] <= world.now]:
        world.late.remove(due)
        due[1]()
    world.check()


def _blind(world: World, number: int) -> None:
    home = world.homes[number % len(world.homes)]
    home.blind = not home.blind


def _kill(world: World, number: int) -> None:
    world.homes[number % len(world.homes)].work = []


def _close(world: World, number: int) -> None:
    """End a process as a kernel ends that is closed: it says that it sends no more."""
    home = world.homes[number % len(world.homes)]
    if home.work and home.own:
        home.own.stop()
        home.work = [Work(partial(_despite_errors, home.own.end))]


def _copy(world: World, number: int) -> None:
    """Copy the folder of a home to another machine."""
    home = world.homes[number % len(world.homes)]
    if len(world.homes) < 5:
        world.homes.append(Home(world, replace(home.identity_, person=f"copy{len(world.homes)}"), list(home.kept)))


def _restore(world: World, number: int) -> None:
    """Put a backup of a home in its place, while no process uses it."""
    home = world.homes[number % len(world.homes)]
    if home.kept:
        home.kept = home.kept[: len(home.kept) // 2 + 1]
        home.work, home.identity_ = [], replace(home.kept[-1], person=home.identity_.person)


def _fault(world: World, kind: str, count: int) -> None:
    world.faults = [kind] * count


COMMANDS: dict[str, Callable[..., None]] = {
    "start": _start,
    "steps": _steps,
    "to": _to,
    "turn": _turn,
    "run": _run,
    "jump": _jump,
    "blind": _blind,
    "kill": _kill,
    "close": _close,
    "copy": _copy,
    "restore": _restore,
    "fault": _fault,
}
_homes = st.integers(0, 4)
_verbs = st.sampled_from(["send", "hold", "over", "over", "cancel", "delete"])
_seconds, _seeds = st.sampled_from([1.0, 3.0, 6.0, 12.0, 50.0, 130.0]), st.integers(0, 99)
_jumps = st.sampled_from([5.0, 29.0, 44.0, 46.0, 59.0, 61.0, 119.0, 121.0, 950.0, 3700.0])
_calls = st.sampled_from(["list", "read", "create", "write", "send", "finish", "find out"])
_command = st.one_of(
    st.tuples(st.just("turn"), _homes, _verbs, _seconds, _seeds),
    st.tuples(st.just("turn"), _homes, _verbs, _seconds, _seeds),
    st.tuples(st.just("start"), _homes, _verbs),
    st.tuples(st.just("to"), _homes, _calls),
    st.tuples(st.just("steps"), _homes, st.integers(1, 12)),
    st.tuples(st.just("run"), _seconds, st.frozensets(_homes, max_size=2), _seeds),
    st.tuples(st.just("jump"), _jumps),
    st.tuples(st.sampled_from(["kill", "close", "copy", "restore", "blind"]), _homes),
    st.tuples(st.just("fault"), st.sampled_from(["refused", "lost", "late", "stale"]), st.integers(1, 30)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_command, min_size=3, max_size=30))
def test_no_two_homes_send_at_the_same_time(commands: list[tuple[Any, ...]]) -> None:
    """No row is delivered twice, no two homes have a valid lease, and no row passes a finished cancel."""
    play(commands)


A, B, C = range(3)
_HISTORIES = tomllib.loads(Path(__file__).with_name("histories.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("history", _HISTORIES.values(), ids=_HISTORIES)
def test_histories(history: list[list[Any]]) -> None:
    """What once let two homes send at the same time."""
    play(history)


def _may_send(world: World, number: int) -> bool:
    own = world.homes[number].own
    return own is not None and own.may_send


@pytest.mark.parametrize("steps", range(8))
def test_a_killed_process_is_continued_at_once(steps: int) -> None:
    """Wherever a beat is interrupted, the next process of the home knows the token, and sends without a wait."""
    beat = [("turn", A, "hold", 3, 0), ("to", A, "write"), ("steps", A, steps)]
    world = play([*beat, ("kill", A), ("turn", A, "hold", 6, 0)])
    assert _may_send(world, A)


def test_an_owner_that_lives_is_named() -> None:
    """Another home is told who owns the batch; once that has ended or is gone, it goes on without a question."""
    commands = [("turn", A, "hold", 3, 0), ("jump", 4.0), ("turn", B, "hold", 6, 0)]
    assert "person0 sends this batch, seen" in play(commands).homes[B].refused
    for end in [("close", A), ("steps", A, 4)], [("jump", 125.0)]:
        world = play([*commands[:1], *end, ("turn", B, "hold", 6, 0)])
        assert _may_send(world, B)


@pytest.mark.parametrize(("old", "kept"), [(950.0, {2}), (60.0, {1, 2})])
def test_a_deleted_batch_keeps_its_number(old: float, kept: set[int]) -> None:
    """Nobody creates an earlier number by an old look; recent objects go later, and the last one after 31 days."""
    sent = [("turn", A, "hold", 3, 0), ("close", A), ("steps", A, 4)]
    world = play([*sent, ("jump", old), ("turn", A, "delete", 6, 0)])
    assert {*world.objects} == kept
    again = play([*sent, ("turn", A, "delete", 6, 0), ("turn", B, "hold", 6, 0)])
    assert _may_send(again, B)
    assert max(again.objects) == 3
    for days, left in [(0.02, {2}), (30.5, {2}), (1.0, set[int]())]:
        world.now += days * 24 * 3600
        work = Work(Ownership(world.homes[C], world.homes[C], lambda: world.now, sleep).clear)
        while work.step(world.now):
            pass
        assert {*world.objects} == left

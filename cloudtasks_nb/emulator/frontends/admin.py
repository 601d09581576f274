"""Endpoints for tests: the clock, faults, seeds, snapshots and the history of finished tasks."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web
from google.protobuf import json_format

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.emulator.api.faults import Fault
from cloudtasks_nb.emulator.frontends.bodies import answer_json
from cloudtasks_nb.emulator.frontends.parts import Parts
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import CLOCK_SETTING, LAST_NOW, SECOND
from cloudtasks_nb.emulator.model.queues import declared, from_v2
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["Admin"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HISTORY_LIMIT = 1000
_LONGEST_RUN = 10.0  # seconds, of a call that moves the clock from dispatch to dispatch


class Admin:
    """Answers the requests below ``/admin/``.

    Parameters
    ----------
    engine : Parts
        The emulator, in whose data folder snapshots are stored.
    """

    def __init__(self, engine: Parts) -> None:
        self._engine = engine
        self._snapshots = engine.folder / "snapshots"
        self._replacing = asyncio.Lock()
        self._moving = asyncio.Lock()
        engine.clock.subscribe(lambda _: self._note_clock())

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to serve."""
        return [
            web.get("/admin/clock", answer_json(self.clock)),
            web.post("/admin/clock", answer_json(self.advance)),
            web.post("/admin/clock/run", answer_json(self.run)),
            web.post("/admin/reset", answer_json(self.reset)),
            web.post("/admin/seed", answer_json(self.seed)),
            web.post("/admin/snapshot", answer_json(self.snapshot)),
            web.post("/admin/restore", answer_json(self.restore)),
            web.post("/admin/faults", answer_json(self.add_fault)),
            web.delete("/admin/faults", answer_json(self.clear_faults)),
            web.get("/admin/history", answer_json(self.history)),
            web.get("/admin/waiting", answer_json(self.waiting)),
            web.post("/admin/console", answer_json(self.console)),
        ]

    async def console(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return the path of the console; where calls need a token, each works once."""
        return {"path": self._engine.callers.console()}

    async def clock(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the time."""
        if "advance_s" in given:
            raise InvalidInputError("GET returns the time and does not move the clock: send advance_s with POST")
        now = self._engine.clock.now()
        return {
            "now": datetime.fromtimestamp(now / SECOND, UTC).isoformat(),
            "now_us": now,
            "ahead_us": self._engine.clock.advanced,
            "attempts": self._engine.dispatcher.ended,
        }

    async def advance(self, given: dict[str, Any]) -> dict[str, Any]:
        """Move the clock forward by `advance_s` seconds, and return the time."""
        advance = float(given.get("advance_s", 0))
        if not 0 <= advance < math.inf:
            raise InvalidInputError("advance_s is a number of seconds, 0 or more: the clock can only be moved forward")
        if advance:
            self._engine.clock.advance(round(advance * SECOND))
            await self._engine.committer.commit()
        return await self.clock({})

    async def run(self, given: dict[str, Any]) -> dict[str, Any]:
        """Move the clock from dispatch to dispatch up to `until_us`, each after the attempts before it have ended.

        It takes at most `seconds`; `done` is false if there is more to do. With `idle` it ends when no task is left
        that is dispatched before `until_us`.
        """
        if "until_us" not in given:
            raise InvalidInputError("until_us is missing: the time at which to stop, in microseconds since 1970")
        until, seconds = int(given["until_us"]), float(given.get("seconds", 1))
        if not 0 <= seconds <= _LONGEST_RUN:
            raise InvalidInputError(f"seconds must be 0 to {_LONGEST_RUN:g}: call again while done is false")
        done = await self._lapse(until, seconds, idle=_flag(given, "idle"))
        await self._engine.committer.commit()
        return {**await self.clock({}), "done": done, "waiting": self._engine.dispatcher.waiting() if done else []}

    async def reset(self, _: dict[str, Any]) -> dict[str, Any]:
        """Delete all queues, tasks, names, logs, faults and advances, and create the declared queues again.

        With ``--strict``, principals and roles are forgotten too, and what is wrong with the project.
        """

        def erase() -> None:
            self._engine.store.database.erase()
            self._engine.clock.reset()

        await self._replace(erase)
        self._engine.faults.clear()
        self._engine.reset()
        names = self._engine.declared.put()
        await self._engine.committer.commit()
        self._engine.dispatcher.wake_all()
        return {"queues": names}

    async def seed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Create or change queues; `queues` are those of REST, of either version."""
        queues = given.get("queues", [])
        if not isinstance(queues, list):
            raise InvalidInputError("queues must be a list")
        messages = [_queue(queue) for queue in queues]  # all are parsed before the first one is created
        for message in messages:
            self._engine.store.declare(message)
        await self._engine.committer.commit()
        self._engine.dispatcher.wake_all()
        return {"queues": [message.name for message in messages]}

    async def snapshot(self, given: dict[str, Any]) -> dict[str, Any]:
        """Save a copy of everything as `name`."""
        file = self._snapshot_file(given.get("name") or uuid4().hex)
        await self._engine.committer.commit()
        self._snapshots.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        self._engine.store.database.save_to(file)
        return {"name": file.stem}

    async def restore(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return to the snapshot `name`; attempts in flight are cancelled, the clock stays."""
        file = self._snapshot_file(given.get("name", ""))
        if not file.exists():
            raise RefusedError("NOT_FOUND", f"There is no snapshot {file.stem}.")
        await self._replace(lambda: self._engine.store.database.load_from(file))
        self._note_clock()
        await self._engine.committer.commit()
        return {"name": file.stem}

    async def add_fault(self, given: dict[str, Any]) -> dict[str, Any]:
        """Make the next calls of a method fail."""
        self._engine.faults.add(Fault.of(given))
        return {}

    async def clear_faults(self, _: dict[str, Any]) -> dict[str, Any]:
        """Remove all faults; unfinished operations become finished."""
        self._engine.faults.clear()
        return {}

    async def history(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return finished tasks with their attempts, the newest first."""
        limit = int(given.get("limit") or _HISTORY_LIMIT)
        if limit < 0:
            raise InvalidInputError("limit cannot be negative")
        bodies = str(given.get("body", "")).lower() in {"1", "true"}
        await self._engine.unread.room()
        return {"tasks": self._engine.dispatcher.history.newest(given.get("queue", ""), limit, bodies=bodies)}

    async def waiting(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return the targets on this machine that refuse connections, with the tasks that wait for them."""
        return {"targets": self._engine.dispatcher.unreachable()}

    def _snapshot_file(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise InvalidInputError("the name of a snapshot is 1 to 100 letters, digits, hyphens or underscores")
        return self._snapshots / f"{name}.sqlite3"

    def _note_clock(self) -> None:
        """Store with the next commit how far the clock was moved, because all stored times are of this clock."""
        self._engine.store.set_setting(CLOCK_SETTING, str(self._engine.clock.advanced).encode())
        self._engine.committer.commit_soon()

    async def _lapse(self, until: int, seconds: float, *, idle: bool) -> bool:
        """Move the clock from one dispatch to the next, after the attempts before it have ended; return whether it did.

        Without it, an advance of an hour would make one attempt of a task that is retried every minute.
        """
        loop, dispatcher = asyncio.get_running_loop(), self._engine.dispatcher
        end = loop.time() + seconds
        async with self._moving:
            while await dispatcher.settle(end - loop.time()):
                due = dispatcher.next_dispatch()
                if due is None or due > until:
                    if not idle:
                        self._move(until)
                    return True
                self._move(due)
                if loop.time() >= end:
                    break
        return False

    def _move(self, to: int) -> None:
        clock = self._engine.clock
        if (duration := min(to, LAST_NOW) - clock.now()) > 0:
            clock.advance(duration)

    async def _replace(self, change: Callable[[], None]) -> None:
        engine = self._engine
        async with self._replacing:
            try:
                await engine.dispatcher.abort(hold=True)
                await engine.committer.flush()
                change()
            finally:  # also after a failed change: cancelled attempts are sent again
                engine.store.reload(keep_running=False)
                engine.dispatcher.release()


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if value not in (True, False, "true", "false"):  # texts are those of a query
        raise InvalidInputError(f"{name} must be true or false")
    return value in (True, "true")


def _queue(given: Any) -> Any:
    if not isinstance(given, dict):
        raise InvalidInputError("each of the queues must be a JSON object")
    if "appEngineRoutingOverride" in given or "app_engine_routing_override" in given:
        message = from_v2(json_format.ParseDict(given, v2.Queue()))
    else:
        message = json_format.ParseDict(given, beta.Queue())
    QueueName.parse(message.name)
    return declared(None, message)

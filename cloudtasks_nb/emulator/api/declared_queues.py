"""Creates and changes the queues that the command line and the configuration file declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.queues import declared
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["DeclaredQueues"]


class DeclaredQueues:
    """The queues that an emulator has from its start on.

    Parameters
    ----------
    store : Store
        Where they are created and changed.
    settings : Settings
        Names of the command line's queues, which are created with default settings if they do not exist, and the
        configuration file, whose queues are created or get all the settings that stand there. They are created even
        if a queue of that name was deleted just now: else an emulator could not start again for three days.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._names = settings.queues
        self._config = settings.config

    def put(self) -> list[str]:
        """Create and change the queues, and return their names; the caller commits."""
        queues = {queue.name: queue for queue in (self._config.queues if self._config else ())}
        names = [*dict.fromkeys([*queues, *self._names])]
        missing = {name: beta.Queue(name=name) for name in names if name not in self._store.contents.queues}
        self._declare([*(missing | queues).values()])
        return names

    def reload(self) -> list[str]:
        """Read the configuration file again, create and change its queues, and return what to tell the user.

        Raises
        ------
        InvalidInputError
            If something in the file is not allowed; then nothing is changed.
        """
        old = self._config
        if old is None:
            return ["SIGHUP is ignored, because there is no file of --config to read again"]
        new = old.read(old.path, old.readers)
        created = self._declare(new.queues)
        self._config = new
        names = {queue.name for queue in new.queues}
        lines = [f"{new.path} was read again; queues: {created} new, {len(new.queues) - created} updated"]
        lines += [
            f"{queue.name} is not in {new.path} any more: the queue stays as it is"
            for queue in old.queues
            if queue.name not in names
        ]
        changed = sorted(
            name for name in old.options.keys() | new.options.keys() if old.options.get(name) != new.options.get(name)
        )
        if changed:
            lines.append(f"the new value of {', '.join(changed)} counts from the next start on")
        return lines

    def _declare(self, given: Sequence[Any]) -> int:
        """Create and change queues, none if one cannot be; return how many are new."""
        known = self._store.contents.queues
        messages = [declared(known[queue.name].message if queue.name in known else None, queue) for queue in given]
        return sum([self._store.declare(message) for message in messages])

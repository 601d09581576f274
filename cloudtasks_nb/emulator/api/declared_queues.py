"""Creates and changes the queues that the command line and the configuration file declare."""

from __future__ import annotations

from typing import Any

from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.emulator.model.queues import configured, declared
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.state import QueueState
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
        queues = self._store.contents.queues
        changes = [] if self._config is None else self._changes(self._config)
        listed = {message.name for _, message in changes}
        missing = [name for name in dict.fromkeys(self._names) if name not in queues and name not in listed]
        self._apply(changes + [(None, configured(beta.Queue(name=name))) for name in missing])
        return [*listed, *(name for name in self._names if name not in listed)]

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
        new = old.again()
        changes = self._changes(new)
        self._apply(changes)
        self._config = new
        names = {message.name for _, message in changes}
        created = sum(queue is None for queue, _ in changes)
        lines = [f"{new.path} was read again; queues: {created} new, {len(changes) - created} updated"]
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

    def _changes(self, config: ConfigFile) -> list[tuple[QueueState | None, Any]]:
        """Return the queues that exist, None for new ones, with their new messages."""
        found = [(self._store.contents.queues.get(given.name), given) for given in config.queues]
        return [(queue, declared(queue.message if queue else None, given)) for queue, given in found]

    def _apply(self, changes: list[tuple[QueueState | None, Any]]) -> None:
        for queue, message in changes:
            if queue is None:
                self._store.free_name(message.name)
                self._store.create_queue(message)
            else:
                self._store.configure(queue, message)

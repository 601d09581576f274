"""Creates and changes the queues that the command line and the configuration file declare."""

from __future__ import annotations

from typing import Any

from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.emulator.model.protobuf import beta
from cloudtasks_nb.emulator.model.queues import configured, declared
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["DeclaredQueues"]


class DeclaredQueues:
    """The queues that an emulator has from its start on.

    Parameters
    ----------
    store : Store
        Where they are created and changed.
    settings : Settings
        Names of the command line's queues, which are created with default settings if they do not exist, and the
        configuration file, whose queues are created or get all the settings that stand there.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._names = settings.queues
        self._config = settings.config

    def put(self) -> list[str]:
        """Create and change the queues, and return their names; the caller commits.

        Raises
        ------
        InvalidInputError, RefusedError
            If one of them cannot be created; then nothing is changed.
        """
        queues = self._store.contents.queues
        changes = [] if self._config is None else self._changes(self._config)
        listed = {message.name for _, message in changes}
        missing = [name for name in dict.fromkeys(self._names) if name not in queues and name not in listed]
        for name in missing:
            self._store.check_free(name)
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
            return []
        new = old.again()
        changes = self._changes(new)
        self._apply(changes)
        self._config = new
        names = {message.name for _, message in changes}
        created = sum(queue is None for queue, _ in changes)
        lines = [f"{new.path} was read again; queues: {created} new, {len(changes) - created} updated"]
        lines += [
            f"{one.message.name} is not in {new.path} any more: the queue stays as it is"
            for one in old.queues
            if one.message.name not in names
        ]
        changed = sorted(
            name for name in old.options.keys() | new.options.keys() if old.options.get(name) != new.options.get(name)
        )
        if changed:
            lines.append(f"the new value of {', '.join(changed)} counts from the next start on")
        return lines

    def _changes(self, config: ConfigFile) -> list[tuple[QueueState | None, Any]]:
        """Return the queues that exist, None for new ones, with their new messages."""
        found = []
        for one in config.queues:
            queue = self._store.contents.queues.get(one.message.name)
            try:
                if queue is None:
                    self._store.check_free(one.message.name)
                found.append((queue, declared(queue.message if queue else None, one.message)))
            except RefusedError as error:
                raise InvalidInputError(f"{one.where}: {error.message}", resource=one.message.name) from error
        return found

    def _apply(self, changes: list[tuple[QueueState | None, Any]]) -> None:
        for queue, message in changes:
            if queue is None:
                self._store.create_queue(message)
            else:
                self._store.configure(queue, message)

"""The results of one batch: read from the store into the home as far as they are new, and packed into few objects.

Who is the first to send a batch claims it: it makes the key of the batch in the store, and every home takes that.
By the key each task gets a tag (`tag_of`), which its handler writes beside the result. So a result counts only if it
is of a task that was sent with the key of its batch.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson

from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.errors import BatchExistsError, BatchNotFoundError, StoreError
from cloudtasks_nb.fanout.causes import message_of
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord
from cloudtasks_nb.fanout.outbox.rows import Line, ReadPart
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.store.batches import claim_batch, read_claim
from cloudtasks_nb.store.results import FAILURES, StoredResult, result_objects, result_of, tag_of
from cloudtasks_nb.store.store import Range, Store
from cloudtasks_nb.store.types import restore

__all__ = ["Answers", "StoredResults", "batch_keys", "check_recipe", "claim", "is_claimed", "own_key"]

_KEY_SIZE = 16  # bytes
_TYPES = '"types":'  # in the fields of a result whose value is not what its JSON says


def own_key(outbox: Outbox, batch: str) -> bytes:
    """Return the key for new tasks of a batch, which is made if there is none."""
    new = (secrets.token_hex(_KEY_SIZE),)
    _, facts = outbox.batches.change(batch, lambda facts: replace(facts, keys=facts.keys or new))
    return bytes.fromhex(facts.keys[0])


def claim(outbox: Outbox, store: Store, batch: str, *, new: bool = False) -> None:
    """Claim a batch in a store before it is sent, or take the key of the home that has claimed it.

    Another home may have deleted the batch, and its claim, since this one has sent rows. With `new`, nobody has sent
    any, as it seems.

    Raises
    ------
    StoreError
        If the store cannot be used, or its claim is damaged.
    BatchExistsError
        If another home has claimed a batch with this id that is made of other templates.
    """
    record, key = outbox.batches.get(batch), own_key(outbox, batch)
    mine = orjson.dumps({"recipe": record.recipe.hex(), "key": key.hex()})
    _take(outbox, store, record, claim_batch(store, batch, mine, new=new))


def is_claimed(outbox: Outbox, store: Store, batch: str) -> bool:
    """Return whether this home knows the claim of a batch in a store."""
    return outbox.batches.facts(batch).claimed_in == store.url


def batch_keys(outbox: Outbox, store: Store, batch: str, *, again: bool = False) -> tuple[bytes, ...]:
    """Return the keys whose results count; the claim is read if this home does not know it yet.

    Parameters
    ----------
    again : bool
        Read the claim in any case: results have another key, as when another home has deleted the batch and sent it
        again.

    Raises
    ------
    StoreError
        If the store cannot be read, or its claim is damaged.
    BatchNotFoundError
        If the home does not have the batch.
    """
    if again or not is_claimed(outbox, store, batch):
        record, found = outbox.batches.get(batch), read_claim(store, batch)
        with suppress(BatchExistsError):  # these results are not of this batch; its sending tells it
            if found is not None:
                _take(outbox, store, record, found)
            elif record.facts.keys:  # it was sent while the store did not answer
                with suppress(StoreError):  # this home may only read: the results count here
                    claim(outbox, store, batch)
    return tuple(map(bytes.fromhex, outbox.batches.facts(batch).keys))


def check_recipe(store: Store, batch: str, label: str, recipe: bytes) -> None:
    """Refuse rows of other templates than those of the batch that another home has claimed.

    Raises
    ------
    BatchExistsError
        If the batch with this id is made of other templates there.
    StoreError
        If the store cannot be read, or its claim is damaged.
    """
    if (found := read_claim(store, batch)) is not None:
        _read(store, batch, label, recipe, found)


def _take(outbox: Outbox, store: Store, record: BatchRecord, found: bytes) -> None:
    """Use the key of a claim for new tasks; keep those that tasks were sent with before."""
    key = _read(store, record.id, record.name or record.id, record.recipe, found).hex()

    def take(facts: BatchFacts) -> BatchFacts:
        keys = (key, *(one for one in facts.keys if one != key))
        return replace(facts, keys=keys, claimed_in=store.url)

    before, _ = outbox.batches.change(record.id, take)
    if key not in before.keys:
        outbox.results.reread(record.id)  # what did not count may count by this key


def _read(store: Store, batch: str, label: str, recipe: bytes, found: bytes) -> bytes:
    """Return the key of a claim, if that is of the same templates."""
    try:
        fields = orjson.loads(found)
        theirs, key = bytes.fromhex(fields["recipe"]), bytes.fromhex(fields["key"])
    except (KeyError, TypeError, ValueError):
        theirs = key = b""
    if len(key) != _KEY_SIZE:
        raise StoreError(
            f"the claim of batch {batch} is damaged",
            resource=store.url,
            hint="batch.whole.delete(others=True) removes it, and the rows of other homes; any new name sends all",
        )
    if theirs != recipe:
        raise BatchExistsError(
            f"the batch {label} was made of other templates in another home that shares {store.url}",
            resource=batch,
            hint="no row was sent from here; any new name sends all",
        )
    return key


_LISTINGS = 10  # until an object that is listed and does not exist counts as one that cannot be read
_TOGETHER = 1 << 22  # bytes that are read together
_LONGEST = 1 << 26  # bytes of a line
_FEW, _MOST = 10, 1_000  # objects in a pack
_PACK_SIZE = 1 << 23  # bytes
#: What the names of packs begin with. They sort behind those of handlers, which are hexadecimal: a bucket lists its
#: objects in order, so whoever misses one that is deleted during the listing finds the pack behind it.
_PACK = "p"


class Answers(NamedTuple):
    """What tasks have come to, by task."""

    results: dict[str, Any]  #: of those that have succeeded
    errors: dict[str, str]  #: of those that have not


class StoredResults:
    """The results of a batch.

    `sync` reads the store, and the home answers what else is asked for. It is safe to use from several threads.

    Parameters
    ----------
    store : Store
        Where the handlers of the batch store results.
    """

    def __init__(self, outbox: Outbox, store: Store, batch: str) -> None:
        self._outbox = outbox
        self._results = outbox.results
        self._store, self._batch = store, batch
        self._root = f"results/{batch}/"

    def sync(self, *, failures: bool = False, progress: Callable[[int], None] = lambda _: None) -> StoreError | None:
        """Bring what is new in the store into the home; return why objects could not be read: the others were.

        Parameters
        ----------
        failures : bool
            Only results that are no successes.
        progress : callable
            Called with the number of results that were read.

        Raises
        ------
        StoreError
            If the store cannot be listed.
        """
        keys, done, again, most = self._keys(), 0, 0, _TOGETHER
        while keys:  # else nobody has sent the batch
            known = self._results.sizes(self._batch, FAILURES if failures else "")
            listed, one = set[str](), _Pass(most)
            for page in result_objects(self._store, self._batch, failures=failures):
                names = [path.removeprefix(self._root) for path, _ in page]
                listed.update(names)
                starts = [known.get(name, 0) for name in names]
                new = [
                    Range(path, start, size) for start, (path, size) in zip(starts, page, strict=True) if size > start
                ]
                for ranges in _groups(new, most):
                    parts = list(self._read(ranges, keys, one))
                    self._results.add(self._batch, parts)
                    done += sum(len(part.lines) for part in parts)
                    progress(done)
            if not failures and (gone := known.keys() - listed):
                self._results.forget(self._batch, gone)
            if one.bad and (newer := self._keys(again=True)) != keys:
                keys = newer
                # Once more, as another thread may have learned them before these lines were stored.
                self._results.reread(self._batch)
                continue
            again += one.missing is not None
            most = _LONGEST if one.long else _TOGETHER
            if not (one.more or one.long) and (one.missing is None or again > _LISTINGS):
                return one.unreadable or one.missing
        return None

    def bring(self, progress: Callable[[int], None] = lambda _: None) -> str | None:
        """Bring new results into the home, as `sync`; return why some may be missing."""
        unreadable = self.sync(progress=progress)
        return self.problem() if unreadable is None else f"objects could not be read: {unreadable.message}"

    def read(self, tasks: Sequence[str], after: int = 0) -> list[StoredResult | None]:
        """Return the results of tasks that the home has, in the order of the tasks; None for a task without one.

        Of those that are no successes only the ones behind a number.
        """
        found = {task: _result(fields, value) for task, fields, value, _ in self._results.of(self._batch, tasks, after)}
        return [found.get(task) for task in tasks]

    def answers(self, tasks: Sequence[str]) -> Answers:
        """Return what an analyst sees of the results that `read` returns, in a fifth of the time."""
        found = self._results.of(self._batch, tasks)
        values = parse_json(f"[{','.join(value for *_, value, ok in found if ok)}]")
        succeeded = [task for task, *_, ok in found if ok]
        types = [parse_json(fields).get("types") if _TYPES in fields else None for _, fields, _, ok in found if ok]
        values = [one if kind is None else restore(one, kind) for one, kind in zip(values, types, strict=True)]
        return Answers(
            results=dict(zip(succeeded, values, strict=True)),
            errors={task: _error(fields) for task, fields, _, ok in found if not ok},
        )

    def all(self) -> Iterator[list[StoredResult]]:
        """Yield all results that the home has, without their values, page by page."""
        after = ""
        while page := self._results.page(self._batch, after):
            yield [_result(fields) for _, fields in page]
            after = page[-1][0]

    def given_up(self, after: int) -> list[tuple[int, StoredResult]]:
        """Return some results of functions that gave up with their numbers, as they came: those behind a number."""
        return [(number, _result(fields)) for number, fields in self._results.given_up(self._batch, after)]

    def problem(self) -> str | None:
        """Return what was read that does not count, and why; None: all of it counts."""
        if not (bad := self._results.bad(self._batch)):
            return None
        lines = "1 line in objects there is no result" if bad == 1 else f"{bad:,} lines in objects there are no results"
        return f"{lines} of this batch: damaged, or not written by its handler"

    def pack(self) -> bool:
        """Put what many small objects of a bucket hold into one new object, then delete them; return whether it did.

        Several homes may do so at once: some lines are in two packs then. Objects that were not read here stay, and
        those with lines that do not count.

        Raises
        ------
        CloudTasksError
            If the bucket cannot be read or written. Nothing is lost, and this home packs no more of this batch.
        """
        if self._store.appends or self._outbox.batches.facts(self._batch).keeps_objects:
            return False
        try:
            return any(self._pack(folder, self._small(folder)) for folder in ("", FAILURES))
        except StoreError:
            self._outbox.batches.change(self._batch, lambda facts: replace(facts, keeps_objects=True))
            raise

    def _small(self, folder: str) -> dict[str, int]:
        """Return names and sizes of objects that a pack has room for, which are no packs."""
        found, size = dict[str, int](), 0
        for name, more in self._results.sizes(self._batch, good=True).items():
            own, slash, last = name.rpartition("/")
            fits = size + more <= _PACK_SIZE and len(found) < _MOST
            if own + slash == folder and not last.startswith(_PACK) and fits:
                found[name] = more
                size += more
        return found

    def _pack(self, folder: str, sizes: Mapping[str, int]) -> bool:
        if len(sizes) < _FEW:
            return False
        packed, gone = dict[str, bytes](), list[str]()
        contents = self._store.get_ranges([Range(self._root + name, 0, None) for name in sizes])
        for (name, size), data in zip(sizes.items(), contents, strict=True):
            if isinstance(data, StoreError):
                raise data
            if data is None:  # another home has packed it
                gone.append(name)
            elif len(data) == size:  # else it is being read
                packed[name] = data if data.endswith(b"\n") else data + b"\n"
        if packed:
            self._replace(list(packed), f"{folder}{_PACK}{secrets.token_hex(8)}.jsonl", b"".join(packed.values()))
        self._results.forget(self._batch, [*packed, *gone])
        return bool(packed or gone)

    def _replace(self, names: Sequence[str], pack: str, data: bytes) -> None:
        """Put a pack in place of objects."""
        path = self._root + pack
        self._store.create(path, data)
        if self._store.get(path) != data:
            raise StoreError(f"{path} is not what was written to {self._store.url}", resource=self._store.url)
        try:
            self._results.add(self._batch, [ReadPart(pack, 0, len(data), 0, ())])
        except BatchNotFoundError:  # it was deleted meanwhile
            self._store.delete([path])
            raise
        self._store.delete([self._root + name for name in names])

    def _keys(self, *, again: bool = False) -> tuple[bytes, ...]:
        """Return the keys that the tags of the batch's tasks are made with."""
        return batch_keys(self._outbox, self._store, self._batch, again=again)

    def _read(self, ranges: Sequence[Range], keys: Sequence[bytes], one: _Pass) -> Iterator[ReadPart]:
        """Yield what parts of objects hold."""
        for asked, data in zip(ranges, self._store.get_ranges(ranges), strict=True):
            if data is None:
                problem = f"{asked.path} is listed in {self._store.url}, and does not exist"
                one.missing = StoreError(problem, resource=self._store.url)
            elif isinstance(data, StoreError):
                one.unreadable = data
            else:
                size, end = (asked.end or 0) - asked.start, data.rfind(b"\n") + 1  # of the last line that is whole
                part = size == one.most
                # An object of a bucket is complete. A longer line is no result.
                if (part and not end and size == _LONGEST) or not (part or self._store.appends):
                    end = len(data)
                one.more |= part and end > 0
                one.long |= part and not end
                texts = [text for text in data[:end].split(b"\n") if text]
                lines = [line for text in texts if (line := self._line(text, keys)) is not None]
                one.bad |= len(lines) < len(texts)
                name = asked.path.removeprefix(self._root)
                if end:
                    yield ReadPart(name, asked.start, asked.start + end, len(texts) - len(lines), lines)

    def _line(self, text: bytes, keys: Sequence[bytes]) -> Line | None:
        """Return a result of a task of the batch; None for a line that is something else."""
        try:
            fields = parse_json(text)
            result = result_of(fields)
            value = _json(fields.pop("result", None))
            batch = batch_of(result.task)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        proven = result.tag in [tag_of(key, result.task) for key in keys]
        return Line(result.task, *result.rank, _json(fields), value) if proven and batch == self._batch else None


def _result(fields: str, value: str = "null") -> StoredResult:
    return replace(result_of(parse_json(fields)), result=parse_json(value))


def _error(fields: str) -> str:
    found = parse_json(fields)
    return message_of(found.get("error"), found.get("gave_up")) or ""


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers of more than 64 bits
        return json.dumps(value, allow_nan=False)


@dataclass(slots=True)
class _Pass:
    """What a listing, and the reading of what was new in it, have shown."""

    most: int  #: bytes that are read together
    missing: StoreError | None = None  #: an object was deleted after its listing
    unreadable: StoreError | None = None
    more: bool = False  #: an object has more than was read
    long: bool = False  #: a line is longer than that
    bad: bool = False  #: lines do not count, by the keys that are known


def _groups(ranges: Sequence[Range], most: int) -> Iterator[list[Range]]:
    """Yield parts of objects that are read together; of one that has more bytes only its beginning."""
    group, size = list[Range](), 0
    for path, start, whole in ranges:
        end = min(whole or 0, start + most)
        if group and size + end - start > most:
            yield group
            group, size = [], 0
        group.append(Range(path, start, end))
        size += end - start
    if group:
        yield group

"""What becomes of rows: evidence that is added, new tries; and how many rows failed, are tried again or are gone, why.

A cause is shown with a text that tells it from the others of its batch, everywhere the same. If the traceback is known,
that is the message of the first of its rows, in input order. What is stored of a row is the cause's key, which never
changes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from sqlite3 import Connection
from typing import Any, TypeAlias

from cloudtasks_nb._names import CODES, code_name
from cloudtasks_nb.fanout.causes import NO_STATUS, Fault, kind_of, one_line, shortened
from cloudtasks_nb.fanout.evidence import RAISED, Evidence, Row, Source, fold
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import Repository, reading, snapshot, transaction
from cloudtasks_nb.fanout.outbox.records import BatchFacts, Choice, Scope, change_facts
from cloudtasks_nb.fanout.outbox.rows import located
from cloudtasks_nb.fanout.states import BY_ATTEMPT, FINAL, OPEN, State

__all__ = ["LIKE_IT", "MOST_CAUSES", "Cause", "Causes", "Outcomes", "Recorded", "Span", "Wanted", "stored_key"]

#: Rows of a batch: all if it is None, those that a choice has, or these, each with the task that has to be its newest.
Wanted: TypeAlias = Iterable[tuple[int, str | None]] | Choice | None

#: The most causes that are counted for a batch; of further messages only the type of the exception counts.
MOST_CAUSES = 1_000

_PAGE = 1_000

_COLUMNS = ("try", *Row._fields[2:])
_READ = ", ".join(("ref", *_COLUMNS))
_WRITE = f"UPDATE rows SET {', '.join(f'{column} = ?' for column in _COLUMNS)} WHERE ref = ?"
_FORGET = ", ".join(f"{column} = NULL" for column in Row._fields[3:])

#: The end of `Cause.words` of several rows.
LIKE_IT = re.compile(r" … and [\d,]+ like it$")

_LONGEST = 100  # characters of a message that is the text of a cause

# A number for each row from 0 to 2^32: so evenly spread that the rows below a bound are a sample of all, also of those
# that are the same in every seventh row.
_SPREAD = "((ref & 4294967295) * 2654435761 & 4294967295)"
_MOST = 1 << 32
_SPANS, _SECOND = 24, 1_000_000  # of the time in which rows failed; a second is the shortest

# The rows that a choice has, whose fields are the values.
_CHOSEN = f"""({sql.CAUSE} IN (SELECT value FROM json_each(:causes))
    OR (status IN (SELECT value FROM json_each(:statuses)) AND http IS NOT {RAISED})
    OR http IN (SELECT value FROM json_each(:http))
    OR (http IS NULL AND status IN (SELECT value FROM json_each(:assumed))))"""


@dataclass(slots=True)
class Recorded:
    """What evidence has changed."""

    ended: set[int] = field(default_factory=set)  #: rows that became final, or have another final state
    newer: int = 0  #: how many are in a newer try than was known
    unsent: int = 0  #: how many were not known to be sent
    ends: Counter[int] = field(default_factory=Counter)  #: rows that ended by an attempt, by the second of its end
    failed: int | None = None  #: the second in which the last attempt ended that failed
    succeeded: int | None = None  #: the second in which the last row ended that has succeeded
    #: Tasks whose newest attempt failed without a word of its handler, and whether they are final.
    unexplained: dict[str, bool] = field(default_factory=dict)


class Outcomes(Repository):
    """What became of the rows' tasks."""

    @transaction
    def record(self, connection: Connection, batch: str, evidence: Iterable[Evidence]) -> Recorded:
        """Add evidence of tasks to what is stored of their rows, as `fold` decides.

        Rows that were final and are corrected by the log are counted in `BatchFacts.corrected`; that rows were sent by
        another home is stored in `BatchFacts.sent_by_others`.
        """
        num, recorded, corrected = sql.number_of(connection, batch), Recorded(), 0
        for page in sql.paged(evidence, _PAGE):
            corrected += _record_page(connection, batch, num, page, recorded)
        begun = sql.number(connection, "SELECT begun FROM batches WHERE num = ?", (num,))
        others = recorded.newer > 0 or (recorded.unsent > 0 and not begun)  # else this home has sent them
        if corrected or others:

            def change(facts: BatchFacts) -> BatchFacts:
                sent_by_others = facts.sent_by_others or others
                return replace(facts, corrected=facts.corrected + corrected, sent_by_others=sent_by_others)

            change_facts(connection, num, change)
        sql.touch(connection, num)
        return recorded

    @transaction
    def new_try(
        self, connection: Connection, scope: Scope, rows: Wanted = None, allowed: Collection[State] = (State.FAILED,)
    ) -> int:
        """Open a new try for rows that are in one of the allowed states; return how many will be sent again.

        Parameters
        ----------
        rows : iterable of (ref, task id or None), or Choice, optional
            All rows of the scope when left out. With a task id, a row is only taken if that is its newest task, so
            that the same call twice, or from two kernels, sends once.
        allowed : collection of State
            Unsent and sent rows are never taken.
        """
        states = {*FINAL} & {*allowed}
        num = sql.number_of(connection, scope.batch)
        change = f"try = try + 1, state = {State.UNSENT:d}, {_FORGET}"
        # A row without any try is no valid task, and never becomes one.
        condition = f"""try > 0 AND state IN ({sql.in_sql(states)})
                        AND ref >> 32 IN (SELECT first >> 32 FROM spans WHERE scope = {num})"""
        pages = sql.paged(_wanted_rows(connection, scope, states, rows), _PAGE)
        opened = sum(sql.update(connection, page, change, condition) for page in pages)
        if opened:
            connection.execute("UPDATE batches SET round = round + 1 WHERE num = ?", (num,))
            sql.touch(connection, num)
        return opened

    @reading
    def elsewhere(self, connection: Connection, scope: Scope, states: Collection[State], rows: Wanted = None) -> int:
        """Return how many rows in some states only another home has rendered; `rows` are as for `new_try`."""
        if not sql.has_elsewhere(connection, sql.number_of(connection, scope.batch)):
            return 0
        query = f"SELECT count(*) FROM rows WHERE {sql.AMONG} AND elsewhere AND state IN ({sql.in_sql(states)})"
        pages = sql.paged(_wanted_rows(connection, scope, states, rows), _PAGE)
        return sum(sql.number(connection, query, (sql.as_json(page),)) for page in pages)

    @transaction
    def raise_round(self, connection: Connection, batch: str, least: int) -> None:
        """Bring the round of a batch to a number, if it is lower."""
        sql.select(connection, "UPDATE batches SET round = max(round, :least) WHERE num = :num", batch, least=least)


def _record_page(connection: Connection, batch: str, num: int, page: Sequence[Evidence], recorded: Recorded) -> int:
    """Add some evidence; return how many rows were final and have another state by the log."""
    rows = located(connection, batch, dict.fromkeys(news.task for news in page), _READ, any_try=True)
    found = {task: Row._make(row) for task, row in rows}
    before = {row.ref: row for row in found.values()}
    told = {cause for news in page if news.task in found and news.message and (cause := news.cause)}
    causes = _kept(connection, num, told)
    after, corrected = dict(before), 0
    for news in page:
        if news.task in found:
            row = after[found[news.task].ref]
            new = after[row.ref] = fold(row, news, int(news.task.rpartition("-")[2]), causes.get(news.cause))
            other = new.state != row.state and new.tries == row.tries
            corrected += other and row.state in FINAL and news.source is Source.LOG
            newest = news.source is Source.LOG and news.attempts == new.attempts
            if newest and new.status and not (new.heard or 0) & Source.RESULTS:
                recorded.unexplained[news.task] = new.state in FINAL
    changed = [(row, before[ref]) for ref, row in after.items() if row is not before[ref]]
    connection.executemany(_WRITE, [(*row[1:], row.ref) for row, _ in changed])
    moved = Counter(_counted(row) for row, _ in changed)
    moved.subtract(_counted(old) for _, old in changed)
    sql.adjust(connection, moved)
    recorded.ended |= {row.ref for row, old in changed if row.state in FINAL and row.state != old.state}
    recorded.newer += sum(row.tries > old.tries for row, old in changed)
    recorded.unsent += sum(old.state == State.UNSENT or row.tries > old.tries for row, old in changed)
    for row, old in changed:
        if row.began is not None and row.status is not None:
            second = (row.began + (row.duration or 0)) // 1_000_000  # in which the last attempt ended
            if row.state != old.state and row.state in BY_ATTEMPT:
                recorded.ends[second] += 1
            if row.status or row.state == State.FAILED:
                recorded.failed = max(recorded.failed or 0, second)
            elif row.state == State.SUCCEEDED:
                recorded.succeeded = max(recorded.succeeded or 0, second)
    return corrected


def _counted(row: Row) -> tuple[int, int, int | str]:
    """Return what the tallies count a row as, as `counted` does in SQL, which would make recording a tenth slower."""
    more: int | str | None = None
    if row.state == State.GONE:
        more = row.reason
    elif row.state == State.FAILED or (row.status and row.state in OPEN):
        more = row.cause if row.current and row.cause is not None else row.status
    return row.ref >> 32, row.state, "" if more is None else more


def _kept(connection: Connection, num: int, new: set[str]) -> dict[str | None, str | None]:
    """Return what each cause is counted under: once a batch has `MOST_CAUSES`, a new one under its exception."""
    if not new:
        return {}
    query = f"SELECT DISTINCT cause FROM {sql.TALLIES} AND typeof(cause) = 'text'"
    counted = {*sql.firsts(connection, query, {"num": num})}
    room = max(0, MOST_CAUSES - len(counted))
    kept = (new & counted) | set(sorted(new - counted)[:room])
    return {cause: cause if cause in kept else kind_of(cause) for cause in new}


def _wanted_rows(connection: Connection, scope: Scope, states: Collection[State], rows: Wanted) -> Iterator[int]:
    """Yield the refs of the rows that `Outcomes.new_try` means; in other states than these perhaps, if they are given.

    They are read a page at a time, as the caller changes them.
    """
    if rows is not None and not isinstance(rows, Choice):
        for given in sql.paged(rows, _PAGE):
            newest = dict(located(connection, scope.batch, (task for _, task in given if task is not None), "ref"))
            yield from (ref for ref, task in given if task is None or newest.get(task) == (ref,))
        return
    condition = "" if rows is None else f"AND {_CHOSEN}"
    query = f"""SELECT ref FROM {sql.ROWS} AND state IN ({sql.in_sql(states)}) {condition}
                ORDER BY first, ref LIMIT {_PAGE}"""
    values = sql.values(connection, scope, **({} if rows is None else _choice(rows)))
    while page := sql.firsts(connection, query, values):
        yield from page
        values["start"] = page[-1] + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of failures, and how many rows have it."""

    key: str  #: which cause it is, as `stored_key` reads it
    text: str  #: as it is shown; of those with a `where` the message of the first row
    kind: str  #: the type of the exception, or the status
    where: str | None  #: the line of the user's code: ``report, cell [1] line 12``
    failed: int
    retrying: int  #: their last attempt failed, and they are tried again

    def words(self, rows: int) -> str:
        """Return how the cause of so many rows is shown: if the text is the message of one, with "… and 11 like it"."""
        if self.where is None or rows == 1:
            return self.text
        return f"{self.text.removesuffix('…').rstrip()} … and {rows - 1:,} like it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When the rows of a cause failed."""

    first: int | None  #: when the first of their last attempts began, microseconds since 1970
    last: int | None
    ref: int  #: of the first row in input order
    #: Rows in each of equal spans of time, from the first failure of all causes to the last.
    counts: tuple[int, ...] = ()


class Causes(Repository):
    """Why rows of the batches of an outbox failed."""

    @reading
    def found(self, connection: Connection, rows: Scope) -> list[Cause]:
        """Return the causes of failed rows and of those that are tried again, the most frequent first.

        Reads tallies, and one row of each cause whose traceback is known.
        """
        failed = dict(_numbers(connection, rows, State.FAILED))
        retrying = {cause: n for cause, n in _numbers(connection, rows, *OPEN) if cause != ""}
        texts = _texts(connection, rows, {**failed, **retrying})
        often = Counter(texts.values())
        found = [
            _cause(stored, text, failed.get(stored, 0), retrying.get(stored, 0), alone=often[text] == 1)
            for stored, text in texts.items()
        ]
        return sorted(found, key=lambda one: (-one.failed - one.retrying, one.text))

    def failed(self, rows: Scope) -> dict[str, int]:
        """Return how many failed rows have which cause, in words, the most frequent first. Reads as `found`."""
        return _sorted({one.words(one.failed): one.failed for one in self.found(rows)})

    def retrying(self, rows: Scope) -> dict[str, int]:
        """Return how many rows that are tried again have which cause, as `failed`."""
        return _sorted({one.words(one.retrying): one.retrying for one in self.found(rows)})

    @reading
    def of_message(self, connection: Connection, rows: Scope, text: str) -> list[str]:
        """Return the keys of the causes of which one row has a message that would be shown as this text."""
        failing = f"{sql.ROWS} AND {sql.FAILING} AND instr({sql.CAUSE}, char(10))"
        query = f"SELECT DISTINCT {sql.CAUSE}, {sql.MESSAGE} FROM {failing}"
        found = sql.select(connection, query, rows)
        return list(dict.fromkeys(_key(stored) for stored, message in found if _first_line(message) == text))

    @reading
    def lost(self, connection: Connection, rows: Scope) -> dict[str | None, int]:
        """Return how many gone rows left their queue how, the most frequent first; None: that is not known."""
        return {cause or None: n for cause, n in _numbers(connection, rows, State.GONE)}

    @reading
    def spans(self, connection: Connection, rows: Scope) -> dict[str, Span]:
        """Return when the rows of each cause failed, by its key. Reads all rows twice, in constant memory."""
        return snapshot(connection, _spans, connection, rows)

    def sample(self, rows: Scope, share: float) -> list[int]:
        """Return the refs of a share of the rows, evenly spread, in input order."""
        query = f"SELECT ref FROM {sql.ROWS} AND {_SPREAD} < :bound ORDER BY first, ref"
        return self._firsts(query, rows, bound=round(share * _MOST))

    @reading
    def samples(self, connection: Connection, rows: Scope, shares: dict[str, float]) -> dict[str, list[int]]:
        """Return the refs of a share of the rows of some causes, by their keys, as `sample`; all rows are read once."""
        found: dict[str, list[int]] = {key: [] for key in shares}
        bounds = {stored_key(key): round(share * _MOST) for key, share in shares.items()}
        named = {f"cause{at}": key for at, key in enumerate(bounds)}
        whens = " ".join(f"WHEN :cause{at} THEN {bound:d}" for at, bound in enumerate(bounds.values()))
        query = f"""SELECT {sql.CAUSE}, ref FROM {sql.ROWS} AND {sql.FAILING}
                    AND {_SPREAD} < CASE {sql.CAUSE} {whens} ELSE 0 END ORDER BY first, ref"""
        for stored, ref in sql.select(connection, query, rows, **named) if shares else ():
            found[_key(stored)].append(ref)
        return found

    def matching(self, rows: Scope, choice: Choice) -> int:
        """Return how many failed rows a choice has."""
        query = f"SELECT count(*) FROM {sql.ROWS} AND state = {State.FAILED:d} AND {_CHOSEN}"
        return self._number(query, rows, **_choice(choice))


def _spans(connection: Connection, rows: Scope) -> dict[str, Span]:
    grouped, values = f"FROM {sql.ROWS} AND {sql.FAILING} GROUP BY 1", sql.values(connection, rows)
    query = f"SELECT {sql.CAUSE}, min(began), max(began), min(ref) {grouped}"
    found = connection.execute(query, values).fetchall()
    low = min((first for _, first, _, _ in found if first is not None), default=0)
    high = max((last for _, _, last, _ in found if last is not None), default=0)
    width = max((high - low) // _SPANS + 1, _SECOND)
    counts = {stored: [0] * ((high - low) // width + 1) for stored, *_ in found}
    query = f"SELECT {sql.CAUSE}, (began - {low:d}) / {width:d}, count(*) {grouped}, 2"
    for stored, place, count in connection.execute(query, values):
        if place is not None:  # else nobody knows when
            counts[stored][place] = count
    return {
        _key(stored): Span(first=first, last=last, ref=ref, counts=tuple(counts[stored]))
        for stored, first, last, ref in found
    }


def _choice(choice: Choice) -> dict[str, str]:
    """Return the values of `_CHOSEN`."""
    return {one.name: sql.as_json(getattr(choice, one.name)) for one in fields(Choice)}


def stored_key(key: str) -> str | int:
    """Return the key of a cause as the outbox stores it with a row."""
    if key in CODES:
        return CODES.index(key)
    return "" if key == NO_STATUS else key


def _key(stored: int | str) -> str:
    return code_name(stored) if isinstance(stored, int) else stored or NO_STATUS


def _texts(connection: Connection, rows: Scope, stored: Iterable[int | str]) -> dict[int | str, str]:
    """Return how causes are shown, each if no other one has the same text."""
    failing = f"{sql.FAILING} AND cause IS NOT NULL AND {sql.CAUSE} = :stored"  # as the index `causes` has them
    query = f"SELECT {sql.MESSAGE} FROM {sql.ROWS} AND {failing} ORDER BY first, ref LIMIT 1"
    values, texts = sql.values(connection, rows), dict[int | str, str]()
    for one in stored:
        texts[one] = _key(one)
        if fault := Fault.parse(one):
            found = sql.firsts(connection, query, values | {"stored": one})
            texts[one] = "".join(map(_first_line, found)) or f"{fault.kind}: …"
    return texts


def _first_line(message: str | None) -> str:
    return shortened(one_line(message or ""), _LONGEST).strip()


def _cause(stored: int | str, text: str, failed: int, retrying: int, *, alone: bool) -> Cause:
    fault = Fault.parse(stored)
    if fault is not None and not alone:
        text += f" ({fault.status}, {fault.place})" if fault.status else f" ({fault.place})"
    kind, where = (text.partition(":")[0], None) if fault is None else (fault.kind, fault.place)
    return Cause(key=_key(stored), text=text, kind=kind, where=where, failed=failed, retrying=retrying)


def _numbers(connection: Connection, rows: Scope, *states: int) -> list[tuple[Any, int]]:
    """Return the causes of the rows in some states and their numbers, the most frequent first."""
    found: Counter[Any] = Counter()
    for state, cause, n in sql.tallied(connection, rows):
        if state in states:
            found[cause] += n
    return found.most_common()


def _sorted(numbers: dict[str, int]) -> dict[str, int]:
    """Return the numbers that are not 0, the largest first."""
    return dict(sorted(((text, n) for text, n in numbers.items() if n), key=lambda one: (-one[1], one[0])))

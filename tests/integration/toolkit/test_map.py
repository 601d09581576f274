"""`queue.map`: from a function and data to the results, in one call."""

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb.client.mapping import callee, rows_for
from cloudtasks_nb.fanout.batch.live import Card
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.view import BatchView
from cloudtasks_nb.handlers import serving
from tests.cases import cases
from tests.processes import run

ACCOUNT = "caller@demo.iam.gserviceaccount.com"


def half(n: int, by: int = 2) -> dict[str, float]:
    """Raise for zero."""
    return {"half": n / by, "inverse": 1 / n}


def test_a_function_over_rows(queue: ct.Queue) -> None:
    """The frame has the input's index and columns; a row that failed does not raise."""
    found = queue.map(half, pd.DataFrame({"n": [2, 0], "by": [4, 4]}, index=["a", "b"]))
    assert found.index.tolist() == ["a", "b"]
    assert [*found.columns] == ["n", "by", "state", "half", "inverse", "error"]
    assert found["state"].tolist() == ["succeeded", "failed"]
    assert (found.loc["a", "half"], found.loc["b", "error"]) == (0.5, "ZeroDivisionError: division by zero")


def formulas(calls: list[int]) -> list[Callable[[int], int]]:
    """Return a function before and after it was edited."""

    def first() -> Callable[[int], int]:
        def times(n: int) -> int:
            calls.append(n)
            return 2 * n

        return times

    def second() -> Callable[[int], int]:
        def times(n: int) -> int:
            calls.append(n)
            return 3 * n

        return times

    return [first(), second()]


def test_rows_of_an_earlier_version_are_computed_again(queue: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever edits a cell wants the new result, unless they say that it is to be kept; each version runs once."""
    calls = list[int]()
    old, new = formulas(calls)
    for fn, words, expected in [(old, {}, 2), (new, {"stale": "keep"}, 2), (new, {}, 3), (new, {}, 3)]:
        assert queue.map(fn, [1, 2], **words)["result"].tolist() == [expected, 2 * expected]  # type: ignore[arg-type]
    assert sorted(calls) == [1, 1, 2, 2]
    said = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    kept, again = said  # nobody has a `batch` here
    assert kept.endswith('computed by an earlier version of times: stale="resend" computes them again')
    assert again == 'computing 2 rows again; stale="keep" keeps them'
    with pytest.raises(errors.InvalidInputError, match="stale='old'"):
        queue.map(new, [1, 2], stale="old")  # type: ignore[arg-type]


def test_a_function_that_changes_all_the_time(queue: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is computed again twice at most, then a line says which are of an earlier version, and why."""
    calls = list[int]()

    def version(number: int) -> Callable[..., int]:
        def times(n: int) -> int:
            calls.append(n)
            ct.serve(version(len(calls)))
            return number

        return times

    frame = queue.map(version(0), [1])
    assert (calls, frame["state"].tolist()) == ([1, 1, 1], ["succeeded"])
    assert "1 of these rows was computed by an earlier version of times: computing it again twice did" in said(capsys)


def flaky(mended: threading.Event) -> Callable[[int], int]:
    """Return a function that fails for a number until its service is mended."""

    def once(n: int) -> int:
        if n == 2 and not mended.is_set():
            raise ValueError(n)
        return n

    return once


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed since the last time."""
    return "".join(capsys.readouterr())


def test_known_rows_are_told_by_the_card_alone(
    tasks: ct.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that were computed before print nothing: the card says how many these were."""
    queue, shown, draw = tasks.queue("quiet", create=True), list[str](), Card.draw

    def drawn(card: Card) -> Progress:
        shown.append(card._view.report().text())
        return draw(card)

    def double(n: int) -> int:
        return 2 * n

    queue.map(double, [1, 2, 3])
    capsys.readouterr()
    monkeypatch.setattr(Card, "draw", drawn)
    frame = queue.map(double, range(10))
    assert frame["result"].tolist() == [2 * n for n in range(10)]
    assert "already" not in said(capsys)
    assert "3 of 10 rows were computed before" in shown[-1]


def test_failed_rows_are_sent_again(tasks: ct.Client, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On demand; a frame with failed rows finds its batch, and the cell says what sends them again."""
    queue, mended = tasks.queue("once", create=True, max_attempts=1), threading.Event()
    fn = flaky(mended)
    frame = queue.map(fn, [1, 2, 3])
    found = re.search(r'1 did not succeed: batch = tasks\.batch\("(\w{8})"\) finds', said(capsys))
    assert found is not None
    assert frame.attrs["batch"] == found[1] == tasks.batch(found[1]).id
    assert frame["state"].tolist() == ["succeeded", "failed", "succeeded"]
    mended.set()
    assert queue.map(fn, [1, 2, 3])["state"].tolist() == ["succeeded", "failed", "succeeded"]
    assert 'nothing new to send; 1 failed is left: failed="resend" sends it again' in said(capsys)
    again = queue.map(fn, [1, 2, 3], failed="resend")
    assert again["result"].tolist() == [1, 2, 3]
    assert tasks.batch(found[1]).tasks()["try"].tolist() == [1, 2, 1]
    assert "tasks.batch(" not in said(capsys)
    pd.concat([frame, again.copy()]).to_parquet(tmp_path / "frames.parquet")
    with pytest.raises(errors.InvalidInputError, match="failed='all'"):
        queue.map(fn, [1], failed="all")  # type: ignore[arg-type]


def test_what_is_shown_names_no_variable_that_the_reader_lacks(
    tasks: ct.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has a `batch` beside a cell of `map`: what helps is found by its id."""
    shown, wait = list[str](), BatchView.wait

    def waited(view: BatchView, card: Card) -> Progress:
        ended = wait(view, card)
        shown.append(view.report(drawn=True).text())
        return ended

    monkeypatch.setattr(BatchView, "wait", waited)
    frame = tasks.queue("once", create=True, max_attempts=1).map(half, [0])
    (text,), batch = shown, frame.attrs["batch"]
    assert text.endswith(f'→ tasks.batch("{batch}").retry_failed()')
    assert repr(tasks.batch(batch)).endswith("→ batch.retry_failed()")


@cases(({"stale": "keep", "failed": "resend"}, [2]), ({}, [1, 2, 3]))
def test_only_failed_rows_of_an_edited_function(
    tasks: ct.Client, capsys: pytest.CaptureFixture[str], options: Any, computed: list[int]
) -> None:
    """The line about rows that are computed again shows the cheap way, which pays for the failed rows alone."""
    queue, calls = tasks.queue("once", create=True, max_attempts=1), list[int]()

    def edited() -> Callable[[int], float]:
        def inverse(n: int) -> float:
            calls.append(n)
            return float(n)

        return inverse

    def inverse(n: int) -> float:
        return 1 / (n - 2)

    queue.map(inverse, [1, 2, 3])
    said(capsys)
    assert queue.map(edited(), [1, 2, 3], **options)["state"].tolist() == ["succeeded"] * 3
    assert sorted(calls) == computed
    cheap = 'computing 3 rows again; stale="keep", failed="resend" computes only the 1 that failed'
    assert (cheap in said(capsys)) == (not options)


@cases((len, ["abc", ""], [3, 0]), (str.upper, pd.Series(["a"]), ["A"]), (int, ["7"], [7]), (abs, [-1, 2], [1, 2]))
def test_functions_whose_parameters_have_no_names(queue: ct.Queue, fn: Any, data: Any, results: list[Any]) -> None:
    """The value itself is sent."""
    assert queue.map(fn, data)["result"].tolist() == results


def test_two_values_for_a_function_without_names(queue: ct.Queue) -> None:
    """The hint is followed."""
    with pytest.raises(errors.InvalidInputError, match="divmod") as caught:
        queue.map(divmod, [7])
    assert caught.value.hint == 'ct.serve(lambda x, y: divmod(x, y), name="divmod") has parameters with names'
    named = ct.serve(lambda x, y: divmod(x, y), name="divmod")  # noqa: PLW0108 - it is the hint
    assert queue.map(named, [{"x": 7, "y": 2}])["result"].tolist() == [(3, 1)]


def test_results_are_mapped_again(queue: ct.Queue) -> None:
    """The index that we have named is no argument, unless the function wants it; stage two has it as its index."""
    first = queue.map(half, [2, 4])
    assert first.index.name == "row"
    inverse = first[["inverse"]]
    second = queue.map(lambda inverse: 1 / inverse, inverse, name="two")
    assert (second.index.name, second["result"].tolist()) == ("row", [2.0, 4.0])
    assert queue.map(lambda **row: sorted(row), inverse, name="all")["result"].tolist() == [["inverse"]] * 2
    found = queue.map(lambda row, inverse: [row, inverse], inverse, name="row")
    assert found["result"].tolist() == [[0, 0.5], [1, 0.25]]


SERIES = pd.Series([1, 2], index=["x", "y"], name="other")
FRAME = pd.DataFrame({"n": [1, 2]})
LAZY = pl.LazyFrame({"n": [1]})
RECORDS = np.array([(1, 2.0)], dtype=[("n", "i8"), ("by", "f8")])  # which `fan_out` refuses, and says what would do


@cases(
    (SERIES, FRAME.set_axis(["x", "y"])),
    (np.array([1, 2]), FRAME),
    (pd.Index([1, 2]), FRAME),
    (pd.array([1, 2], dtype="Int64"), FRAME.astype("Int64")),
    (pa.array([2**60 + 1, None]), [{"n": 2**60 + 1}, {"n": None}]),
    (range(1, 3), [{"n": 1}, {"n": 2}]),
    (([1, 2], None), [{"n": [1, 2]}, {"n": None}]),
    ([], FRAME[:0].astype(object)),
    ([{"n": 1}], [{"n": 1}]),
    ([FRAME], [FRAME]),
    ("rows.csv", "rows.csv"),
    (RECORDS, RECORDS),
    (LAZY, LAZY),
)
def test_values_become_the_column_of_the_first_parameter(data: Any, rows: Any) -> None:
    """Rows, frames and paths stay what they are."""
    found = rows_for(half, data)
    if isinstance(rows, pd.DataFrame):
        pd.testing.assert_frame_equal(found, rows, check_index_type=False, check_column_type=False)
    else:
        assert found is data or found == rows


def test_a_series_of_polars_becomes_that_column_too() -> None:
    """Its own name does not count, as that of one of pandas."""
    assert rows_for(half, pl.Series("other", [1, None])).to_dict(as_series=False) == {"n": [1, None]}


@cases(((n for n in [1, 2]), [2, 4]), (map(abs, [-3]), [6]), (iter([FRAME, FRAME + 2]), [2, 4, 6, 8]), (iter([]), []))
def test_values_of_an_iterator(queue: ct.Queue, data: Any, results: list[int]) -> None:
    """They are a list of values; frames, which may be larger than memory, are read one by one."""
    assert queue.map(lambda n: 2 * n, data)["result"].tolist() == results


def test_the_same_cell_attaches(queue: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """A lambda does so by the name of its batch; `workers` is an option of serve, `name` of both."""
    for data in ([1], [1, 2]):
        assert queue.map(lambda n: n + 1, data, name="more", workers=1)["result"].tolist() == [n + 1 for n in data]
    assert capsys.readouterr().out == ""
    assert len(queue.attempts()) == 2


def test_the_account_signs_and_is_asked_for(queue: ct.Queue) -> None:
    """Both the tasks and the handler get it."""
    assert queue.map(half, [1], service_account=ACCOUNT)["state"].tolist() == ["succeeded"]
    handler = serving.served_at(next(iter(serving._served.values())).url)
    assert handler is not None
    unsigned = queue.wait(queue.enqueue(handler, {"n": 1}, retry={"max_attempts": 1}), "20s")
    assert unsigned["last_status"].tolist() == ["UNAUTHENTICATED"]


def test_the_index_of_a_series_is_no_argument(queue: ct.Queue) -> None:
    """Also if it has a name, which a body of whole rows would have; the results have it as their index."""
    prices = pd.Series([2, 4], index=pd.Index(["a", "b"], name="shop"))
    found = queue.map(half, prices)
    assert (found.index.name, found["half"].to_dict()) == ("shop", {"a": 1.0, "b": 2.0})
    assert queue.map(half, prices, body={"n": "{n}", "by": 4}, name="own body")["half"].tolist() == [0.5, 1.0]


def test_what_is_served_already(queue: ct.Queue) -> None:
    """A handler is taken as it is, with the name of its parameter; options of serve are too late."""
    handler = ct.serve(half, name="other")
    assert queue.map(handler, [1])["half"].tolist() == [0.5]
    with pytest.raises(errors.InvalidInputError, match="workers: other is served already"):
        queue.map(handler, [1], workers=2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, errors.PreconditionError("rows are held back")])
def test_a_wait_that_ends_early(
    paused: ct.Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any
) -> None:
    """The batch goes on, and a line says how to come back to it."""

    def wait(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(BatchView, "wait", wait)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            paused.map(half, [1])
    line = next(line for line in said(capsys).splitlines() if "was not cancelled" in line)
    assert re.search(r'batch = (tasks\.batch\("\w{8}"\)) finds it, \1\.cancel\(\) cancels it', line)
    paused.resume()
    assert paused.map(half, [1])["half"].tolist() == [0.5]


def test_exceptions_that_are_given_up(queue: ct.Queue) -> None:
    """Their rows are called once; which they are changes neither the version of the function nor the batch."""
    queue.update(max_attempts=3, min_backoff="1ms", max_backoff="1ms")
    calls: list[int] = []

    def look_up(n: int) -> int:
        calls.append(n)
        return undefined if n else {1: 2}[n]  # type: ignore[name-defined]  # noqa: F821

    frames = [queue.map(look_up, [0, 1], give_up_on=kinds) for kinds in ((KeyError,), ())]
    assert [frame["error"].tolist() for frame in frames] == [
        ["KeyError: 0", "NameError: name 'undefined' is not defined"]
    ] * 2
    assert sorted(calls) == [0, 1]
    with pytest.raises(errors.InvalidInputError, match="give_up_on: look_up is served already"):
        queue.map(ct.serve(look_up), [0], give_up_on=KeyError)


SCRIPT = """
import cloudtasks_nb as ct
def double(n): return 2 * n
print(ct.local().queue("q", create=True).map(double, [1, 2])["result"].tolist())
"""


def test_a_script_prints_only_its_own_data() -> None:
    """Its notes are on stderr, so that its output can be read by a program."""
    done = run(sys.executable, "-c", SCRIPT)
    assert done.stdout == "[2, 4]\n", done.stderr
    assert "made queue q" in done.stderr


def test_google_cannot_call_a_function_of_this_machine() -> None:
    """The error names what makes a service of it; a deployment is taken."""
    google: Any = SimpleNamespace(transport=SimpleNamespace(google=True))
    with pytest.raises(errors.InvalidInputError, match=r"Google cannot call half") as caught:
        callee(google, half, {})
    assert "deploy it with ct.deploy" in str(caught.value)
    service = SimpleNamespace(url="https://half.a.run.app", name="half")
    assert callee(google, service, {}) is service

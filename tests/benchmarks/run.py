"""Measure the figures and write them as a table: `make bench`.

    python tests/benchmarks/run.py                          everything; writes RESULTS.md beside this file
    python tests/benchmarks/run.py --only fan-out listing   some of it; --list shows the names
    python tests/benchmarks/run.py --quick                  small sizes, one round, to test the measurements
    python tests/benchmarks/run.py --full                   also the slow ones, as ten million rows
    python tests/benchmarks/run.py --only soak --minutes 1  a short soak; `make soak` runs the whole one
    python tests/benchmarks/run.py --against v0.2.0         the pair alone: this checkout beside a tag or commit

RESULTS.md is written by a whole run that is not quick, and its sections about the soak and the pair by these;
`--write FILE` writes any run. Each case runs in a process of
its own with a time limit; its failure is shown in its cells, and the others go on. All processes that a case starts
end with it. It writes to a temporary folder, which is removed: set TMPDIR to choose the disk that is measured. Measure
on a quiet machine: the table says how busy it was before. Linux only.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from tests.benchmarks.dispatch import DELAY, DISPATCH
from tests.benchmarks.emulator import BATCH_CREATE, CREATE, PENDING
from tests.benchmarks.fan_out import FAN_OUT, WITHOUT_BATCH
from tests.benchmarks.figures import Bench, Case, Result, Size
from tests.benchmarks.frames import IMPORT, LISTING
from tests.benchmarks.machine import facts
from tests.benchmarks.memory import FILES, MEMORY
from tests.benchmarks.outbox import OUTBOX
from tests.benchmarks.paint import PAINT
from tests.benchmarks.pair import PAIR
from tests.benchmarks.panels import PANEL, RUN
from tests.benchmarks.soak import SOAK
from tests.benchmarks.start import START
from tests.benchmarks.states import STATES
from tests.benchmarks.store import STORE
from tests.benchmarks.sweep import STORED, SWEEP
from tests.benchmarks.table import document, section, section_of, verdict, with_section
from tests.benchmarks.waiting import AGE, ONE, WAIT

CASES = (
    *(FAN_OUT, WITHOUT_BATCH, LISTING, BATCH_CREATE, CREATE, DISPATCH, DELAY, WAIT, ONE, AGE, SWEEP, STORED),
    *(PENDING, MEMORY, FILES, OUTBOX, STATES, STORE, PANEL, RUN, PAINT, IMPORT, START, SOAK, PAIR),
)
RESULTS = Path(__file__).with_name("RESULTS.md")
ROOT = Path(__file__).parents[2]

QUICK = Size(
    rounds=1,
    flights=20_000,
    compared=300,
    without_batch=2_000,
    listed=3_000,
    pending=20_000,
    pages=10,
    window=(1.0, 3.0),
    delays=20,
    streamed=(10_000, 30_000),
    wide=10_000,
    stored=10_000,
    ticks=5,
    waited=500,
    waits=2,
    swept=200,
    results=(3_000,),
    written=(2_000, 6_000),
    ended=3_000,
    soak=20.0,
)
FULL = Size(without_batch=None, streamed=(100_000, 1_000_000, 10_000_000), results=(100_000, 1_000_000))

#: Variables that choose an endpoint, a project or a home; the measurements must not use the caller's.
_PERSONAL = {"CLOUD_TASKS_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"}
_PERSONAL |= {f"CLOUDTASKS_NB_{name}" for name in ("LOCATION", "HOME", "STORE")}

_SHOWN_FACTS = ("cores", "CPU", "memory", "file system", "Python", "load before", "measured")
_SHOWN = 4_000  # characters of the standard error of a failed case


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen cases, and return the exit code: 1 if one could not be measured."""
    given = _parser().parse_args(arguments)
    if given.list:
        _print("\n".join(f"{case.name:14} {case.title}" for case in CASES))
        return 0
    if given.child:
        _measure(_chosen([given.child])[0], _size(given), Path(given.folder))
        return 0
    chosen = _chosen([PAIR.name] if given.against and not given.only else given.only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up, as after an interrupt
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cloudtasks-nb-bench-") as folder:
        machine = facts(Path(folder))
        results = [(case, _run(case, given, Path(folder) / case.name)) for case in chosen]
    machine["duration"] = f"{(time.monotonic() - started) / 60:.1f} min"
    if given.quick:
        machine["sizes"] = "small, by `--quick`: these figures mean nothing"
    complete = not (given.quick or given.minutes) and (not given.only or all(case.alone for case in chosen))
    for file in [given.write] if given.write else [RESULTS] if complete else []:
        former = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(_table(machine, results, former), encoding="utf-8")
        _print(f"written: {file}")
    return 1 if any(result.error for _, result in results) else 0


def _table(machine: dict[str, str], results: list[tuple[Case, Result]], former: str) -> str:
    """Return the file's new text: a run of cases that are measured alone replaces only their sections."""
    if all(case.alone for case, _ in results):
        for case, result in results:
            about = ", ".join(f"{name} {machine[name]}" for name in _SHOWN_FACTS)
            result.notes.append(f"Machine: {about}.")
            former = with_section(former, case, section(case, result))
        return former
    text = document(machine, results)
    for case in CASES:
        if case.alone and case not in [one for one, _ in results]:
            text = with_section(text, case, section_of(former, case))
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [case.name for case in CASES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="measure these; --list shows them")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--full", action="store_true", help="also the slow measurements")
    parser.add_argument("--minutes", type=float, help="length of the soak; any given one writes no file by itself")
    parser.add_argument("--against", metavar="COMMIT", help="measure the pair: this checkout beside that commit")
    parser.add_argument("--rounds", type=int, help="of each measurement")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


def _chosen(names: Sequence[str] | None) -> list[Case]:
    return [case for case in CASES if (not case.alone if names is None else case.name in names)]


def _size(given: argparse.Namespace) -> Size:
    size = QUICK if given.quick else FULL if given.full else Size()
    chosen = {"soak": given.minutes and 60 * given.minutes, "against": given.against, "rounds": given.rounds}
    return replace(size, **{name: value for name, value in chosen.items() if value is not None})


def _measure(case: Case, size: Size, folder: Path) -> None:
    """Measure a case in this process, and report on standard output."""
    os.environ["CLOUDTASKS_NB_HOME"] = str(folder / "home")
    out = sys.stdout
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bench = Bench(size=size, folder=folder, out=out)
    with contextlib.redirect_stdout(sys.stderr):  # the toolkit prints messages, which are no reports
        try:
            case.run(bench)
        except Exception as error:
            bench.fail(_error_text(error).replace(str(folder), "…"))
            raise


def _end_with_parent() -> None:
    """End this process and all that it has started when its parent has ended."""
    os.read(sys.stdin.fileno(), 1)  # not through the buffer, whose lock a thread must not hold at the end
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _error_text(error: Exception) -> str:
    """Return the type and the message of an error in one line; gRPC has the message in `details`."""
    details = getattr(error, "details", None)
    message = details() if callable(details) else error
    return " ".join(f"{type(error).__name__}: {message}".split())


def _run(case: Case, given: argparse.Namespace, folder: Path) -> Result:
    """Measure a case in a process of its own."""
    _print(f"{case.name}: {case.title}")
    folder.mkdir()
    options = [f"--{option}" for option in ("quick", "full") if getattr(given, option)]
    for option in ("minutes", "against", "rounds"):
        options += [] if (value := getattr(given, option)) is None else [f"--{option}", str(value)]
    command = [sys.executable, "-m", "tests.benchmarks.run", "--child", case.name, "--folder", str(folder), *options]
    limit = ((case.full_seconds if given.full else None) or case.seconds) + 60 * (given.minutes or 0)
    with tempfile.TemporaryFile("w+") as errors:
        result = _collect(case, command, errors, limit)
        if result.error:
            errors.seek(0)
            sys.stderr.write(errors.read()[-_SHOWN:])
            _print(f"  failed: {result.error}")
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _collect(case: Case, command: list[str], errors: IO[str], limit: float) -> Result:
    """Start the process of a case and collect its reports, until it ends or reaches its time limit."""
    result = Result()
    environment = {name: value for name, value in os.environ.items() if name not in _PERSONAL}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,  # closed when this process ends, for whatever reason
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    ) as child:
        limiter = threading.Timer(limit, _end, [child])
        limiter.daemon = True
        limiter.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                _add(case, result, json.loads(line))
            child.wait()
        finally:
            too_late = not limiter.is_alive()
            limiter.cancel()
            _end(child)
    if too_late:
        result.error = f"not done after {limit:g} s"
    elif child.returncode:
        result.error = result.error or f"it ended with code {child.returncode}"
    return result


def _add(case: Case, result: Result, report: dict[str, Any]) -> None:
    """Add a report of a measurement to the result, and print it."""
    if "message" in report:
        _print(f"  {report['message']}")
    elif "note" in report:
        result.notes.append(report["note"])
    elif "error" in report:
        result.error = report["error"]
    else:
        result.values.setdefault(report["figure"], []).append(report["value"])
        figure = next(one for one in case.figures if one.key == report["figure"])
        measured, judged = verdict(figure, result)
        _print(f"    {figure.what} {f'against {figure.against}' if figure.against else ''}: {measured} {judged}")


def _end(child: subprocess.Popen[str]) -> None:
    """End a case and all that it has started, which are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""Change the package in small ways, and see whether the nearest tests fail: ``python -m tests.mutation --seed 1``.

    python -m tests.mutation --seed 1                  40 mutants of HEAD
    python -m tests.mutation --seed 1 --commit v1.0    of another commit, with the tests of that commit
    python -m tests.mutation --seed 1 --only 3 17      two of these mutants, after a test was written for them
    python -m tests.mutation --seed 1 --list           which mutants these are; no test runs
    python -m tests.mutation --seed 1 --in fanout/evidence.py emulator/store    40 mutants of these files and folders

A mutant is the package with one change: another operator, a whole number that is one more or less, a condition that is
always true or false, a call that is left out, `None` that is returned. Each mutant is of a random line of code, so that
the sample says how much of the package the tests guard. The same seed and commit give the same mutants. Docstrings,
annotations, texts and log messages stay as they are.

A mutant is killed when a test fails or runs for too long. First run the unit tests that import the changed module, then
those of its part of the package, then the integration tests of that part (`TESTS`). The test that fails must pass
without the change; otherwise it is reported as broken. What survives needs a test, or an entry in
`harmless_mutants.toml` with the reason why the change alters no behaviour. The exit code is 1 if more than 4 others
survive.

Each job unpacks the commit into a temporary folder and changes that copy: the checkout is not touched. Linux only.
"""

# ruff: noqa: T201 - a command line program

import argparse
import ast
import contextlib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise, repeat
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cloudtasks_nb"
HARMLESS = Path(__file__).with_name("harmless_mutants.toml")
SAMPLE = 40
MAY_SURVIVE = 4

_LIMIT = 180  # seconds for one test: several times what the slowest takes
_PYTEST = ["-x", "-v", "--tb=no", "-p", "no:cacheprovider", "-m", "not nightly"]
_PYTEST += ["-o", f"faulthandler_timeout={_LIMIT}", "-o", "faulthandler_exit_on_timeout=true"]

_API = "unit/test_public_api.py"
_MISTAKES = "integration/toolkit/test_mistakes.py"
#: Part of the package -> where its tests are, the nearest first. The longest name that fits counts.
TESTS: dict[str, tuple[str, ...]] = {
    "": ("unit", "integration/toolkit"),
    "cli": ("unit/test_cli.py", "integration/fanout/test_cli_watch.py"),
    "client": ("unit/client", "unit/panels", _API, "integration/toolkit", "integration/fanout", "integration/strict"),
    "display": ("unit/display", "unit/panels", "integration/fanout"),
    "emulator": ("unit/emulator", "integration/emulator", "integration/strict"),
    "emulator/strict": ("unit/emulator/strict", "integration/strict"),
    "fanout": ("unit/fanout", "unit/panels", _API, _MISTAKES, "integration/fanout"),
    "handlers": ("unit/handlers", _API, _MISTAKES, "integration/fanout", "integration/strict"),
    "panels": ("unit/panels", "integration/toolkit/test_panels.py"),
    "service": ("unit/service", "unit/fanout/sender", "integration/toolkit", "integration/strict"),
    "store": ("unit/store", "unit/handlers", _MISTAKES, "integration/fanout"),
    "testing": (_API, "integration/test_testing_plugin.py", "integration/strict"),
}

_SWAPS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in"}
_SWAPS |= {"is": "is not", "is not": "is", "and": "or", "or": "and", "&": "|", "+=": "-=", "-=": "+="}
_SWAPS |= {"+": "-", "-": "+", "*": "//", "/": "*", "//": "*", "%": "*", "**": "*"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file."""

    #: path in the repository
    file: str
    #: number of the changed line, from 1
    line: int
    #: that line
    before: str
    #: what it becomes
    after: str
    #: the bytes that are replaced
    place: slice
    #: what replaces them
    new: bytes

    def of(self, source: bytes) -> bytes:
        """Return the file with the change."""
        return source[: self.place.start] + self.new + source[self.place.stop :]


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node in which something may change."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            if "overload" not in map(ast.unparse, node.decorator_list):
                yield from [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]
        case ast.ClassDef():
            yield from node.body
        case ast.AnnAssign():
            yield from filter(None, [node.value])
        case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Compare(left=ast.Name("__name__"))):
            yield from node.orelse
        case ast.JoinedStr():  # nearly always a text, and Python 3.11 does not know the places of its parts
            pass
        case ast.keyword(arg="strict"):  # of `zip`, whose check does not fail
            pass
        case _:
            yield from ast.iter_child_nodes(node)


def _operands(node: ast.AST) -> list[ast.expr]:
    """Return the operands between which an operator may change."""
    match node:
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.BoolOp():
            return node.values
        case ast.BinOp(left=left, right=right) | ast.AugAssign(target=left, value=right):
            return [left, right]
    return []


def _statements(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield the changes of a condition, of a call whose result nobody uses, and of what is returned."""
    match node:
        case ast.If(test=test) | ast.IfExp(test=test):
            yield from ((test, constant) for constant in ("True", "False"))
        case ast.While(test=test):
            yield test, "False"
        case ast.comprehension(ifs=tests):
            yield from ((test, "True") for test in tests)
        case ast.UnaryOp(op=ast.Not()):
            yield node, f"({ast.unparse(node.operand)})"
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name("_log" | "_LOGGER")))):
            pass
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield node, "pass"
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield value, "None"


def _constants(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield the changes of booleans, whole numbers, and strings that are data."""
    strings: Sequence[ast.expr | None] = ()
    match node:
        case ast.Constant(value=bool() as value):
            yield node, str(not value)
        case ast.Constant(value=int() as value):
            yield from ((node, str(other)) for other in (value - 1, value + 1))
        case ast.Compare():
            strings = node.comparators
        case ast.Dict(keys=found) | ast.Set(elts=found) | ast.Tuple(elts=found):
            strings = found
        case ast.Subscript():
            strings = [node.slice]
        case ast.Call(func=ast.Attribute(attr="get" | "pop")):
            strings = node.args[:1]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            strings = [*node.args.defaults, *node.args.kw_defaults]
    for string in strings:
        if isinstance(string, ast.Constant) and isinstance(string.value, str):
            yield string, repr(f"{string.value}x")


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    lines = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    nodes: list[ast.AST] = [ast.parse(source)]
    for node in nodes:
        nodes += _inside(node)
        places = [(*_range(lines, one), new) for one, new in chain(_statements(node), _constants(node))]
        for (_, start), (end, _) in pairwise(_range(lines, operand) for operand in _operands(node)):
            operator = re.fullmatch(rb"[\s)]*(is not|not in|\S+)[\s(]*", source[start:end])
            if operator and (new := _SWAPS.get(operator[1].decode())):
                places.append((start + operator.start(1), start + operator.end(1), new))
        for start, end, new in places:
            line, last = bisect_right(lines, start), bisect_right(lines, end)
            before, after = source[lines[line - 1] : lines[line]], source[lines[line - 1] : start] + new.encode()
            after += source[end : lines[last]]
            yield Mutant(file, line, before.decode().strip(), after.decode().strip(), slice(start, end), new.encode())


def _range(lines: Sequence[int], node: Any) -> tuple[int, int]:
    """Return the offsets of a node in bytes; `lines` has those of the lines."""
    return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset


def _sample(folder: Path, seed: int, places: Sequence[str]) -> list[Mutant]:
    """Choose random lines of files of the package, and a random change of each."""
    lines: dict[tuple[str, int], list[Mutant]] = {}
    roots = [folder / PACKAGE / place for place in places]
    for path in sorted({path for root in roots for path in ([root] if root.is_file() else root.rglob("*.py"))}):
        if path.name != "hatch_build.py":  # it builds the emulator's wheel, and is not in it
            for mutant in mutants_of(str(path.relative_to(folder)), path.read_bytes()):
                lines.setdefault((mutant.file, mutant.line), []).append(mutant)
    chance = random.Random(seed)
    return [chance.choice(lines[line]) for line in chance.sample(list(lines), min(SAMPLE, len(lines)))]


def _stages(folder: Path, file: str) -> Iterator[list[str]]:
    """Yield what pytest runs: the unit tests of the module, the others of its part, the integration tests."""
    parent, _, name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".").rpartition(".")
    imports = re.compile(rf"from {parent}(\.{name}\b| import (\([^)]*|[^(\n]*)\b{name}\b)")
    direct = [
        str(path.relative_to(folder))
        for path in sorted((folder / "tests/unit").rglob("test_*.py"))
        if imports.search(path.read_text(encoding="utf-8")) or (file.split("/")[1] in path.parts and name in path.stem)
    ]
    if direct:
        yield direct
    part = max((part for part in TESTS if file.startswith(f"{PACKAGE}/{part}")), key=len)
    places = [f"tests/{place}" for place in TESTS[part] if (folder / "tests" / place).exists()]
    for kind in ("tests/unit", "tests/integration"):
        if chosen := [place for place in places if place.startswith(kind)]:
            yield [*chosen, *(f"--ignore={path}" for path in direct)]


def _run(folder: Path, tests: list[str]) -> str:
    """Run tests of a copy until one fails. Return what failed, or nothing."""
    command = [sys.executable, "-m", "pytest", *_PYTEST, *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open in what the tests leave
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output, check=False)
        _end_processes(folder)
        output.seek(0)
        text = output.read()
    if done.returncode in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        return ""
    # The last test that is named: it was the last to begin, or is the one that the summary at the end names.
    names = re.findall(r"^(?:FAILED |ERROR )?(tests/[^\s\[]+)", text, re.MULTILINE)
    return str(names[-1]) if names else f"exit code {done.returncode}: {text[-1000:]}"


def _end_processes(folder: Path) -> None:
    """End what the tests of a copy have left: an emulator that hangs does not notice that they have ended."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"PYTHONPATH={folder}\0".encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


def _outcome(folders: queue.Queue[Path], harmless: Mapping[tuple[str, str, str], str], mutant: Mutant) -> str:
    """Return what becomes of a mutant: a word, and the test, the reason or the tests that did not see it."""
    if reason := harmless.get((mutant.file, mutant.before, mutant.after)):
        return f"harmless: {reason}"
    folder = folders.get()
    path = folder / mutant.file
    source = path.read_bytes()
    stages = list(_stages(folder, mutant.file))
    try:
        path.write_bytes(mutant.of(source))
        killer = next(filter(None, (_run(folder, tests) for tests in stages)), "")
        path.write_bytes(source)
        if killer.startswith("tests/") and _run(folder, [killer]):
            return f"broken test: {killer} fails without the change too"
    finally:
        path.write_bytes(source)
        folders.put(folder)
    if killer:
        return f"killed by {killer}"
    return f"survived {' '.join(test for tests in stages for test in tests if not test.startswith('--'))}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True, help="chooses the mutants")
    parser.add_argument("--commit", default="HEAD", help="what is mutated and tested")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants that are tested at the same time")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of mutants, from 1 to 40")
    parser.add_argument("--in", dest="places", nargs="+", default=[""], metavar="FILE", help="what of the package")
    parser.add_argument("--list", action="store_true", help="print the mutants, and test none")
    return parser.parse_args()


def main() -> int:
    """Test the mutants and print what becomes of each. Return the exit code."""
    arguments = _arguments()
    listed = tomllib.loads(HARMLESS.read_text(encoding="utf-8"))["mutant"]
    harmless = {(one["file"], one["before"], one["after"]): one["reason"] for one in listed}
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        archive = Path(temporary, "commit.tar")
        subprocess.run(["git", "archive", f"--output={archive}", arguments.commit], cwd=ROOT, check=True)
        folders: queue.Queue[Path] = queue.Queue()
        for folder in [Path(temporary, f"copy{job}") for job in range(arguments.jobs)]:
            shutil.unpack_archive(archive, folder)
            folders.put(folder)
        sample = dict(enumerate(_sample(folder, arguments.seed, arguments.places), 1))
        chosen = {number: sample[number] for number in arguments.only or sample}
        test = partial(_outcome, folders, harmless)
        outcomes = repeat("not tested") if arguments.list else pool.map(test, chosen.values())
        words = Counter[str]()
        for (number, mutant), outcome in zip(chosen.items(), outcomes, strict=False):
            print(f"{number}. {mutant.file}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
            print(f"  {outcome}", flush=True)
            words.update(outcome.split(maxsplit=1)[:1])
    print(", ".join(f"{word.strip(':')} {count}" for word, count in words.items()))
    return int(words["survived"] > MAY_SURVIVE or words["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main())

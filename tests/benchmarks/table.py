"""The figures as a Markdown document. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence

from tests.benchmarks.figures import Case, Figure, Result, compare, spread

_HEAD = """# Figures

Written by `make bench`; `tests/benchmarks/run.py` says how to measure single ones. What is compared was measured in the
same run on the same machine, taking turns round by round; each value is the median of its rounds, with the smallest and
the largest. Emulators "on a folder" commit with `fsync` before they acknowledge. Everything talks over loopback, and
clients, emulators and targets share the cores.

Other projects' emulators were not run here. Where the table names their figures they are quoted from measurements on
another day, and say how far apart things are, not more."""

_CELL = 80  # characters of an error in a cell


def document(machine: Mapping[str, str], results: Sequence[tuple[Case, Result]]) -> str:
    """Return all figures as Markdown.

    Parameters
    ----------
    machine : mapping
        Facts about the machine, by name.
    results : sequence of (Case, Result)
        In the order of the sections.
    """
    facts = "\n".join(_line(name, fact) for name, fact in machine.items())
    parts = [_HEAD, _tally(results), f"## The machine\n\n| | |\n|---|---|\n{facts}"]
    parts += [section(case, result) for case, result in results]
    return "\n\n".join(parts) + "\n"


def with_section(text: str, case: Case, section: str) -> str:
    """Return a document with a section about a case at its end, and without the earlier one."""
    before, _, after = _split(text, case)
    return "\n\n".join(part.strip("\n") for part in (before + after, section) if part) + "\n"


def section_of(text: str, case: Case) -> str:
    """Return the section about a case that a document has; empty if it has none."""
    return _split(text, case)[1]


def _split(text: str, case: Case) -> tuple[str, str, str]:
    found = re.search(rf"^## {re.escape(case.title)}$.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])


def verdict(figure: Figure, result: Result) -> tuple[str, str]:
    """Return the measured value and whether it meets the goal, both as text."""
    values = result.values.get(figure.key)
    if values:
        return spread(values, figure.unit), compare(figure, values)
    if result.error is not None:
        return f"failed: {_short(result.error)}", "**not met**: not measured" if figure.goal and not figure.full else ""
    return "not run: `--full` does" if figure.full else "not measured", ""


def section(case: Case, result: Result) -> str:
    """Return the figures of a case as Markdown."""
    lines = [
        *(f"## {case.title}", "", case.how, ""),
        _line("what", "against", "goal", "measured", ""),
        _line(*["---"] * 5),
        *(_line(one.what, one.against, one.goal, *verdict(one, result)) for one in case.figures),
    ]
    notes = [*result.notes, *([f"It was not measured to its end: {result.error}"] if result.error else [])]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines)


def _tally(results: Sequence[tuple[Case, Result]]) -> str:
    """Return how many goals are met, and which are not."""
    judged = list(_judged(results))
    missed = [name for name, met in judged if not met]
    line = f"{len(judged) - len(missed)} of {len(judged)} goals are met."
    return line if not missed else f"{line} Not met: {'; '.join(missed)}."


def _judged(results: Sequence[tuple[Case, Result]]) -> Iterator[tuple[str, bool]]:
    for case, result in results:
        for figure in case.figures:
            judged = verdict(figure, result)[1]
            if judged:
                against = f" against {figure.against}" if figure.against else ""
                yield f"{case.title}, {figure.what}{against}", judged == "met"


def _short(error: str) -> str:
    """Shorten an error to fit into a cell; the whole text is below the table."""
    return error if len(error) <= _CELL else f"{error[: _CELL - 1]}…"


def _line(*cells: str) -> str:
    plain = (" ".join(cell.split()).replace("|", "/") for cell in cells)
    return f"| {' | '.join(plain)} |"

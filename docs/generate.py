"""Make the pages of the site that are no files in this folder: the tutorials and the reference.

The tutorials are the notebooks, with their stored outputs. The reference comes from docstrings, from the declarations
of the frames and from the options of the commands. A public name without a docstring, or on no page, ends the build.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

import cloudtasks_nb as ct
from cloudtasks_nb import _frames, errors, handlers, magics, testing
from cloudtasks_nb.client import clock
from cloudtasks_nb.emulator import options
from cloudtasks_nb.emulator.model import settings

__all__ = ["on_files", "on_post_build", "reference", "undocumented"]

_ROOT = Path(__file__).parents[1]
_NOTEBOOKS = _ROOT / "notebooks"

#: The modules whose names are public, each with what stands before its names.
_MODULES: dict[str, ModuleType] = {
    "cloudtasks_nb": ct,
    "cloudtasks_nb.errors": errors,
    "cloudtasks_nb.handlers": handlers,
    "cloudtasks_nb.testing": testing,
    "cloudtasks_nb.client.clock": clock,
}
#: Page -> its title, what it is about, and the names on it.
_PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "connections": (
        "Connections",
        "Where a notebook begins: a connection to Google or to the local emulator, and its verbs.",
        ("connect", "local", "Client", "client.clock.Clock", "client.clock.Lapse"),
    ),
    "queue": ("Queues", "What `tasks.queue(name)` returns, and its verbs.", ("Queue",)),
    "batch": ("Batches", "What `queue.fan_out` and `queue.backfill` return, and its verbs.", ("Batch", "Progress")),
    "plan": (
        "Plans",
        "What a dry run returns, what `plan.simulate` returns, and words for templates.",
        ("Plan", "Simulation", "url", "ROW"),
    ),
    "handlers": (
        "Functions as targets",
        "How a function of yours answers tasks, on this machine and on Cloud Run.",
        ("serve", "Handler", "handlers.served_at", "handlers.app", "deploy", "Deployment", "GiveUp", "TryLater"),
    ),
    "errors": ("Errors", "", ("errors",)),
    "testing": (
        "Testing",
        "",
        ("testing", *(f"testing.{name}" for name in sorted(testing.__all__))),
    ),
}
_FRAMES = {
    "QUEUES": ("Queues", "`tasks.queues()`; the index is `queue`."),
    "TASKS": ("Tasks of a queue", "`queue.tasks()`, `queue.enqueue()` and `queue.schedule()`; the index is `task`."),
    "BATCH_TASKS": (
        "Rows of a batch",
        "`batch.tasks()` and `batch.failed()`, which has `error` too. The index and other columns are of the input.",
    ),
    "OUTCOMES": (
        "Outcomes of single tasks",
        "`queue.wait()`, behind the columns of the frame of tasks; the index is `task`.",
    ),
    "ATTEMPTS": ("Attempts", "`queue.attempts()` and `batch.attempts()`, which has the column `row` before these."),
    "ERRORS": ("Causes of failures", "`batch.errors()`."),
    "BATCHES": ("Batches", "`tasks.batches()`; the index is `batch`."),
    "ACTION_RESULTS": ("What became of an action", "`queue.run()` and `queue.delete_tasks()`."),
    "DOCTOR": ("Checks", "`tasks.doctor()`; the index is `check`."),
}
_DTYPES = {
    "text": "string",
    "time": "datetime64[us, UTC]",
    "span": "timedelta64[us]",
    "count": "Int64",
    "float": "Float64",
    "ok": "boolean",
    "any": "object",
}
#: A line that declares a column, or several columns of one meaning.
_REMARK = re.compile(r'^    (?:"(\w+)": _\w+|\*\*.+),  #: (.+)$', re.MULTILINE)


#: What the pages of notebooks would load if they had diagrams.
_DIAGRAMS = re.compile(r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>', re.DOTALL)
#: What lets the search work in files that no server sends; docs/iframe-worker.js is a copy.
_SHIM = re.compile(r'https?://[^"]*/iframe-worker/shim')
_FOREIGN = re.compile(
    r"""<(?:script|img|iframe|link rel="(?:stylesheet|preconnect|icon)")[^>]*(?:src|href)="https?:[^>]*"""
    r"""|import\(["']http.*"""
)


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the tutorials and the reference."""
    _check()
    shown = [_NOTEBOOKS / "README.md", *_NOTEBOOKS.glob("*.ipynb"), *_NOTEBOOKS.glob("images/*.png")]
    for path in sorted(shown):
        source = str(path.relative_to(_ROOT))
        files.append(File(source, str(_ROOT), config.site_dir, use_directory_urls=False))
    for name, text in reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Take what pages would load from other hosts out of them, or from here; what is left ends the build."""
    site = Path(config.site_dir)
    for path in sorted(site.rglob("*.html")):
        text = _DIAGRAMS.sub("", path.read_text(encoding="utf-8"))
        text = _SHIM.sub("../" * (len(path.relative_to(site).parts) - 1) + "iframe-worker.js", text)
        if foreign := _FOREIGN.search(text):
            raise PluginError(f"{path.relative_to(site)} loads from another host: {foreign[0]}")
        path.write_text(text, encoding="utf-8")


def reference() -> dict[str, str]:
    """Return the pages of the reference, by their names."""
    pages = {name: f"# {title}\n\n{about}\n\n{_docstrings(names)}" for name, (title, about, names) in _PAGES.items()}
    status = "# The words of status()\n\n::: cloudtasks_nb.fanout.batch.progress.Status\n"
    return pages | {
        "status": status,
        "frames": _frames_page(),
        "terminal": _terminal(),
        "emulator-options": _options(),
    }


def _docstrings(names: tuple[str, ...]) -> str:
    return "\n".join(f"::: cloudtasks_nb.{name}\n{_OWN.get(name, '')}" for name in names)


#: A module shows what it has, but for what stands on the page by itself.
_OWN = {"testing": "    options:\n      members: []\n", "errors": "    options:\n      show_root_heading: false\n"}


def _check() -> None:
    """End the build if a public name has no docstring, or stands on no page."""
    shown = [resolve_name(f"cloudtasks_nb.{name}") for _, _, names in _PAGES.values() for name in names]
    missing = []
    for prefix, module in _MODULES.items():
        for name in module.__all__:
            value = getattr(module, name)
            if not any(value is one or module is one for one in shown):
                missing.append(f"{prefix}.{name} is on no page of the reference")
            missing += [f"{found} has no docstring" for found in undocumented(f"{prefix}.{name}", value)]
    if missing:
        raise PluginError("\n".join(missing))


def undocumented(name: str, value: Any) -> Iterator[str]:
    """Yield the names of a public function or class, and of its members, that have no docstring."""
    if not value.__doc__:
        yield name
    for kind in value.__mro__ if inspect.isclass(value) else ():
        own = vars(kind).items() if kind.__module__.startswith("cloudtasks_nb") else ()
        for member, one in own:
            has_one = isinstance(one, property | staticmethod | classmethod) or inspect.isfunction(one)
            if has_one and not member.startswith("_") and not one.__doc__:
                yield f"{name}.{member}"


def _frames_page() -> str:
    """Return the columns of each frame, as `_frames` declares them."""
    source = inspect.getsource(_frames)
    parts = [
        "# Columns of the frames\n",
        "These are the columns, their order and their dtypes, of empty frames too.\n",
        "What is not known is `<NA>` or `NaT`, never 0.\n",
    ]
    parts += ["## States\n", "| state | meaning | the row has ended | what helps |", "|---|---|---|---|"]
    for state, traits in _frames.STATES.items():
        helps = f"`{traits.helps.format('rows')}`" if traits.helps else ""
        parts.append(f"| `{state}` | {traits.means} | {'yes' if traits.end else 'no'} | {helps} |")
    parts += ["", "Frames have no `queued` and no `settling`: these are in charts and panels.\n"]
    for name, (title, verbs) in _FRAMES.items():
        parts += [f"## {title}\n", f"{verbs}\n", "| column | dtype | meaning |", "|---|---|---|"]
        remarks = dict(_REMARK.findall(source.partition(f"\n{name} = {{\n")[2].partition("\n}")[0]))
        for column, kind in getattr(_frames, name).items():
            meaning = remarks.get(column, remarks.get(""))
            if meaning is None:
                raise PluginError(f"the column {column} of _frames.{name} has no remark `#: …`")
            parts.append(f"| `{column}` | {_DTYPES[kind]} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def _terminal() -> str:
    """Return the help of each command, and the magics."""
    parts = ["# In a terminal and in a cell\n"]
    for command in ("", "doctor", "batches", "watch"):
        title = f"cloudtasks-nb {command}".strip()
        parts += [f"## {title}\n", f"```text\n{_help(*command.split())}```\n"]
    parts.append("The options of `cloudtasks-nb emulator` have [a page of their own](emulator-options.md).\n")
    parts += ["## Magics\n", f"{inspect.getdoc(magics)}\n", "::: cloudtasks_nb.magics.load_ipython_extension"]
    return "\n".join([*parts, "", "::: cloudtasks_nb.magics.CloudTasksMagics"])


def _help(*words: str) -> str:
    command = [sys.executable, "-m", "cloudtasks_nb.cli", *words, "--help"]
    environment = {**os.environ, "COLUMNS": "90", "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout  # noqa: S603


def _options() -> str:
    """Return a table of the emulator's options."""
    rows = [
        f"| `--{option.name}` | {_cell(option.help + options._default(option))} | {_variables(option)} |"  # noqa: SLF001 - as in --help
        for option in settings.OPTIONS
    ]
    return "\n".join([_OPTIONS_HEAD, "| option | meaning | variable |", "|---|---|---|", *rows])


_OPTIONS_HEAD = """# Options of the emulator

They are the same for `cloudtasks-nb emulator` and `cloudtasks-emulator`. A flag may have one dash or two. The command
line counts before the environment, and the environment before the file of `--config`, in which the names stand without
the dashes before them. The default is in brackets.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _variables(option: settings.Option) -> str:
    in_image = f", in the container also `{option.in_image}`" if option.in_image else ""
    return f"`{option.variable}`{in_image}"

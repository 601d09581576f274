"""What the package promises: its names, their parameters and defaults, and the help on each."""

import functools
import importlib
import importlib.metadata
import inspect
import re
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import cloudtasks_nb as ct
import cloudtasks_nb.handlers
from tests.processes import run

PUBLIC = tomllib.loads(Path(__file__).with_name("public_api.toml").read_text(encoding="utf-8"))
SIGNATURES, ATTRIBUTES = PUBLIC["signatures"], PUBLIC["attributes"]
#: The states of a row, in the order in which they are shown.
STATES = ["unsent", "rejected", "scheduled", "ready", "running", "retrying", "succeeded", "failed", "cancelled", "gone"]

each_callable = pytest.mark.parametrize("name", SIGNATURES)


def public(name: str) -> Any:
    """Return what a dotted name stands for."""
    return functools.reduce(getattr, name.split("."), ct)


def parameters(name: str) -> list[inspect.Parameter]:
    """Return the parameters of a public callable, bound."""
    return [one for one in inspect.signature(public(name)).parameters.values() if one.name != "self"]


def section(name: str, title: str) -> str:
    """Return a section of a numpy docstring; nothing if it has no such section."""
    text = inspect.getdoc(public(name)) or ""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def test_all_is_what_there_is() -> None:
    """Each name of `__all__` can be had, once; nothing else stands in `dir()`, which completes ``ct.``."""
    assert [name for name in ct.__all__ if not hasattr(ct, name)] == []
    assert len(set(ct.__all__)) == len(ct.__all__)
    assert dir(ct) == sorted(ct.__all__)


def test_all_names_are_had_by_a_star_in_a_fresh_process() -> None:
    """`from cloudtasks_nb import *` loads everything; names that nobody used yet are found the same way."""
    code = "from cloudtasks_nb import *; import cloudtasks_nb as ct; print(set(ct.__all__) - set(globals()))"
    assert run(sys.executable, "-c", code).stdout.strip() == "set()"


def test_version_and_loaded_names() -> None:
    """`ct.__version__` is what pip shows; the second use of a name is an attribute like any other."""
    assert ct.__version__ == importlib.metadata.version("cloudtasks-nb")
    assert ct.connect is ct.connect
    assert vars(ct)["connect"] is ct.connect


@pytest.mark.parametrize("name", ["conect", "_client_", "Batches"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    """A misspelt name raises the error that every module raises, with near names unless it is private."""
    with pytest.raises(AttributeError, match=f"module 'cloudtasks_nb' has no attribute '{name}'") as caught:
        getattr(ct, name)
    assert ("did you mean" in str(caught.value)) == (not name.startswith("_"))


@pytest.mark.parametrize("name", ct.__all__)
def test_what_is_public_is_defined_here(name: str) -> None:
    """Nothing of another library stands among the public names."""
    value = getattr(ct, name)
    module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", type(value).__module__)
    assert module.split(".")[0] == "cloudtasks_nb"


def test_each_public_function_and_method_has_its_parameters() -> None:
    """Those of the public classes too, and none that is no longer there; errors have no methods of their own."""
    found = {name for name in ct.__all__ if inspect.isfunction(public(name)) or name in SIGNATURES}
    for name in ct.__all__:
        if inspect.isclass(public(name)) and not issubclass(public(name), BaseException):
            methods = inspect.getmembers(public(name), inspect.isroutine)
            found |= {f"{name}.{method}" for method, _ in methods if not method.startswith("_")}
    assert found == {*SIGNATURES} - {"handlers.app"}


@each_callable
def test_parameters(name: str) -> None:
    """Each callable takes what it promises, with these defaults, by name where promised so, and all have types."""
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters(name)]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"
    assert [one.name for one in parameters(name) if one.annotation is inspect.Parameter.empty] == []
    assert inspect.signature(public(name)).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_attributes(kind: str) -> None:
    """The attributes that are promised are there, with a line of help each: their own, or one in that of the class."""
    made = getattr(ct, kind)
    described = re.findall(r"^(\w+) : .+\n    \S", inspect.getdoc(made) or "", re.MULTILINE)
    assert {*ATTRIBUTES[kind]} <= {*dir(made), *described}
    properties = [name for name in ATTRIBUTES[kind] if isinstance(inspect.getattr_static(made, name, None), property)]
    assert [name for name in properties if not inspect.getdoc(getattr(made, name))] == []


def test_progress_has_a_field_for_each_state() -> None:
    """The word and the sentence of the batch come first, then the counts in the order of the states."""
    status = ["state", "reason", "since", "at", "rate", "eta", "action", "owner", "age"]
    assert [field.name for field in fields(ct.Progress)] == [*status, "total", *STATES, "settling", "sources"]


@pytest.mark.parametrize("name", [*SIGNATURES, "Client", "Queue", "Batch", "Plan", "Progress", "Handler", "errors"])
def test_help_begins_with_a_sentence(name: str) -> None:
    """`help()` opens with one line that says what it is or does."""
    first, *rest = (inspect.getdoc(public(name)) or "").splitlines()
    assert first.endswith(".")
    assert not rest or not rest[0]


@each_callable
def test_help_describes_parameters_and_frames(name: str) -> None:
    """Each parameter is described, and of a frame the index and columns, or a frame with the same ones is named."""
    heads = re.findall(r"^(\S.*?)(?: : .*)?$", section(name, "Parameters"), flags=re.MULTILINE)
    described = {word.strip().lstrip("*") for head in heads for word in head.split(",")}
    assert {one.name for one in parameters(name)} - described == set()
    if inspect.signature(public(name)).return_annotation == "pd.DataFrame":
        assert section(name, "Returns") or "with the columns of" in (inspect.getdoc(public(name)) or "")


def test_the_errors_are_a_module_of_their_own() -> None:
    """`ct.errors` is what `import cloudtasks_nb.errors` gives."""
    assert ct.errors is importlib.import_module("cloudtasks_nb.errors")
    assert all(issubclass(getattr(ct.errors, name), ct.errors.CloudTasksError) for name in ct.errors.__all__)


def test_verbs_share_their_words() -> None:
    """A word learned with one task is the word for many; a backfill has the options of a fan-out."""
    enqueue, fan_out, backfill = (
        {one.name for one in parameters(f"Queue.{verb}")} for verb in ("enqueue", "fan_out", "backfill")
    )
    assert enqueue - {"task_id"} <= fan_out
    assert fan_out - {"data", "key"} <= backfill

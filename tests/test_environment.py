"""The lists of dependencies agree: pyproject.toml, environment.yml, constraints.txt and the page of reasons."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.wheels import PLATFORMS, PROJECTS, STORED

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

#: Lines of environment.yml that name a package: two spaces deep for conda, six for its `pip:` part.
PACKAGE_LINE = re.compile(r"^(?P<indent>  |      )- (?P<requirement>[A-Za-z0-9_.-]+(?:>=[0-9.]+)?)$")
OTHER_LINES = re.compile(
    r"#.*|  #.*||name: cloudtasks_nb|channels:|  - conda-forge|dependencies:|  - pip:|      - -e \."
)


def bounds(requirements: list[str]) -> dict[str, str]:
    """Lower bound by name, without the extras of our own."""
    parsed = [Requirement(text) for text in requirements]
    return {canonicalize_name(r.name): str(r.specifier) for r in parsed if r.name != PROJECT["name"]}


def environment() -> dict[str, dict[str, str]]:
    """Read environment.yml: bounds by name, for `conda` and for `pip`."""
    found: dict[str, dict[str, str]] = {"conda": {}, "pip": {}}
    for line in (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines():
        if OTHER_LINES.fullmatch(line):
            continue
        match = PACKAGE_LINE.fullmatch(line)
        assert match, f"environment.yml: {line!r} is neither a package with a lower bound nor a known other line"
        found["conda" if len(match["indent"]) == 2 else "pip"] |= bounds([match["requirement"]])
    return found


def pins() -> list[Requirement]:
    """Read constraints.txt: one pin a line. A package can have two, each for some releases of Python."""
    return [Requirement(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]


def test_conda_environment_equals_the_project_with_its_lab_extra() -> None:
    """A conda user gets the packages and bounds of `pip install cloudtasks-nb[lab]`, each from the channel or pip."""
    listed = environment()
    python, _pip = listed["conda"].pop("python"), listed["conda"].pop("pip")
    assert python == PROJECT["requires-python"]
    assert listed["conda"] | listed["pip"] == bounds(PROJECT["dependencies"] + EXTRAS["lab"])
    assert not listed["conda"].keys() & listed["pip"].keys()


def test_constraints_are_versions_only() -> None:
    """A pin is a name, a version and perhaps a condition: no address, no hash, no path."""
    assert pins()
    assert [pin for pin in pins() if pin.url or [each.operator for each in pin.specifier] != ["=="]] == []


@pytest.mark.parametrize("python", ["3.11.0", "3.11.7", "3.12.1", "3.13.5", "3.14.0"])
@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_constraints_pin_what_the_project_asks_for(extra: str, python: str) -> None:
    """Every dependency has one pin on every Python, and the pin satisfies the lower bound."""
    here = {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    pinned = [(canonicalize_name(p.name), p.specifier) for p in pins() if not p.marker or p.marker.evaluate(here)]
    for text in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            versions = [specifier for name, specifier in pinned if name == canonicalize_name(requirement.name)]
            assert len(versions) == 1, f"{requirement.name} needs one pin, it has {versions}: run `make constraints`"
            (version,) = (each.version for each in versions[0])
            assert version in requirement.specifier, f"{requirement.name}=={version} is too old: run `make constraints`"


@pytest.mark.parametrize("name", PROJECTS)
def test_the_locked_versions_have_wheels_everywhere(name: str) -> None:
    """What `make wheels` found on each Linux, processor and Python is what is locked, for every dependency."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert stored["platforms"] == PLATFORMS
    locked = {f"{pin.name}{pin.specifier}": pin for pin in pins()}
    assert stored[name].keys() <= locked.keys(), "run `make wheels`"
    project = tomllib.loads((ROOT / PROJECTS[name]).read_text(encoding="utf-8"))["project"]
    assert bounds(project["dependencies"]).keys() <= {canonicalize_name(locked[one].name) for one in stored[name]}


def test_every_dependency_has_its_reason() -> None:
    """The site gives a reason for each dependency, and lists no others."""
    text = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", text, flags=re.MULTILINE)
    every = bounds(PROJECT["dependencies"]).keys() | {name for extra in EXTRAS.values() for name in bounds(extra)}
    assert {name for name, _reason in rows} == every

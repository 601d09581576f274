"""What a release publishes: two distributions, a conda recipe, a citation and a changelog, all of one version."""

import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudtasks_nb import __version__
from tests.packages.environments import EMULATOR, PATIENCE, ROOT, contents
from tests.processes import run
from tests.test_environment import PROJECT

rattler_build = pytest.importorskip("rattler_build", reason="make test-packages installs it")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the distributions that `make dist` builds."""
    folder = tmp_path_factory.mktemp("dist")
    for options in ((str(ROOT),), ("--wheel", str(EMULATOR))):
        done = run(sys.executable, "-m", "build", "--outdir", folder, *options, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
    return folder


def test_an_index_would_take_the_distributions(built: Path) -> None:
    """Their metadata and texts are in order, and no wheel has a file that should not be there."""
    files = sorted(built.iterdir())
    assert [file.name for file in files] == [
        f"cloudtasks_emulator-{__version__}-py3-none-any.whl",
        f"cloudtasks_nb-{__version__}-py3-none-any.whl",
        f"cloudtasks_nb-{__version__}.tar.gz",
    ]
    for words, which in ((("twine", "check", "--strict"), files), (("check_wheel_contents",), files[:2])):
        done = run(sys.executable, "-m", *words, *which)
        assert done.returncode == 0, done.stdout


def test_the_source_distribution_has_the_package_alone(built: Path) -> None:
    """It has what its wheel is built of, the licence and the changelog: no tests, notebooks or pages of the site."""
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    others = {name for name in names if not name.startswith("cloudtasks_nb/")}
    assert others == {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    (wheel,) = built.glob("cloudtasks_nb-*.whl")
    assert {name for name in contents(wheel) if ".dist-info/" not in name} <= names


def test_the_conda_recipe_is_the_project() -> None:
    """It renders by its schema, with the version, the dependencies and the command of pyproject.toml."""
    (variant,) = rattler_build.Stage0Recipe.from_file(ROOT / "conda/recipe.yaml").render()
    recipe: dict[str, Any] = variant.recipe.to_dict() if not callable(variant.recipe) else variant.recipe().to_dict()
    assert recipe["package"] == {"name": PROJECT["name"], "version": __version__}
    python, *run_time = recipe["requirements"]["run"]
    assert python == f"python {PROJECT['requires-python']}"
    assert [text.replace(" ", "") for text in run_time] == PROJECT["dependencies"]
    (command,) = recipe["build"]["python"]["entry_points"]
    assert command.split(" = ") == [*next(iter(PROJECT["scripts"].items()))]


def test_every_document_names_the_version() -> None:
    """The changelog begins with it, or with what comes after it, and the citation has it."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert __version__ in re.findall(r"^## (\S+)", changelog, flags=re.MULTILINE)[:2]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__

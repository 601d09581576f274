"""Resolve both distributions to wheels for each platform, and write what was found: ``make wheels``."""

import json
import sys
import tempfile
from pathlib import Path

from tests.processes import run

ROOT = Path(__file__).parent.parent
#: The answer: distribution -> requirement -> the platforms that need it.
STORED = ROOT / "tests/packages/wheels.json"
PROJECTS = {"cloudtasks-nb": "pyproject.toml", "cloudtasks-emulator": "cloudtasks_nb/emulator/pyproject.toml"}
SYSTEMS = ("manylinux_2_28", "unknown-linux-musl")
PLATFORMS = [
    f"{python} {machine}-{system}"
    for python in ("3.11", "3.12", "3.13", "3.14")
    for machine in ("x86_64", "aarch64")
    for system in SYSTEMS
]


def resolve(uv: Path, project: str, platform: str) -> list[str]:
    """Return the locked requirements of a distribution on a platform, which all have a wheel there."""
    python, _, system = platform.partition(" ")
    options = ("--quiet", "--only-binary=:all:", "--constraints=constraints.txt", "--no-header", "--no-annotate")
    where = (f"--python-version={python}", f"--python-platform={system}", "--no-emit-index-url")
    done = run(uv, "pip", "compile", *options, *where, project, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{project} on {platform}: {done.stderr}")
    return done.stdout.split("\n")[:-1]


def main() -> None:
    """Resolve, and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin/python")
        for command in ((sys.executable, "-m", "venv", folder), (python, "-m", "pip", "install", "--quiet", "uv")):
            if (done := run(*command)).returncode:
                sys.exit(done.stderr)
        found: dict[str, dict[str, list[str]]] = {}
        for name, project in PROJECTS.items():
            needed = found.setdefault(name, {})
            for platform in PLATFORMS:
                for requirement in resolve(Path(folder, "bin/uv"), project, platform):
                    needed.setdefault(requirement, []).append(platform)
                sys.stdout.write(f"{name} on {platform}: wheels only\n")
    everywhere = {
        name: {requirement: "all" if where == PLATFORMS else where for requirement, where in sorted(needed.items())}
        for name, needed in found.items()
    }
    STORED.write_text(json.dumps({"platforms": PLATFORMS, **everywhere}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""A `gcloud` that knows what `ct.deploy` may use of it, refuses what Google refuses, and records its calls.

It keeps its state in `GCLOUD_STATE`, a JSON file: the account that is logged in, the service accounts that exist, the
URL that a deployed service has, whether policies have conditions, who may call the service, the command that fails.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMANDS = {
    command: frozenset(options)
    for command, options in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
FLAGS = {"--no-allow-unauthenticated", "--quiet", "--to-latest"}
#: The Pythons of the universal builder, and those that a base image chooses a builder for:
#: https://cloud.google.com/run/docs/runtimes/python
UNIVERSAL = ("3.13", "3.14")
BASE_IMAGES = ("python310", "python311", "python312", "python313", "python314")


def parse(words: list[str]) -> tuple[str, list[str], dict[str, str]]:
    """Return command, positional arguments and options; end with 2 for what gcloud does not know."""
    command = next((name for name in COMMANDS if f"{' '.join(words)} ".startswith(f"{name} ")), "")
    if not command:
        sys.exit(f"gcloud: no such command: {words}")
    options: dict[str, str] = {}
    positional: list[str] = []
    rest = iter(words[len(command.split()) :])
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            positional.append(word)
        elif name not in COMMANDS[command] | {"--project", "--format", "--quiet"}:
            sys.exit(f"gcloud {command}: unrecognized argument {word}")
        else:
            options[name] = value if equals or name in FLAGS else next(rest)
    return command, positional, options


def answer(state: dict[str, Any], words: list[str]) -> str:
    """Do a command and return what it prints."""
    command, positional, options = parse(words)
    state["calls"].append([command, positional, options])
    if command == state["fails"] and state["failures"]:
        state["failures"] -= 1
        sys.exit(f"ERROR: (gcloud.{command}) {state['says']}")
    if not state["account"] and not command.startswith("config "):
        # https://cloud.google.com/sdk/docs/authorizing
        sys.exit(
            f"ERROR: (gcloud.{command}) You do not currently have an active account selected.\n"
            "Please run:\n\n  $ gcloud auth login\n\nto obtain new credentials."
        )
    if "--condition" in COMMANDS[command] and state["conditions"] and "--condition" not in options:
        # https://cloud.google.com/iam/docs/managing-conditional-role-bindings
        sys.exit(
            f"ERROR: (gcloud.{command}) Adding a binding without specifying a condition to a policy containing "
            "conditions is prohibited in non-interactive mode. Run the command again with `--condition=None`"
        )
    return _answer(state, command, positional, options)


def _answer(state: dict[str, Any], command: str, positional: list[str], options: dict[str, str]) -> str:
    if command == "config get-value":
        return str(state["account"] or "(unset)")
    if command == "auth print-access-token":
        return str(state["token"]) if state["token"] else sys.exit("ERROR: no such account")
    if command == "iam service-accounts describe" and positional[0] not in state["accounts"]:
        sys.exit("ERROR: NOT_FOUND: Unknown service account")
    if command == "iam service-accounts create":
        state["accounts"].append(f"{positional[0]}@{options['--project']}.iam.gserviceaccount.com")
    if command == "run deploy":
        build(Path(options["--source"]), options.get("--base-image"))
        state["deployed"] = True
    if command == "run services get-iam-policy":
        return json.dumps({"bindings": [{"role": "roles/run.invoker", "members": state["invokers"]}]})
    if command == "run services describe":
        if not state["deployed"]:
            sys.exit("ERROR: Cannot find service")
        annotations = {"run.googleapis.com/invoker-iam-disabled": "true"} if state["unchecked"] else {}
        found = {"metadata": {"annotations": annotations}, "status": {"url": state["url"]}}
        return json.dumps(found) if options.get("--format") == "json" else str(state["url"])
    return ""


def build(source: Path, base_image: str | None) -> None:
    """Choose the builder of a folder; end as a build does for a Python that the builder lacks.

    Without a base image it is the universal builder, on Ubuntu 24 since February 2026
    (https://github.com/GoogleCloudPlatform/buildpacks/issues/597).
    """
    wanted = (source / ".python-version").read_text().strip()
    if base_image not in (None, f"python{wanted.replace('.', '')}") or base_image not in (None, *BASE_IMAGES):
        sys.exit(f"ERROR: (gcloud.run.deploy) Build failed: {base_image} is not a base image for Python {wanted}")
    if base_image is None and wanted not in UNIVERSAL:
        sys.exit(
            "Building Container... failed\nERROR: (gcloud.run.deploy) Build failed: Failed to resolve version "
            f"{wanted} for Python on stack ubuntu2404 against [3.14.5 3.13.0]"
        )


def main() -> None:
    """Answer one command."""
    path = Path(os.environ["GCLOUD_STATE"])
    state = json.loads(path.read_text())
    try:
        sys.stdout.write(answer(state, sys.argv[1:]) + "\n")
    finally:
        path.write_text(json.dumps(state))


def environment(state: Path) -> dict[str, str]:
    """Return the variables that the deployed service has."""
    deployed = [options for name, _, options in json.loads(state.read_text())["calls"] if name == "run deploy"]
    return dict(pair.split("=", 1) for pair in deployed[-1].get("--update-env-vars", "").split(",") if pair)


def state_with(**state: Any) -> dict[str, Any]:
    """Return the state of a gcloud that nobody has called yet."""
    known = {
        "account": "ann@example.com",
        "accounts": [],
        "deployed": False,
        "fails": "",
        "failures": 99,
        "says": "it is broken today",
    }
    known |= {"url": "https://report-1.run.app", "token": "", "conditions": True, "invokers": [], "unchecked": False}
    return {**known, "calls": [], **state}


def run(state: dict[str, Any], words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Answer one command in this process, as the command of `install` answers it in one of its own."""
    try:
        return subprocess.CompletedProcess(words, 0, f"{answer(state, list(words))}\n", "")
    except SystemExit as ended:
        return subprocess.CompletedProcess(words, 1, "", f"{ended}\n")


def install(folder: Path, **state: Any) -> Path:
    """Write the command into a folder, and return the file of its state."""
    path = folder / "gcloud.json"
    path.write_text(json.dumps(state_with(**state)))
    command = folder / "gcloud"
    command.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n")
    command.chmod(0o755)
    return path


if __name__ == "__main__":
    main()

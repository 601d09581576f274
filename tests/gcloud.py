"""A `gcloud` that knows the commands and options that `ct.deploy` may use, and records what it is asked for.

It keeps its state in `GCLOUD_STATE`, a JSON file: the account that is logged in, the service accounts that exist, the
URL that a deployed service has, the command that fails.
"""

import json
import os
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

#: Options of each command, without those of every command (https://cloud.google.com/sdk/gcloud/reference).
NONE, POLICY = frozenset[str](), frozenset({"--member", "--role"})
COMMANDS: dict[str, AbstractSet[str]] = {
    **dict.fromkeys(("config get-value", "services enable"), NONE),
    **dict.fromkeys(("iam service-accounts describe", "iam service-accounts create"), NONE),
    **dict.fromkeys(("iam service-accounts add-iam-policy-binding", "storage buckets add-iam-policy-binding"), POLICY),
    "run deploy": {
        *("--source", "--region", "--service-account", "--add-custom-audiences", "--update-env-vars"),
        *("--no-allow-unauthenticated", "--concurrency", "--timeout"),
    },
    "run services add-iam-policy-binding": {*POLICY, "--region"},
    "run services describe": {"--region"},
}
FLAGS = {"--no-allow-unauthenticated", "--quiet"}


def parse(words: list[str]) -> tuple[str, list[str], dict[str, str]]:
    """Return command, positional arguments and options; end with 2 for what gcloud does not know."""
    command = next((name for name in COMMANDS if " ".join(words).startswith(f"{name} ")), "")
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
        sys.exit(f"ERROR: (gcloud.{command}) it is broken today")
    if command == "config get-value":
        return str(state["account"] or "(unset)")
    if command == "iam service-accounts describe" and positional[0] not in state["accounts"]:
        sys.exit("ERROR: NOT_FOUND: Unknown service account")
    if command == "iam service-accounts create":
        state["accounts"].append(f"{positional[0]}@{options['--project']}.iam.gserviceaccount.com")
    if command == "run deploy":
        state["deployed"] = True
    if command == "run services describe":
        return str(state["url"]) if state["deployed"] else sys.exit("ERROR: Cannot find service")
    return ""


def main() -> None:
    """Answer one command."""
    path = Path(os.environ["GCLOUD_STATE"])
    state = json.loads(path.read_text())
    try:
        sys.stdout.write(answer(state, sys.argv[1:]) + "\n")
    finally:
        path.write_text(json.dumps(state))


def install(folder: Path, **state: Any) -> Path:
    """Write the command into a folder, and return the file of its state."""
    path = folder / "gcloud.json"
    known = {"account": "ann@example.com", "accounts": [], "deployed": False, "fails": "", "failures": 99}
    path.write_text(json.dumps({**known, "url": "https://report-1.run.app", "calls": [], **state}))
    command = folder / "gcloud"
    command.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n")
    command.chmod(0o755)
    return path


if __name__ == "__main__":
    main()

"""The configuration file: what it may say, and the errors for what it may not."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.errors import InvalidInputError
from tests.unit.emulator.conftest import QUEUE

MISTAKES = tomllib.loads(Path(__file__).with_name("config_mistakes.toml").read_text(encoding="utf-8"))


def read(file: Path, text: str) -> ConfigFile:
    """Read a file with the options `port`, a number, and `strict`."""

    def port(value: Any) -> int:
        if not isinstance(value, int):
            raise InvalidInputError(f"{value} is not a port")
        return value

    file.write_text(text, encoding="utf-8")
    return ConfigFile.read(file, {"port": port, "strict": bool})


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json", "conf"])
def test_what_a_file_says(tmp_path: Path, suffix: str) -> None:
    """Options and queues are read, from YAML and JSON alike; null stands for what is not given."""
    limits = {"maxBurstSize": 5, "maxDispatchesPerSecond": 0.5}
    queue: dict[str, Any] = {"name": QUEUE, "rateLimits": limits, "retryConfig": None, "state": "DISABLED"}
    queue["appEngineRoutingOverride"] = {"service": "s"}
    document = {"port": 5, "strict": None, "queues": [queue]}
    found = read(
        tmp_path / f"c.{suffix}", json.dumps(document, indent="\t") if suffix == "json" else yaml.safe_dump(document)
    )
    assert found.options == {"port": 5}
    message = found.queues[0]
    assert (message.rate_limits.max_burst_size, message.rate_limits.max_dispatches_per_second) == (5, 0.5)
    assert (message.state, message.HasField("retry_config")) == (3, False)
    assert message.app_engine_http_queue.app_engine_routing_override.service == "s"


def test_merged_keys(tmp_path: Path) -> None:
    """Queues of YAML may share settings by anchors and merge keys."""
    text = f"queues:\n- &base\n  name: {QUEUE}\n  state: PAUSED\n- <<: *base\n  name: {QUEUE}-2\n"
    queues = read(tmp_path / "c.yaml", text).queues
    assert [(queue.name, queue.state) for queue in queues] == [(QUEUE, 2), (f"{QUEUE}-2", 2)]


@pytest.mark.parametrize("row", MISTAKES["rows"])
def test_mistakes(tmp_path: Path, row: list[str]) -> None:
    """An error names the file, the line and the key, and what is allowed there."""
    text, error, *hint = (part.replace("QUEUE", QUEUE).replace("MANY", "[" * 5000) for part in row)
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path / "c.yaml", text)
    assert caught.value.message.startswith(f"{tmp_path / 'c.yaml'}:{error}")
    assert (caught.value.hint or "").startswith("".join(hint))
    assert (caught.value.hint is None) == (not hint)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named with the reason."""
    with pytest.raises(InvalidInputError, match=r"c\.yaml: the configuration file cannot be read: No such file"):
        ConfigFile.read(tmp_path / "c.yaml", {})

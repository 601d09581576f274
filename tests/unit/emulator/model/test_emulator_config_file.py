"""The configuration file: what it may say, and the errors for what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudtasks_nb.emulator.model.config_file import ConfigFile
from cloudtasks_nb.errors import InvalidInputError
from tests.cases import cases
from tests.unit.emulator.conftest import QUEUE

PLACE = f"queues:\n- name: {QUEUE}\n"


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


HEADERS = "headerOverrides: [{header: {key: A, value: on}}]"
#: Lines of a queue, the error behind the queue's place in the file, and the hint.
LINES: list[tuple[str, str, str | None]] = [
    ("rateLimit: 5", "rateLimit: there is no key rateLimit", "did you mean rateLimits?"),
    ("rateLimits: {maxBurst: 5}", "rateLimits.maxBurst: there is no key maxBurst", "did you mean maxBurstSize?"),
    ("purgeTime: 2020-01-01", "purgeTime: there is no key purgeTime", "allowed are name, "),
    ("rateLimits: 5", "rateLimits: 5 is not a mapping", None),
    ("rateLimits: {maxDispatchesPerSecond: a}", 'rateLimits.maxDispatchesPerSecond: "a" is not a number', None),
    ("rateLimits: {maxBurstSize: 1.5}", "rateLimits.maxBurstSize: 1.5 is not a whole number", None),
    ("rateLimits: {maxBurstSize: !!binary aGk=}", "rateLimits.maxBurstSize: ", None),
    ("retryConfig: {minBackoff: 1}", "retryConfig.minBackoff: 1 is not a duration in seconds, such as 1.5s", None),
    ("state: paused", 'state: "paused" is not one of RUNNING, PAUSED, DISABLED', None),
    ("state: !!set {a}", "state: ", None),
    ("httpTarget: {headerOverrides: 5}", "httpTarget.headerOverrides: this is not", None),
    (f"httpTarget: {{{HEADERS}}}", "httpTarget.headerOverrides[0].header.value: true is not text", None),
]


@cases(
    *((f"{PLACE}  {line}", f"3: queues[0].{error}", hint) for line, error, hint in LINES),
    (f"{PLACE}  httpTarget:\n    headerOverrides: 5", "4: queues[0].httpTarget.headerOverrides: this is not", None),
    (f"{PLACE}  rateLimits: {{maxDispatchesPerSecond: 501}}", "2: queues[0]: RateLimits.maxDispatchesPerS", None),
    (f"{PLACE}  httpTarget: {{oidcToken: {{}}, oauthToken: {{}}}}", "2: queues[0]: ", None),
    ("queues:\n- name: q", '2: queues[0]: "q" is not a queue name', "a queue name is "),
    ("queues:\n- state: PAUSED", '2: queues[0]: "" is not a queue name', "a queue name is "),
    (f"queues:\n- {QUEUE}", "1: queues[0]: this is not a queue", None),
    ("queues: 5", "1: queues: this is not a list of queues", None),
    (f"{PLACE}- name: {QUEUE}", f"3: queues[1]: the queue {QUEUE} is listed twice", None),
    ("port: x", "1: port: x is not a port", None),
    ("prot: 5", "1: prot: there is no key prot", "did you mean port?"),
    ("- a", "1: the file is not a mapping", None),
    ("", "1: the file is not a mapping", None),
    ("port: 1\nport: 2", "2: the key port is given twice", None),
    ("? [a]\n: b", "1: ", None),
    ("1: 2", "1: the key 1 is not text", None),
    ("queues:\n  - name: [", "2: expected the node content", None),
    ("x: !!python/object:os.system a", "1: could not determine a constructor", None),
    ("[" * 5000, " the configuration file cannot be understood", None),
    ("\x01", " the configuration file cannot be understood", None),
)
def test_mistakes(tmp_path: Path, text: str, error: str, hint: str | None) -> None:
    """An error names the file, the line and the key, and what is allowed there."""
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path / "c.yaml", text)
    assert caught.value.message.startswith(f"{tmp_path / 'c.yaml'}:{error}")
    assert (caught.value.hint or "").startswith(hint or "")
    assert (hint is None) == (caught.value.hint is None)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named with the reason."""
    with pytest.raises(InvalidInputError, match=r"c\.yaml: the configuration file cannot be read: No such file"):
        ConfigFile.read(tmp_path / "c.yaml", {})

"""What the emulator answers, over gRPC and REST: the files in `answers/` are the tables of requests and answers."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.location import locations_pb2
from google.cloud.logging_v2 import types as log_types
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from tests.integration.conftest import LOCATION, Emulator, refusal

CLIENTS = {
    "v2": (tasks_v2.CloudTasksClient, tasks_v2),
    "v2beta3": (tasks_v2beta3.CloudTasksClient, tasks_v2beta3),
    "log": (LoggingServiceV2Client, log_types),
}
#: Where the requests of the calls are that all services have.
COMMON = (iam_policy_pb2, operations_pb2, locations_pb2)
#: What a request has if its row says nothing else.
DEFAULTS = tomllib.loads(Path(__file__).with_name("defaults.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Calls one after the other, each with its answer."""

    given: list[Any]
    steps: list[Any]
    texts: dict[str, str]

    @property
    def over_http(self) -> bool:
        """Whether no client of Google takes part."""
        return all("/" in step[0] for step in self.steps)


def tables() -> Iterator[Any]:
    """Yield each row of the files, with the transports and the options of its table."""
    for file in sorted(Path(__file__).with_name("answers").glob("*.toml")):
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        texts, before, both = content.pop("texts", {}), content.pop("before", []), content.pop("over", ["grpc", "rest"])
        for name, table in content.items():
            for number, row in enumerate(table["rows"]):
                steps = [row] if isinstance(row[0], str) else row
                case = Case(given=[*before, *table.get("given", [])], steps=steps, texts=texts)
                over = ["grpc"] if case.over_http else table.get("over", both)
                for transport in over:
                    made = f"{file.stem}-{name}-{number}-{transport}"
                    yield pytest.param(case, transport, table.get("options", []), id=made)


def filled(part: Any, known: dict[str, Any]) -> Any:
    """Put in the location for `…`, what is known for names in braces, and what is repeated so often."""
    if isinstance(part, dict):
        return {filled(name, known): filled(value, known) for name, value in part.items()}
    if isinstance(part, list):
        times = re.fullmatch(r"\*(\d+)", str(part[-1])) if part else None
        many = [known | {"n": n} for n in range(int(times[1]))] if times else [known]
        return [filled(one, each) for each in many for one in (part[:-1] if times else part)]
    if not isinstance(part, str):
        return part
    text = re.sub(r"\{(\w+)\}", lambda found: str(known.get(found[1], found[0])), part)
    return re.sub(r"\{([^{}]+)\*(\d+)\}", lambda found: found[1] * int(found[2]), text).replace("…", LOCATION)


def fits(found: Any, wanted: Any) -> bool:
    """Return whether an answer has all that is wanted: `~` begins a pattern, and a number counts what a list has."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(fits(found.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(fits, found, wanted))
    if isinstance(wanted, str) and isinstance(found, str) and wanted.startswith("~"):
        return re.fullmatch(wanted[1:], found) is not None
    if isinstance(wanted, int) and (found is None or isinstance(found, list)):
        return len(found or ()) == wanted
    return bool(found is None if wanted == "absent" else found == wanted)


@cache
def connect(emulator: Emulator, api: str) -> Any:
    """Connect a client of Google's, once."""
    return emulator.connect(CLIENTS[api][0])


def called(emulator: Emulator, call: str, request: Any) -> Any:
    """Return what a call of Google's client answers, as JSON; of a refusal its code and its text."""
    api, name = call.split() if " " in call else ("v2", call)
    kind = next(kind for module in (CLIENTS[api][1], *COMMON) if (kind := vars(module).get(f"{name}Request")))
    content = filled(DEFAULTS.get(name, {}), {}) | request
    plain = issubclass(kind, Message)  # the others are wrapped by Google's proto-plus
    message = ParseDict(content, kind()) if plain else kind.wrap(ParseDict(content, kind.pb()()))
    method = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    try:
        answer = getattr(connect(emulator, api), method)(message)
    except GoogleAPICallError as error:
        return ": ".join(refusal(error))
    if answer is None:
        return {}
    answer = next(iter(answer.pages)) if hasattr(answer, "pages") else getattr(answer, "operation", answer)
    return MessageToDict(answer if isinstance(answer, Message) else type(answer).pb(answer))


def asked(emulator: Emulator, call: str, body: Any, headers: Mapping[str, str], *, whole: bool) -> Any:
    """Return what a request of HTTP is answered; of a refusal status, code and text, or the whole answer."""
    verb, path = call.split(" ", 1)
    data = None if verb in {"GET", "DELETE"} else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    status, content = emulator.ask(verb, path, data, headers)
    if whole or status < 300:
        return content
    error = content["error"]
    return f"{status}: {error}" if isinstance(error, str) else f"{status} {error['status']}: {error['message']}"


def step(emulator: Emulator, call: str, request: Any, wanted: Any, headers: Any = None) -> Any:
    """Do one call and compare its answer."""
    patient, call = call.startswith("until "), call.removeprefix("until ")
    texts = isinstance(wanted, str)

    def found() -> Any:
        if "/" in call:
            return asked(emulator, call, request, headers or {}, whole="error" in wanted and not texts)
        return called(emulator, call, request)

    if patient:
        return emulator.until(lambda: answer if fits(answer := found(), wanted) else None)
    answer = found()
    shown = answer.partition(":")[0] if texts and ":" not in wanted and isinstance(answer, str) else answer
    assert fits(shown, wanted), f"{call} {request}: {answer!r} is not {wanted!r}"
    return answer


def everything(emulator: Emulator) -> list[Any]:
    """Return the queues, and the tasks of the first one."""
    return [emulator.ask("GET", f"/v2/{LOCATION}/queues{path}") for path in ("", "/here/tasks")]


@pytest.mark.parametrize(("case", "transport", "cloud_tasks_emulator_arguments"), [*tables()])
def test_answers(emulator: Emulator, case: Case) -> None:
    """Each call of a row has its answer, or is refused with its code and text and changes nothing."""
    known: dict[str, Any] = dict(case.texts)
    for row in filled(case.given, known):
        step(emulator, *row)
    before = everything(emulator)
    for row in case.steps:
        answer = step(emulator, *filled(row, known))
        known |= answer if isinstance(answer, dict) else {}
    if len(case.steps) == 1 and isinstance(case.steps[0][2], str):
        assert everything(emulator) == before

"""Arguments, environment and defaults."""

import datetime as dt
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb import _settings
from cloudtasks_nb._settings import parse_duration, parse_time, parse_zone
from cloudtasks_nb.errors import ConfigurationError, CredentialsError, InvalidInputError
from cloudtasks_nb.service.endpoint import Endpoint, resolve
from tests.cases import cases
from tests.raising import raises

Set = Callable[..., None]
TABLE = tomllib.loads(Path(__file__).with_name("settings.toml").read_text(encoding="utf-8"))


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set environment variables; None leaves one as it is."""

    def set_all(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return set_all


def place(endpoint: Endpoint) -> tuple[str | None, str | None]:
    """Take project and location."""
    return endpoint.project, endpoint.location


WORK = "[core]\nproject = gcloud-project\naccount = 50%@example.com\n[run]\nregion = gcloud-region\n"
BOTH = {"config_work": WORK, "config_home": "[core]\nproject = home-project\n"}
GENERAL = {"GOOGLE_CLOUD_LOCATION": "google", "GCLOUD_PROJECT": "old"}
#: Configurations of gcloud, of which `work` is active if it is there; variables; and the project and location.
SOURCES: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str | None, str | None]]] = {
    "our own": (BOTH, {**GENERAL, "CLOUDTASKS_NB_LOCATION": "ours", "GOOGLE_CLOUD_PROJECT": "new"}, ("new", "ours")),
    "general": (BOTH, GENERAL, ("old", "google")),
    "gcloud": (BOTH, {}, ("gcloud-project", "gcloud-region")),
    "global": (BOTH, {"GOOGLE_CLOUD_LOCATION": "global"}, ("gcloud-project", "gcloud-region")),
    "named": (BOTH, {"CLOUDSDK_ACTIVE_CONFIG_NAME": "home"}, ("home-project", None)),
    "default": ({"config_default": WORK}, {}, ("gcloud-project", "gcloud-region")),
    "location": ({"config_work": f"{WORK}[tasks]\nlocation = europe-west6\n"}, {}, ("gcloud-project", "europe-west6")),
    "broken": ({"config_work": "no section"}, {}, (None, None)),
    "no text": ({"config_work": b"\xff\xfe\x00"}, {}, (None, None)),
    "cut": ({"config_work": "[core]\nproject"}, {}, (None, None)),
}


@pytest.mark.parametrize(("files", "variables", "expected"), SOURCES.values(), ids=SOURCES)
def test_sources_in_order(tmp_path: Path, set_variables: Set, files: Any, variables: Any, expected: Any) -> None:
    """Arguments, our own variables, the general ones, and gcloud's configuration: its location before its region."""
    (tmp_path / "configurations").mkdir()
    if "config_work" in files:
        (tmp_path / "active_config").write_text("work\n")
    for name, text in files.items():
        (tmp_path / "configurations" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    set_variables(CLOUDSDK_CONFIG=str(tmp_path), **variables)
    assert place(resolve(None, None, None)) == expected
    assert place(resolve("example.com:p-1", "l", None)) == ("example.com:p-1", "l")


@cases(
    (Endpoint(project=None, location="l", target="t", local=False), "gcloud config set project"),
    (Endpoint(project="p", location=None, target="t", local=False), 'ct.connect("p", "us-central1")'),
)
def test_what_is_not_known_is_said_by_the_first_verb(endpoint: Endpoint, words: str) -> None:
    """The error has the line that mends it."""
    with raises(ConfigurationError, "is not known", hint=words):
        endpoint.parent()


@pytest.mark.parametrize("value", ["global", "us", "eu"])
def test_a_location_of_other_products_is_not_one_of_queues(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Users of Gemini set `GOOGLE_CLOUD_LOCATION=global`: it is left out, and the error for no region says so."""
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", value)
    assert resolve("p", None, "127.0.0.1:1").location == "us-central1"
    with pytest.raises(ConfigurationError, match=f"GOOGLE_CLOUD_LOCATION={value} is not a region"):
        resolve("p", None, None).parent()
    with raises(InvalidInputError, f'location="{value}" is not a region', hint='connect("my-project", "us-central1")'):
        resolve("p", value, None)
    monkeypatch.setenv("CLOUDTASKS_NB_LOCATION", "europe-west6")
    assert resolve("p", None, None).location == "europe-west6"


@cases(*map(tuple, TABLE["universes"]))
def test_the_universe(set_variables: Set, variable: str, endpoint: str, domain: str, target: str, log: str) -> None:
    """The services of a sovereign cloud are Google's: called with credentials, the log at its own host."""
    set_variables(GOOGLE_CLOUD_UNIVERSE_DOMAIN=variable)
    found = resolve("p", "l", endpoint or None).in_universe(domain)
    assert (found.target, found.log_target, found.local) == (target, log, False)


@cases(*map(tuple, TABLE["other_universes"]))
def test_credentials_of_another_universe(set_variables: Set, variable: str, endpoint: str, domain: str) -> None:
    """A token is not sent to a service that it is not made for."""
    set_variables(GOOGLE_CLOUD_UNIVERSE_DOMAIN=variable)
    hint = f"GOOGLE_CLOUD_UNIVERSE_DOMAIN={domain}"
    with raises(CredentialsError, f"are of the universe domain {domain}, and", hint=hint):
        resolve("p", "l", endpoint or None).in_universe(domain)


@cases(*map(tuple, TABLE["talked_to"]))
def test_what_is_talked_to(set_variables: Set, endpoint: str, variable: str, target: str, *, local: bool) -> None:
    """The argument, else the emulator of the environment, else Google; credentials are for Google's hosts only."""
    set_variables(CLOUD_TASKS_EMULATOR_HOST=variable or None)
    found = resolve("p", "l", endpoint or None)
    assert (found.target, found.local) == (target, local)


def test_an_emulator_has_a_project_and_a_location(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator takes any names, preferably configured ones; for Google they have to be configured."""
    assert place(resolve(None, None, "127.0.0.1:1")) == ("local", "us-central1")
    assert place(resolve(None, None, None)) == (None, None)
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", "localhost:8123")
    endpoint = resolve(None, None, None)
    assert (*place(endpoint), endpoint.named_by) == ("local", "us-central1", "CLOUD_TASKS_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
    assert place(resolve(None, "l", None)) == ("mine", "l")
    assert resolve(None, None, "127.0.0.1:1").named_by is None


@pytest.mark.parametrize("value", ["garbage", "host:port", "http://", "host/path"])
def test_an_emulator_of_the_environment_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The error names the variable: nothing in the cell shows where the value came from."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", value)
    text = f'CLOUD_TASKS_EMULATOR_HOST="{value}" is not the address'
    with raises(InvalidInputError, text, hint="127.0.0.1:8123, or unset it"):
        resolve("p", "l", None)
    assert resolve("p", "l", "127.0.0.1:1").target == "127.0.0.1:1"


def test_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made when needed: where `CLOUDTASKS_NB_HOME` says, else in the platform's folder for user data."""
    home = tmp_path / "a" / "b"
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(home))
    assert (_settings.home(), home.is_dir()) == (home, True)
    monkeypatch.delenv("CLOUDTASKS_NB_HOME")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name, **_: str(tmp_path / name))
    assert _settings.home() == tmp_path / "cloudtasks_nb"


def test_a_deployed_handler_has_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does without the package that names the platform's folder, and stores results in any folder."""
    monkeypatch.delenv("CLOUDTASKS_NB_HOME")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert not _settings.is_in_home(str(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")
@cases((0o755, 0o700), (0o770, 0o700), (0o500, 0o500), (0o1777, 0o1777))
def test_a_home_that_was_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int) -> None:
    """It is closed to others, except a folder like /tmp, which is there for them."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(before)
    assert stat.S_IMODE(_settings.home().stat().st_mode) == after


def test_a_relative_home_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that changes the working directory does not change the home, which knows what was sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", f"home-{tmp_path.name}")
    (tmp_path / "other").mkdir()
    home = _settings.home()
    monkeypatch.chdir(tmp_path / "other")
    assert (_settings.home(), home.parent) == (home, tmp_path)


def test_a_home_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place is named, together with the variable that mends it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / "file" / "home"))
    with raises(ConfigurationError, "cannot be created", hint="CLOUDTASKS_NB_HOME"):
        _settings.home()


@cases(*map(tuple, TABLE["near"]))
def test_only_a_misspelling_or_a_synonym_is_near(word: str, words: str, near: str) -> None:
    """A name that begins with another letter, or shares half of the letters, means something else."""
    assert _settings.near_words(word, words.split()) == near.split()
    assert _settings.near_words("", ["at", ""]) == []


TEXTS = {"10min": 600, "1h 30min": 5400, "1.5 h": 5400, " 2 days ": 172_800, "250ms": 0.25, "1D": 86_400}


@cases(
    *TEXTS.items(),
    *((number, number) for number in (90, 0.5, np.int64(3), np.float32(0.5), 0)),
    (pd.Timedelta("1min"), 60),
    (np.timedelta64(90, "s"), 90),
    (dt.timedelta(hours=1), 3600),
)
def test_durations(value: Any, seconds: float) -> None:
    """Text with units, timedeltas of Python and pandas, and seconds."""
    assert parse_duration(value, "delay").total_seconds() == seconds


@given(st.timedeltas(min_value=dt.timedelta(0), max_value=dt.timedelta(days=3000)))
def test_a_timedelta_is_taken_as_it_is(value: dt.timedelta) -> None:
    """Nothing is lost to rounding, to the microsecond."""
    assert abs(parse_duration(value, "delay") - value) <= dt.timedelta(microseconds=1)


KINDS = (str, dt.datetime.fromisoformat, pd.Timestamp)


@cases(
    *((text, None) for text in ("2026-01-02 06:00+09:00", " 2026-01-01T21:00Z ")),
    *(("2026-01-02 06:00", "Asia/Tokyo"), (dt.datetime(2026, 1, 1, 21, tzinfo=dt.UTC), None)),
    (pd.Timestamp("2026-01-01 22:00", tz="Europe/Zurich"), "UTC"),
    (pd.Timestamp("2026-01-01 21:00"), dt.UTC),
)
def test_times(value: Any, tz: Any) -> None:
    """Text, datetime and Timestamp; an offset of its own comes before `tz`."""
    assert parse_time(value, "at", tz) == dt.datetime(2026, 1, 1, 21, tzinfo=dt.UTC)


SKIPPED, TWICE = "2025-03-30 01:30", "2025-10-26 01:30"  # in London


@cases(*((kind(time), word) for time, word in ((SKIPPED, "does not exist"), (TWICE, "comes twice")) for kind in KINDS))
def test_a_local_time_that_is_no_moment_or_two(value: Any, word: str) -> None:
    """It is refused with both times that may be meant, each of which is taken."""
    with raises(InvalidInputError, f"{word} in Europe/London", hint="offset") as caught:
        parse_time(value, "at", "Europe/London")
    first, second = re.findall('"([^"]+)"', caught.value.message)
    assert abs(parse_time(first, "at") - parse_time(second, "at")) == dt.timedelta(hours=1)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_second_of_two_times(kind: Callable[[str], Any]) -> None:
    """A time that says that it is the second one is that."""
    second = kind(TWICE).replace(fold=1)
    assert parse_time(second, "at", "Europe/London") == dt.datetime(2025, 10, 26, 1, 30, tzinfo=dt.UTC)


@cases(
    *((name, name) for name in ("UTC", "Europe/Zurich", "UTC-03:30")),
    (ZoneInfo("Europe/Zurich"), "Europe/Zurich"),
    (dt.UTC, "UTC"),
    (dt.timezone(dt.timedelta(hours=9), "JST"), "UTC+09:00"),
)
def test_zones(tz: Any, name: str) -> None:
    """A name, an offset or a tzinfo is a zone whose own name leads to it again."""
    zone = parse_zone(tz)
    assert (str(zone), parse_zone(name)) == (name, zone)

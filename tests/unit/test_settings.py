"""Arguments, environment and defaults."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb import _settings
from cloudtasks_nb._settings import (
    Endpoint,
    check_names,
    parse_duration,
    parse_time,
    parse_zone,
    resolve,
)
from cloudtasks_nb.errors import ConfigurationError, CredentialsError, InvalidInputError, NaiveTimeError


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of a gcloud configuration that knows a project and a region."""
    (tmp_path / "configurations").mkdir()
    (tmp_path / "active_config").write_text("work\n")
    (tmp_path / "configurations" / "config_work").write_text(
        "[core]\nproject = gcloud-project\naccount = 50%@example.com\n[run]\nregion = gcloud-region\n"
    )
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    return tmp_path


def place(endpoint: Endpoint) -> tuple[str | None, str | None]:
    """Take project and location."""
    return endpoint.project, endpoint.location


def test_arguments_come_first(gcloud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller says is not overruled by anything."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "env-project")
    monkeypatch.setenv("CLOUDTASKS_NB_LOCATION", "env-location")
    assert place(resolve("p", "l", None)) == ("p", "l")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {
                "CLOUDTASKS_NB_LOCATION": "ours",
                "GOOGLE_CLOUD_LOCATION": "google",
                "GOOGLE_CLOUD_PROJECT": "new",
                "GCLOUD_PROJECT": "old",
            },
            ("new", "ours"),
        ),
        ({"GOOGLE_CLOUD_LOCATION": "google", "GCLOUD_PROJECT": "old"}, ("old", "google")),
        ({}, ("gcloud-project", "gcloud-region")),
    ],
)
def test_the_order_of_the_sources(
    gcloud: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[str, str]
) -> None:
    """Environment before gcloud's configuration, our own variable before the general ones."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place(resolve(None, None, None)) == expected


def test_the_tasks_location_of_gcloud_comes_before_a_region(gcloud: Path) -> None:
    """A location that was set for Cloud Tasks is more to the point than Cloud Run's region."""
    file = gcloud / "configurations" / "config_work"
    file.write_text(file.read_text() + "[tasks]\nlocation = europe-west6\n")
    assert resolve(None, None, None).location == "europe-west6"


def test_another_gcloud_configuration_may_be_named(gcloud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CLOUDSDK_ACTIVE_CONFIG_NAME` chooses among the configurations, as for gcloud."""
    (gcloud / "configurations" / "config_home").write_text("[core]\nproject = home-project\n")
    monkeypatch.setenv("CLOUDSDK_ACTIVE_CONFIG_NAME", "home")
    assert place(resolve(None, None, None)) == ("home-project", None)


def test_the_default_gcloud_configuration(gcloud: Path) -> None:
    """Without an active one gcloud uses `default`, and so do we."""
    (gcloud / "active_config").unlink()
    (gcloud / "configurations" / "config_work").rename(gcloud / "configurations" / "config_default")
    assert place(resolve(None, None, None)) == ("gcloud-project", "gcloud-region")


@pytest.mark.parametrize("text", [b"no section", b"\xff\xfe\x00", b"[core]\nproject"])
def test_a_broken_gcloud_configuration_is_none(gcloud: Path, text: bytes) -> None:
    """A file that cannot be read leaves project and location unknown; the first verb says so."""
    (gcloud / "configurations" / "config_work").write_bytes(text)
    assert place(resolve(None, None, None)) == (None, None)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (Endpoint(project=None, location="l", target="t", local=False), "gcloud config set project"),
        (Endpoint(project="p", location=None, target="t", local=False), 'ct.connect("p", "us-central1")'),
    ],
)
def test_what_is_not_known_is_said_by_the_first_verb(endpoint: Endpoint, words: str) -> None:
    """The error has the line that mends it."""
    with pytest.raises(ConfigurationError, match="is not known") as caught:
        endpoint.parent()
    assert words in (caught.value.hint or "")


@pytest.mark.parametrize("value", ["global", "us", "eu"])
def test_a_location_of_other_products_is_not_one_of_queues(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Users of Gemini set `GOOGLE_CLOUD_LOCATION=global`: it is left out, and the error for no region says so."""
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", value)
    assert resolve("p", None, "127.0.0.1:1").location == "us-central1"
    with pytest.raises(ConfigurationError, match=f"GOOGLE_CLOUD_LOCATION={value} is not a region"):
        resolve("p", None, None).parent()
    with pytest.raises(InvalidInputError, match=f'location="{value}" is not a region') as caught:
        resolve("p", value, None)
    assert 'ct.connect("my-project", "us-central1")' in (caught.value.hint or "")
    monkeypatch.setenv("CLOUDTASKS_NB_LOCATION", "europe-west6")
    assert resolve("p", None, None).location == "europe-west6"


def test_a_configured_region_is_used_instead_of_global(gcloud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next source of a location is asked."""
    assert gcloud.exists()
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "global")
    assert resolve("p", None, None).location == "gcloud-region"


@pytest.mark.parametrize(
    ("variable", "endpoint", "domain", "target", "log"),
    [
        ("", None, "googleapis.com", "cloudtasks.googleapis.com", "logging.googleapis.com"),
        ("", None, "apis.example", "cloudtasks.apis.example", "logging.apis.example"),
        ("apis.example", None, "apis.example", "cloudtasks.apis.example", "logging.apis.example"),
        ("apis.example", "r.apis.example", "apis.example", "r.apis.example", "logging.apis.example"),
        ("", "https://cloudtasks.apis.example", "apis.example", "cloudtasks.apis.example", "logging.apis.example"),
        ("", "https://127.0.0.1:1", "apis.example", "127.0.0.1:1", "127.0.0.1:1"),
    ],
)
def test_the_universe_of_the_credentials(
    monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str | None, domain: str, target: str, log: str
) -> None:
    """The services of a sovereign cloud are Google's: called with credentials, the log at its own host."""
    monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", variable)
    found = resolve("p", "l", endpoint).in_universe(domain)
    assert (found.target, found.log_target, found.local) == (target, log, False)


@pytest.mark.parametrize(
    ("variable", "endpoint", "domain"),
    [
        ("apis.example", None, "googleapis.com"),
        ("", "cloudtasks.mtls.googleapis.com", "apis.example"),
        ("apis.example", None, "evilapis.example"),
    ],
)
def test_credentials_of_another_universe(
    monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str | None, domain: str
) -> None:
    """A token is not sent to a service that it is not made for."""
    monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", variable)
    with pytest.raises(CredentialsError, match=f"are of the universe domain {domain}, and") as caught:
        resolve("p", "l", endpoint).in_universe(domain)
    assert f"GOOGLE_CLOUD_UNIVERSE_DOMAIN={domain}" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("endpoint", "variable", "target", "local"),
    [
        (None, None, "cloudtasks.googleapis.com", False),
        ("https://127.0.0.1:8443", None, "127.0.0.1:8443", False),
        (None, "https://127.0.0.1:8443/", "127.0.0.1:8443", False),
        (None, "localhost:8123", "localhost:8123", True),
        (None, "http://localhost:8123/", "localhost:8123", True),
        ("127.0.0.1:1", "localhost:8123", "127.0.0.1:1", True),
        ("cloudtasks.googleapis.com", "localhost:8123", "cloudtasks.googleapis.com", False),
        ("https://cloudtasks.mtls.googleapis.com/", None, "cloudtasks.mtls.googleapis.com", False),
        ("us-central1-cloudtasks.googleapis.com:443", None, "us-central1-cloudtasks.googleapis.com:443", False),
        ("notgoogleapis.com:443", None, "notgoogleapis.com:443", True),
        ("[::1]:8123", None, "[::1]:8123", True),
    ],
)
def test_what_is_talked_to(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, variable: str | None, target: str, *, local: bool
) -> None:
    """The argument, else the emulator of the environment, else Google; credentials are for Google's hosts only."""
    if variable is not None:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", variable)
    found = resolve("p", "l", endpoint)
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
    with pytest.raises(InvalidInputError, match=f'CLOUD_TASKS_EMULATOR_HOST="{value}" is not the address') as caught:
        resolve("p", "l", None)
    assert "127.0.0.1:8123, or unset it" in (caught.value.hint or "")
    assert resolve("p", "l", "127.0.0.1:1").target == "127.0.0.1:1"


def test_a_transport_that_there_is_not() -> None:
    """The error names those that there are."""
    assert [resolve("p", "l", None, name).rest for name in (None, "grpc", "rest")] == [False, False, True]
    with pytest.raises(InvalidInputError, match="transport='http' is not a transport") as caught:
        resolve("p", "l", None, "http")
    assert caught.value.hint == 'use "grpc" or "rest"'


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://",
        "host:port",
        "host:99999",
        "host/path",
        ":80",
        " host:80",
        "evil.com?.googleapis.com",
        "https://evil.com#.googleapis.com",
        "ann@host",
    ],
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    """A malformed endpoint raises before anything is called."""
    with pytest.raises(InvalidInputError, match="is not an endpoint"):
        resolve("p", "l", endpoint)


def test_home_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CLOUDTASKS_NB_HOME` names the home, which is made when needed."""
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / "a" / "b"))
    assert _settings.home() == tmp_path / "a" / "b"
    assert _settings.home().is_dir()


def test_home_of_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable it is the platform's folder for user data."""
    monkeypatch.delenv("CLOUDTASKS_NB_HOME")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name, **_: str(tmp_path / name))
    assert _settings.home() == tmp_path / "cloudtasks_nb"


def test_a_home_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place is named, together with the variable that mends it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigurationError, match="cannot be created") as caught:
        _settings.home()
    assert "CLOUDTASKS_NB_HOME" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("max_atempts", '"max_atempts" is not a queue setting; did you mean "max_attempts"'),
        ("xyz", '"xyz" is not a queue setting'),
    ],
)
def test_an_unknown_word_is_refused_with_near_ones(word: str, words: str) -> None:
    """A slip is corrected; the hint lists all words there are."""
    with pytest.raises(InvalidInputError) as caught:
        check_names({"rate": 1, word: 2}, _settings.QUEUE_SETTINGS, "queue setting")
    assert caught.value.message.startswith(words)
    assert caught.value.resource == word
    assert "log_sampling_ratio" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10min", 600),
        ("1h 30min", 5400),
        ("1.5 h", 5400),
        (" 2 days ", 172_800),
        ("250ms", 0.25),
        ("1D", 86_400),
        (90, 90),
        (0.5, 0.5),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (pd.Timedelta("1min"), 60),
        (np.timedelta64(90, "s"), 90),
        (dt.timedelta(hours=1), 3600),
        (0, 0),
    ],
)
def test_durations(value: Any, seconds: float) -> None:
    """Text with units, timedeltas of Python and pandas, and seconds."""
    assert parse_duration(value, "delay").total_seconds() == seconds


@pytest.mark.parametrize(
    "value",
    ["", "10", "10 parsecs", "-5s", "5s later", "1:30", -1, float("nan"), float("inf"), True, None, pd.NaT, Decimal(1)],
)
def test_what_is_no_duration(value: Any) -> None:
    """The error names the argument and shows the forms."""
    with pytest.raises(InvalidInputError, match=r"^delay=.* is not a duration") as caught:
        parse_duration(value, "delay")
    assert '"10min"' in (caught.value.hint or "")


@given(st.timedeltas(min_value=dt.timedelta(0), max_value=dt.timedelta(days=3000)))
def test_a_timedelta_is_taken_as_it_is(value: dt.timedelta) -> None:
    """Nothing is lost to rounding, to the microsecond."""
    assert abs(parse_duration(value, "delay") - value) <= dt.timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("value", "tz"),
    [
        ("2026-01-02 06:00+09:00", None),
        (" 2026-01-01T21:00Z ", None),
        ("2026-01-02 06:00", "Asia/Tokyo"),
        (dt.datetime(2026, 1, 1, 21, tzinfo=dt.UTC), None),
        (pd.Timestamp("2026-01-01 22:00", tz="Europe/Zurich"), "UTC"),
        (pd.Timestamp("2026-01-01 21:00"), dt.UTC),
    ],
)
def test_times(value: Any, tz: Any) -> None:
    """Text, datetime and Timestamp; an offset of its own comes before `tz`."""
    assert parse_time(value, "at", tz) == dt.datetime(2026, 1, 1, 21, tzinfo=dt.UTC)


@pytest.mark.parametrize("value", ["2026-01-02 06:00", dt.datetime(2026, 1, 2, 6), pd.Timestamp("2026-01-02 06:00")])  # noqa: DTZ001 - the subject
def test_a_naive_time_is_refused(value: Any) -> None:
    """The hint has both ways out: an offset and `tz=`."""
    with pytest.raises(NaiveTimeError, match="has no time zone") as caught:
        parse_time(value, "at")
    assert '"2026-01-02 06:00:00+00:00"' in (caught.value.hint or "")
    assert 'tz="Europe/Zurich"' in (caught.value.hint or "")


@pytest.mark.parametrize("value", ["tomorrow", "2026-13-01", 5, None, dt.date(2026, 1, 1), pd.NaT])
def test_what_is_no_time(value: Any) -> None:
    """The error names the argument and the value."""
    with pytest.raises(InvalidInputError, match=r"^at=.* is not a time"):
        parse_time(value, "at", "UTC")


@pytest.mark.parametrize(
    ("tz", "name"),
    [
        ("UTC", "UTC"),
        ("Europe/Zurich", "Europe/Zurich"),
        (ZoneInfo("Europe/Zurich"), "Europe/Zurich"),
        ("UTC-03:30", "UTC-03:30"),
        (dt.UTC, "UTC"),
        (dt.timezone(dt.timedelta(hours=9), "JST"), "UTC+09:00"),
    ],
)
def test_zones(tz: Any, name: str) -> None:
    """A name, an offset or a tzinfo is a zone whose own name leads to it again."""
    zone = parse_zone(tz)
    assert (str(zone), parse_zone(name)) == (name, zone)


@pytest.mark.parametrize("tz", ["Zurich", "", "../etc/passwd", "Europe", "UTC+9x", 5])
def test_what_is_no_zone(tz: Any) -> None:
    """An unknown zone is refused, also one that is only a folder of zones."""
    with pytest.raises(InvalidInputError, match="is not a time zone"):
        parse_zone(tz)


@pytest.mark.parametrize(
    ("check", "good", "bad", "kind"),
    [(_settings.check_text, "x", 5, "a string"), (_settings.check_mapping, {"x": 1}, "x", "a dictionary")],
)
def test_the_type_of_an_argument(check: Any, good: Any, bad: Any, kind: str) -> None:
    """An argument may be left out; another type is refused with an example."""
    check(None, "name", "name=...")
    check(good, "name", "name=...")
    with pytest.raises(InvalidInputError, match=f"^name={bad!r} is not {kind}") as caught:
        check(bad, "name", "name=...")
    assert caught.value.hint == f"use {kind}: name=..."


@pytest.mark.parametrize("project", ["My Project", "a/b", "café"])
def test_a_name_that_is_no_id_of_a_project(project: str) -> None:
    """Commands with a display name would be broken, and Google would not know it."""
    with pytest.raises(InvalidInputError, match="is not the id of a project: it may be its display name") as caught:
        resolve(project, "us-central1", None)
    assert "gcloud projects list" in (caught.value.hint or "")
    assert resolve("example.com:p-1", "us-central1", None).project == "example.com:p-1"

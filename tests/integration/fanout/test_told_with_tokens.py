"""Tokens that tasks carry to functions of this machine: who may not call a function does not."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from google.auth import _helpers, jwt

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator, StartEmulator, Target
from tests.integration.fanout.conftest import Serve

ROWS = pd.DataFrame({"row": range(4)})
ACCOUNT = "teller@demo.iam.gserviceaccount.com"
THIEF = "thief@demo.iam.gserviceaccount.com"
HEADERS = {"alg": "none", "typ": "JWT"}


@pytest.mark.parametrize(
    ("words", "later", "refusal"),
    [
        ({"service_account": ACCOUNT, "audience": "https://elsewhere.example"}, 0, (401, "audience")),
        ({"service_account": THIEF}, 0, (403, "thief@")),
        ({"service_account": ACCOUNT}, 2, (401, "expired")),
        ({}, 0, (401, "no Bearer token")),
    ],
    ids=["another audience", "another e-mail", "expired", "no token"],
)
def test_a_token_that_is_refused(
    once: ct.Queue,
    target: Target,
    emulator: Emulator,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    words: dict[str, str],
    later: int,
    refusal: tuple[int, str],
) -> None:
    """The function is not called by who may not call it."""
    heard: list[Any] = []
    handler = serve(lambda **summary: heard.append(summary), name=f"done-{once.id}", service_account=ACCOUNT)
    now: Callable[[], dt.datetime] = _helpers.utcnow
    monkeypatch.setattr(_helpers, "utcnow", lambda: now() + dt.timedelta(hours=later))
    once.fan_out(ROWS, url=target.url).on_complete(handler, **words).wait("60s")
    emulator.until(lambda: len(handler.calls()))
    emulator.drained(once.name)
    calls = handler.calls()
    assert calls["status"].tolist() == [refusal[0]]
    assert refusal[1] in calls["error"].iloc[0]
    assert heard == []


def test_a_token_of_tomorrow_is_refused(start_emulator: StartEmulator, serve: Serve) -> None:
    """An emulator whose clock is a day ahead issues tokens that are not valid yet."""
    ahead = start_emulator()
    ahead.advance(86_400)
    heard: list[Any] = []
    handler = serve(lambda **body: heard.append(body), name="tomorrow", service_account=ACCOUNT, issuer=ahead)
    with ct.connect("demo", "us-central1", endpoint=ahead.ready["grpc"]) as tasks:
        tasks.queue("ahead", create=True, max_attempts=1).enqueue(handler.url, {"row": 1}, service_account=ACCOUNT)
        ahead.until(lambda: len(handler.calls()))
    assert handler.calls()["status"].tolist() == [401]
    assert heard == []


@pytest.mark.parametrize("signature", ["", "AAAA"], ids=["unsigned", "signed by nobody"])
def test_a_forged_token_is_refused(once: ct.Queue, emulator: Emulator, serve: Serve, signature: str) -> None:
    """Right claims are not enough: the issuer has to have signed them."""
    heard: list[Any] = []
    handler = serve(lambda **body: heard.append(body), name=f"forged-{once.id}", service_account=ACCOUNT)
    now = int(time.time())
    claims = {"aud": handler.url, "email": ACCOUNT, "email_verified": True, "iat": now, "exp": now + 3600}
    parts = [_helpers.unpadded_urlsafe_b64encode(json.dumps(part).encode()).decode() for part in (HEADERS, claims)]
    forged = ".".join([*parts, signature])
    assert jwt.decode_header(forged) == HEADERS
    once.enqueue(handler.url, {"row": 1}, headers={"Authorization": f"Bearer {forged}"})
    emulator.until(lambda: len(handler.calls()))
    assert handler.calls()["status"].tolist() == [401]
    assert heard == []


@pytest.mark.parametrize(
    ("account", "succeeded", "causes"),
    [(ACCOUNT, 4, {}), (THIEF, 0, {"PERMISSION_DENIED": 4})],
    ids=["the right account", "another account"],
)
def test_a_routed_queue_calls_a_handler(
    once: ct.Queue, serve: Serve, account: str, succeeded: int, causes: dict[str, int]
) -> None:
    """Whatever URL the rows have, the queue sends them to its own with its own token, which the function checks."""
    rows: list[int] = []

    def work(row: int) -> None:
        rows.append(row)

    audience = "https://reports.example"
    handler = serve(work, name=f"route-{once.id}", service_account=ACCOUNT, audience=audience)
    once.route(handler.url, service_account=account, audience=audience)
    batch = once.fan_out(ROWS, url="http://127.0.0.1:9/elsewhere")
    assert batch.wait("60s").succeeded == succeeded == len(rows)
    assert batch.failed()["last_status"].value_counts().to_dict() == causes

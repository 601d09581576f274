"""Credentials in each of their forms, and a stand-in for Google's sign-in that gives or refuses their tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.service.auth import Auth
from tests.google_sign_in import ACCOUNT, KEY_PEM, METADATA, TARGET, USER, GoogleSignIn

__all__ = ["MakeAuth", "WriteAdc", "user_info"]

#: Writes the file of the default credentials and returns its path.
WriteAdc = Callable[[Any], Path]
#: Makes the credentials of a form: user, key, federation, file, argument, nested, delegated, metadata.
MakeAuth = Callable[[str], Auth]

POOL = "projects/123/locations/global/workloadIdentityPools/pool"
WORKFORCE_POOL = "locations/global/workforcePools/staff"
IMPERSONATION_URL = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken"
KEY = {
    "type": "service_account",
    "client_email": ACCOUNT,
    "private_key": KEY_PEM,
    "token_uri": "https://oauth2.googleapis.com/token",
    "project_id": "key-project",
}
FEDERATION = {
    "type": "external_account",
    "audience": f"//iam.googleapis.com/{POOL}/providers/github",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
}
WORKFORCE = {
    "type": "external_account_authorized_user",
    "audience": f"//iam.googleapis.com/{WORKFORCE_POOL}/providers/okta",
    "token_url": "https://sts.googleapis.com/v1/oauthtoken",
    "client_id": "id",
    "client_secret": "s",
    "refresh_token": f"refresh {USER}",
}


def user_info(email: str = USER, **more: Any) -> dict[str, Any]:
    """Return the content of the file that `gcloud auth application-default login` writes."""
    facts = {"type": "authorized_user", "client_id": "id", "client_secret": "s", "refresh_token": f"refresh {email}"}
    return {**facts, **more}


@pytest.fixture
def sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleSignIn]:
    """Answer in place of Google's hosts; this machine has no credentials and no metadata server."""
    with GoogleSignIn(tmp_path) as server:
        server.answers[METADATA] = 404, "there is no metadata server"
        monkeypatch.delenv("NO_PROXY", raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        yield server


@pytest.fixture
def write_adc() -> WriteAdc:
    """Write what is not text as JSON."""

    def write(content: Any) -> Path:
        path = Path(os.environ["CLOUDSDK_CONFIG"]) / "application_default_credentials.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def make_auth(sign_in: GoogleSignIn, write_adc: WriteAdc, tmp_path: Path) -> MakeAuth:
    """Make credentials that the stand-in knows."""
    (tmp_path / "token").write_text("workload 7")
    federation = {**FEDERATION, "credential_source": {"file": str(tmp_path / "token")}}
    impersonated = {"type": "impersonated_service_account", "source_credentials": user_info()}
    files: dict[str, dict[str, Any]] = {
        "workforce": WORKFORCE,
        "key": KEY,
        "federation": federation,
        "federated account": {**federation, "service_account_impersonation_url": IMPERSONATION_URL},
        "file": {**impersonated, "service_account_impersonation_url": IMPERSONATION_URL},
        "nested": {**impersonated, "service_account_impersonation_url": IMPERSONATION_URL.replace(TARGET, ACCOUNT)},
    }
    arguments = {"argument": TARGET, "nested": TARGET, "delegated": f"{ACCOUNT}, {TARGET}"}

    def make(form: str) -> Auth:
        if form == "metadata":
            del sign_in.answers[METADATA]
        else:
            write_adc(files.get(form) or user_info())
        return Auth(impersonate=arguments.get(form))

    return make

"""What each form of credentials says when it is missing, damaged, expired or refused; google-auth is not patched."""

import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import google.auth.exceptions
import google.oauth2.credentials
import pytest

from cloudtasks_nb import errors
from cloudtasks_nb.service.auth import Auth
from tests.google_sign_in import ACCOUNT, IAM, METADATA, TARGET, Answer, Asked, GoogleSignIn
from tests.raising import raises
from tests.unit.service.conftest import KEY, MakeAuth, WriteAdc

pytestmark = pytest.mark.usefixtures("sign_in")
Patch = pytest.MonkeyPatch
LOGIN = "run: gcloud auth application-default login"
TABLE = tomllib.loads(Path(__file__).with_name("sign_in.toml").read_text(encoding="utf-8"))
ANSWERS: dict[str, Any] = {name: tuple(answer) for name, answer in TABLE["answers"].items()}


def without_account(asked: Asked) -> Answer:
    """Answer as the metadata server of a machine without a service account."""
    return (200, "") if asked.path == "/" else (404, "Not Found")


def forbidden_to_target(asked: Asked) -> Answer:
    """Refuse the tokens of one account, and give those of others."""
    token = {"accessToken": "token", "expireTime": "2999-01-01T00:00:00Z"}
    return ANSWERS["forbidden"] if TARGET in asked.path else (200, token)


ANSWERS |= {"forbidden to the target": forbidden_to_target, "no account here": without_account}
REFUSED = [
    *TABLE["refused"],
    ("both", IAM, "forbidden to the target", f"cannot impersonate {TARGET}", f"--member=serviceAccount:{ACCOUNT}"),
    ("metadata", METADATA, "no account here", "this machine's metadata server has no token", "set-service-account"),
]
OUTCOMES = [(errors.CredentialsError, *row) for row in REFUSED] + [
    (errors.EndpointError, *row) for row in TABLE["faults"]
]


@pytest.mark.parametrize(("kind", "form", "host", "answer", "message", "hint"), OUTCOMES)
def test_a_renewal_without_a_token(
    sign_in: GoogleSignIn, make_auth: MakeAuth, kind: Any, form: str, host: str, answer: str, message: str, hint: str
) -> None:
    """The error says what was refused, in Google's words, and the command that mends it, with the real names."""
    auth = make_auth(form)
    sign_in.answers[host] = ANSWERS[answer]
    with raises(kind, re.escape(message), hint=hint) as caught:
        auth.renew()
    assert kind is errors.EndpointError or isinstance(caught.value.__cause__, google.auth.exceptions.GoogleAuthError)


BLOCKED = [
    ("REQUESTS_CA_BUNDLE", "", "does a proxy of this network inspect TLS"),
    ("https_proxy", "http://127.0.0.1:1", "HTTPS_PROXY and NO_PROXY"),
]


@pytest.mark.parametrize(("variable", "value", "hint"), BLOCKED)
def test_a_blocked_sign_in(make_auth: MakeAuth, monkeypatch: Patch, variable: str, value: str, hint: str) -> None:
    """A certificate of a proxy and a dead proxy are told apart."""
    auth = make_auth("user")
    monkeypatch.setenv(variable, value)
    with raises(errors.EndpointError, "Google's sign-in does not answer", hint=hint):
        auth.renew()


DAMAGED = [
    ("{'type':", "is not a valid json file.: Expecting property name"),
    ("[]", "'list' object has no attribute"),
    ({"type": "servce_account"}, "Type is servce_account, expected one of"),
    ({**KEY, "private_key": "-----BEGIN"}, "Failed to load service account credentials"),
    ({"type": "external_account"}, "Failed to load external account credentials"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
@pytest.mark.parametrize("named", [False, True])
def test_a_damaged_file(write_adc: WriteAdc, monkeypatch: Any, content: Any, message: str, *, named: bool) -> None:
    """The error names the file, what google-auth says of it, and how to get a good one."""
    file = write_adc(content)
    if named:
        file = file.rename(file.with_name("named.json"))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    words = f'^the credentials file "{file}".* cannot be used: .*{re.escape(message)}'
    hint = "iam service-accounts keys create key.json" if named else LOGIN
    with raises(errors.CredentialsError, words, hint=hint, resource=str(file)) as caught:
        Auth().credentials()
    assert ("GOOGLE_APPLICATION_CREDENTIALS" in caught.value.message) == named


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: Patch) -> None:
    """A wrong path, and the path of a folder, are told with the variable that names them."""
    for path, fault in ((tmp_path / "none.json", "was not found"), (tmp_path, "Is a directory")):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        with raises(errors.CredentialsError, f"names, cannot .*{fault}", hint="set GOOGLE_APPLICATION_CREDENTIALS"):
            Auth().credentials()


def test_a_key_in_place_of_its_path(monkeypatch: Patch) -> None:
    """The variable has the text of the key, as a secret of a pipeline gives it: the error does not show it."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", json.dumps(KEY))
    with pytest.raises(errors.CredentialsError, match="has the text of credentials, not the path") as caught:
        Auth().credentials()
    assert "PRIVATE KEY" not in str(caught.value)


def test_no_credentials() -> None:
    """The error has the command that makes some, and the way to work without an account."""
    hint = f"{LOGIN}   (or work without an account: ct.local())"
    with raises(errors.CredentialsError, "no Google credentials were found", hint=hint) as caught:
        Auth().credentials()
    assert isinstance(caught.value.__cause__, google.auth.exceptions.DefaultCredentialsError)


def test_on_colab(sign_in: GoogleSignIn, make_auth: MakeAuth, monkeypatch: Patch) -> None:
    """Colab has a sign-in of its own, before which its metadata server has no token."""
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    command = "run: from google.colab import auth; auth.authenticate_user()"
    with raises(errors.CredentialsError, "no Google credentials were found", hint=command):
        Auth().credentials()
    auth = make_auth("metadata")
    sign_in.answers[METADATA] = without_account
    with raises(errors.CredentialsError, "metadata server has no token", hint=command):
        auth.renew()


def test_a_token_of_the_identity_provider_that_is_not_there(make_auth: MakeAuth, tmp_path: Path) -> None:
    """A workload whose token is missing hears which file it is."""
    auth = make_auth("federation")
    (tmp_path / "token").unlink()
    with pytest.raises(errors.CredentialsError, match=rf"gave no token to this machine: File '{tmp_path}/token'"):
        auth.renew()


def test_a_token_that_was_given_and_has_expired() -> None:
    """Credentials of an argument can only be replaced by others."""
    given = google.oauth2.credentials.Credentials("token")
    with raises(errors.CredentialsError, "the credentials cannot be renewed", hint="ct.connect(credentials=...)"):
        Auth(given).renew()

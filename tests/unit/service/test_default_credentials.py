"""Application Default Credentials in each of their forms: what calls carry, and who they are made as."""

import base64
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.auth.transport.requests import Request

from cloudtasks_nb.errors import CredentialsError
from cloudtasks_nb.service.auth import SCOPE, Auth
from tests.cases import cases
from tests.google_sign_in import ACCOUNT, IAM, METADATA, OAUTH, STS, TARGET, UNIVERSE, USER, VM_ACCOUNT, GoogleSignIn
from tests.threads import at_once
from tests.unit.service.conftest import FEDERATION, KEY, POOL, WORKFORCE_POOL, MakeAuth, WriteAdc, user_info

pytestmark = pytest.mark.usefixtures("sign_in")
BOB = "bob@example.com"
FEDERATED = "workload identity federation"


def headers(auth: Auth) -> dict[str, str]:
    """Return the headers of a call with these credentials; a token is renewed as the channels do it."""
    carried: dict[str, str] = {}
    auth.credentials().before_request(Request(), "POST", "https://cloudtasks.googleapis.com/x", carried)
    return carried


def owner(auth: Auth) -> str:
    """Return whom the token of a call was made for."""
    return headers(auth)["authorization"].partition(" of ")[2]


@cases(
    ("user", USER, f"user:{USER}", "login of a user"),
    ("key", ACCOUNT, f"serviceAccount:{ACCOUNT}", "key of a service account"),
    ("federation", "workload 7", f"principal://iam.googleapis.com/{POOL}/subject/SUBJECT", FEDERATED),
    ("workforce", USER, f"principal://iam.googleapis.com/{WORKFORCE_POOL}/subject/SUBJECT", None),
    ("federated account", TARGET, f"serviceAccount:{TARGET}", FEDERATED),
    *((form, TARGET, f"serviceAccount:{TARGET}", None) for form in ("file", "nested", "delegated")),
    ("argument", TARGET, f"serviceAccount:{TARGET}", "impersonation of a service account"),
    ("metadata", VM_ACCOUNT, f"serviceAccount:{VM_ACCOUNT}", "metadata server of this machine"),
)
def test_each_form(make_auth: MakeAuth, form: str, token_of: str, member: str, named: str | None) -> None:
    """A call carries a token of the account, and `principal` names it, for a login too; `doctor` names the form."""
    auth = make_auth(form)
    assert named in (None, auth.form())
    auth.renew()
    assert owner(auth) == token_of
    if member.startswith("principal:"):
        assert (auth.principal(), auth.member()) == (member, f"'{member}'")
    else:
        assert (auth.principal(), auth.member()) == (token_of, member)


def jwt_of(**claims: Any) -> str:
    """Return a token that says something, with a signature that nobody checks here."""
    return ".".join(base64.urlsafe_b64encode(part).decode() for part in (b"{}", json.dumps(claims).encode(), b"x"))


POD = "system:serviceaccount:lab:build 7's"
JSON = {"format": {"type": "json", "subject_token_field_name": "id_token"}}
SUBJECTS = cases(
    (jwt_of(sub=POD), {}, POD),
    (json.dumps({"id_token": jwt_of(sub="repo:a/b:ref:refs/heads/main")}), JSON, "repo:a/b:ref:refs/heads/main"),
    (jwt_of(sub="a\x1b[2J"), {}, "SUBJECT"),
    (jwt_of(sub=7), {}, "SUBJECT"),
    (jwt_of(), {}, "SUBJECT"),
    ("a SAML assertion", {}, "SUBJECT"),
    ("{}", JSON, "SUBJECT"),
    ("[]", JSON, "SUBJECT"),
    (None, {}, "SUBJECT"),
)


@SUBJECTS
def test_a_subject_in_a_file(
    sign_in: GoogleSignIn, write_adc: WriteAdc, tmp_path: Path, content: str | None, more: Any, subject: str
) -> None:
    """A member is one person of the pool: the subject of the token that is in a file, else a placeholder."""
    if content is not None:
        (tmp_path / "jwt").write_text(content)
    write_adc({**FEDERATION, "credential_source": {"file": str(tmp_path / "jwt"), **more}})
    auth = Auth()
    assert shlex.split(str(auth.member())) == [f"principal://iam.googleapis.com/{POOL}/subject/{subject}"]
    assert sign_in.asked == []


def test_a_subject_that_must_be_asked_for(sign_in: GoogleSignIn, write_adc: WriteAdc) -> None:
    """No server is asked, and no program is run, for a token whose subject a hint would name."""
    for source in ({"url": f"https://{STS}/token"}, {"executable": {"command": "touch x"}}):
        write_adc({**FEDERATION, "credential_source": source})
        assert str(Auth().member()).endswith("/subject/SUBJECT'")
    assert sign_in.asked == []


def test_nothing_is_asked_before_the_first_need(sign_in: GoogleSignIn, make_auth: MakeAuth) -> None:
    """Making a connection asks nobody, and a token is asked for once."""
    auth = make_auth("user")
    assert sign_in.asked == []
    assert auth.credentials() is auth.credentials()
    first = headers(auth)
    auth.credentials().drop("an older token")
    assert headers(auth) == first
    assert [asked.host for asked in sign_in.asked] == [OAUTH]


@cases(
    ("argument", [(OAUTH, "", ""), (IAM, f"of {USER}", TARGET)]),
    ("nested", [(OAUTH, "", ""), (IAM, f"of {USER}", ACCOUNT), (IAM, f"of {ACCOUNT}", TARGET)]),
    ("delegated", [(OAUTH, "", ""), (IAM, f"of {USER}", TARGET)]),
    ("federated account", [(STS, "", ""), (IAM, "of workload 7", TARGET)]),
)
def test_a_chain_of_impersonations(sign_in: GoogleSignIn, make_auth: MakeAuth, form: str, chain: list[Any]) -> None:
    """Each account is impersonated with the token of the one before it; delegates are sent with the request."""
    make_auth(form).renew()
    for asked, (host, bearer, account) in zip(sign_in.asked, chain, strict=True):
        assert (asked.host, asked.bearer.endswith(bearer), account in asked.path) == (host, True, True)
    if form == "delegated":
        assert sign_in.asked[-1].body["delegates"] == [ACCOUNT]
    assert sign_in.asked[-1].body["scope"] in ([SCOPE], SCOPE)


@cases(("user", None), ("key", "key-project"), ("metadata", "vm-project"), ("federation", "pool-project"))
def test_the_project(sign_in: GoogleSignIn, make_auth: MakeAuth, form: str, project: str | None) -> None:
    """It is asked for only where the credentials do not contain it."""
    sign_in.answers["cloudresourcemanager.googleapis.com"] = 200, {"projectId": "pool-project"}
    assert make_auth(form).project() == project


@pytest.fixture
def paying(sign_in: GoogleSignIn, write_adc: WriteAdc, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Auth]:
    """Make credentials with the quota project of an argument, the variable and the file."""

    def make(argument: str | None, variable: str | None, file: str | None, **more: Any) -> Auth:
        write_adc(user_info(**({"quota_project_id": file} if file else {})))
        if variable:
            monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", variable)
        return Auth(quota_project=argument, **more)

    return make


@cases(
    ("by-argument", "by-variable", "by-file", "by-argument"),
    (None, "by-variable", "by-file", "by-variable"),
    (None, None, "by-file", "by-file"),
    (None, None, None, None),
)
def test_the_quota_project(paying: Callable[..., Auth], argument: Any, variable: Any, file: Any, expected: Any) -> None:
    """The argument comes before `GOOGLE_CLOUD_QUOTA_PROJECT`, and that before the file's; each call carries it."""
    auth = paying(argument, variable, file)
    assert headers(auth).get("x-goog-user-project") == expected
    assert auth.credentials().quota_project_id == expected


@pytest.mark.parametrize(("argument", "variable"), [("paying", None), (None, "paying"), (None, None)])
def test_who_pays_for_an_impersonation(sign_in: GoogleSignIn, paying: Any, argument: Any, variable: Any) -> None:
    """The quota project of the caller's file pays for the impersonation, not for the account's calls."""
    auth = paying(argument, variable, "of-the-caller", impersonate=TARGET)
    assert headers(auth).get("x-goog-user-project") == (argument or variable)
    assert sign_in.asked[-1].headers["x-goog-user-project"] == (variable or "of-the-caller")


def test_a_universe_domain(sign_in: GoogleSignIn, write_adc: WriteAdc) -> None:
    """A key of a sovereign cloud signs its own tokens, and impersonates with the API of that cloud."""
    write_adc({**KEY, "universe_domain": UNIVERSE})
    auth = Auth()
    auth.renew()
    assert (auth.credentials().universe_domain, sign_in.asked) == (UNIVERSE, [])
    acting = Auth(impersonate=TARGET)
    acting.renew()
    assert acting.credentials().universe_domain == UNIVERSE
    assert [asked.host for asked in sign_in.asked] == [IAM.replace("googleapis.com", UNIVERSE)]


def test_a_new_login_heals_a_running_kernel(sign_in: GoogleSignIn, make_auth: MakeAuth, write_adc: WriteAdc) -> None:
    """After `gcloud auth application-default login` the same credentials object has a token of the new login."""
    auth = make_auth("user")
    credentials = auth.credentials()
    sign_in.answers[OAUTH] = 400, {"error": "invalid_grant"}
    with pytest.raises(CredentialsError):
        auth.renew()
    del sign_in.answers[OAUTH]
    write_adc(user_info(BOB, quota_project_id="bobs"))
    assert (owner(auth), auth.principal(), headers(auth)["x-goog-user-project"]) == (BOB, BOB, "bobs")
    assert auth.credentials() is credentials


def test_a_login_during_a_renewal(sign_in: GoogleSignIn, make_auth: MakeAuth, write_adc: WriteAdc) -> None:
    """A call that waits for a renewal with the old login has the token of the new one."""
    auth = make_auth("user")

    def refuse(_: object) -> tuple[int, dict[str, str]]:
        del sign_in.answers[OAUTH]
        write_adc(user_info(BOB))
        return 400, {"error": "invalid_grant"}

    sign_in.answers[OAUTH] = refuse
    assert owner(auth) == BOB


def test_a_login_as_somebody_else_is_noticed(make_auth: MakeAuth, write_adc: WriteAdc) -> None:
    """A token that is still good is not used after a login as another account."""
    auth = make_auth("user")
    assert owner(auth) == USER
    write_adc(user_info(BOB))
    assert not auth.credentials().valid
    assert owner(auth) == BOB


def test_another_file(make_auth: MakeAuth, tmp_path: Path, monkeypatch: Any, write_adc: WriteAdc) -> None:
    """A cell that sets `GOOGLE_APPLICATION_CREDENTIALS` changes the account of the running kernel."""
    auth = make_auth("user")
    assert owner(auth) == USER
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(write_adc(KEY).rename(tmp_path / "key.json")))
    assert owner(auth) == ACCOUNT
    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "none.json")
    with pytest.raises(CredentialsError, match="was not found"):
        auth.renew()
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    write_adc(user_info(BOB))
    assert owner(auth) == BOB


def test_a_machine_that_gets_an_account_later(sign_in: GoogleSignIn, make_auth: MakeAuth) -> None:
    """A sign-in that leaves no file, as on Colab, heals the kernel too."""
    auth = make_auth("metadata")
    sign_in.answers[METADATA] = lambda asked: (200, "") if asked.path == "/" else (404, "Not Found")
    for _ in range(2):
        with pytest.raises(CredentialsError, match="metadata server has no token"):
            auth.renew()
    del sign_in.answers[METADATA]
    assert owner(auth) == VM_ACCOUNT


def test_threads_renew_once(sign_in: GoogleSignIn, make_auth: MakeAuth) -> None:
    """Threads of gRPC that find an expired token at the same time make one request."""
    auth = make_auth("user")
    auth.credentials()
    assert at_once(lambda: owner(auth), 8) == [USER] * 8
    assert len(sign_in.asked) == 1


def test_a_login_without_an_identity(sign_in: GoogleSignIn, make_auth: MakeAuth) -> None:
    """A login whose token does not say who it is for has no principal; what is no JWT is not read as one."""
    auth = make_auth("user")
    answers: list[Any] = [{}, {"id_token": "opaque"}]
    for more in answers:
        sign_in.answers[OAUTH] = 200, {"access_token": "token", "expires_in": 3600, **more}
        auth.renew()
        assert (auth.principal(), auth.member()) == (None, None)

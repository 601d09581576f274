"""The ways to a token that google-auth knows, each against the strict emulator, and tokens of tasks."""

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth
import google.auth.exceptions
import google.auth.impersonated_credentials
import google.auth.jwt
import google.auth.transport.requests
import pytest
import requests
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import id_token
from google.oauth2.service_account import IDTokenCredentials

from cloudtasks_nb.testing import StrictEmulator
from tests.integration.conftest import LOCATION, Answer, Target
from tests.integration.strict.conftest import ADMIN, QUEUE, REFUSALS, Connect, Load, in_a_process, task

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
VIEWER = "roles/cloudtasks.viewer"


def session(loaded: Any) -> AuthorizedSession:
    """Return a session with credentials; a refused call does not renew them."""
    return AuthorizedSession(loaded, refresh_status_codes=())


def test_a_subject_token_that_is_not_known(emulator: StrictEmulator, credentials: Load) -> None:
    """The exchange of an unknown token is refused."""
    file = emulator.workload("thief", VIEWER)
    Path(json.loads(file.read_text())["credential_source"]["file"]).write_text("stolen")
    with pytest.raises(google.auth.exceptions.OAuthError, match="invalid_grant"):
        credentials(file).refresh(google.auth.transport.requests.Request())


def test_id_tokens(emulator: StrictEmulator, credentials: Load) -> None:
    """An ID token that a service account gets for itself, or that another one makes, is verified by google-auth."""
    key = emulator.service_account("self", "roles/iam.serviceAccountOpenIdTokenCreator")
    request = google.auth.transport.requests.Request()
    own = IDTokenCredentials.from_service_account_file(str(key), target_audience="https://job")
    own.refresh(request)
    with session(credentials(key)) as http:
        url = f"{emulator.http}/v1/projects/-/serviceAccounts/{emulator.email('self')}:generateIdToken"
        made = http.post(url, json={"audience": "https://job", "includeEmail": True}).json()["token"]
    for token in (own.token, made):
        claims = id_token.verify_token(token, request, "https://job", certs_url=f"{emulator.http}/oauth2/v1/certs")
        assert claims["email"] == emulator.email("self")


METADATA = """
import google.auth, google.auth.transport.requests, json
credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
with google.auth.transport.requests.AuthorizedSession(credentials) as http:
    answer = http.get(f"{http_url}/v2/{queue}").json()
print(json.dumps([project, credentials.service_account_email, answer]))
"""


@pytest.mark.parametrize(
    ("scopes", "expected"), [([SCOPE], QUEUE), (["https://www.googleapis.com/auth/devstorage.read_only"], None)]
)
def test_metadata_server(emulator: StrictEmulator, tmp_path: Path, scopes: list[str], expected: str | None) -> None:
    """google-auth takes the machine's service account from the metadata server, with the machine's scopes."""
    variables = emulator.machine("workbench", VIEWER, scopes=scopes)
    code = f"http_url, queue = {emulator.http!r}, {QUEUE!r}\n{METADATA}"
    project, email, answer = in_a_process(code, tmp_path, variables)
    assert (project, email) == ("demo", emulator.email("workbench"))
    assert answer.get("name") == expected


def test_metadata_server_under_a_foreign_name(emulator: StrictEmulator) -> None:
    """A web page whose name leads to this machine gets no token, though it can send every header."""
    address = emulator.machine("workbench", VIEWER)["GCE_METADATA_HOST"]
    url = f"http://{address}/computeMetadata/v1/instance/service-accounts/default/token"
    for host, status in [("pages.example", 403), ("metadata.google.internal", 200)]:
        headers = {"Metadata-Flavor": "Google", "Host": host}
        assert requests.get(url, headers=headers, timeout=240).status_code == status
    for path, text in (("project/project-id", "demo"), ("universe/universe-domain", "googleapis.com")):
        url = f"http://{address}/computeMetadata/v1/{path}"
        assert requests.get(url, headers=headers, timeout=240).text == text


def test_the_proxy_leads_nowhere_else(emulator: StrictEmulator) -> None:
    """It refuses hosts that are not Google's, and closes the connection."""
    address = urlsplit(emulator.google_environment["https_proxy"])
    with socket.create_connection((address.hostname, address.port), timeout=240) as proxy:
        proxy.sendall(b"CONNECT pages.example:443 HTTP/1.1\r\n\r\n")
        assert proxy.makefile("rb").read().startswith(b"HTTP/1.1 403")


def test_secrets_are_private(emulator: StrictEmulator) -> None:
    """Only their owner can read the keys of the emulator and the files with credentials."""
    files = [emulator.service_account("private"), emulator.user("private@example.com")]
    files += [emulator.key, emulator.key.with_name("ca-key.pem"), emulator.key.with_name("google.json")]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


THROUGH_PROXY = """
from google.cloud import tasks_v2
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from cloudtasks_nb.handlers.verify import GOOGLE_CERTS, fetch_certificates
import google.auth, json
clients = [tasks_v2.CloudTasksClient(), tasks_v2.CloudTasksClient(transport="rest")]
names = [queue.name for client in clients for queue in client.list_queues(parent=location)]
entries = list(LoggingServiceV2Client().list_log_entries({"resource_names": ["projects/demo"]}))
keys = fetch_certificates(GOOGLE_CERTS)
print(json.dumps([names, len(entries), len(keys), type(google.auth.default()[0]).__module__]))
"""


def test_google_by_its_own_names(emulator: StrictEmulator, tmp_path: Path) -> None:
    """Behind its proxy the emulator is Google: clients without an endpoint, with the file that gcloud writes."""
    roles = [VIEWER, "roles/logging.viewer", "roles/serviceusage.serviceUsageConsumer"]
    file = emulator.user("ann@example.com", roles, gcloud=True, quota_project="demo")
    variables = {**emulator.google_environment, "GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    found = in_a_process(f"location = {LOCATION!r}\n{THROUGH_PROXY}", tmp_path, variables)
    assert found == [[QUEUE, QUEUE], 0, 1, "google.oauth2.credentials"]


@pytest.mark.parametrize(("url", "invoker", "audience", "status"), REFUSALS["doors"])
def test_the_door_of_cloud_run(
    emulator: StrictEmulator, connect: Connect, target: Target, url: str, invoker: str, audience: str, status: str
) -> None:
    """A service is reached at its URL by accounts that may invoke it, with a token for this URL."""
    emulator.service_account("caller", key=False)
    emulator.cloud_run(url, target.port, invokers=invoker, audiences=["https://custom"])
    emulator.seed({"reports": {"max_attempts": 1}})
    token = {"oidc_token": {"service_account_email": emulator.email("caller"), "audience": audience}}
    created = task(f"{url}/job?day=1", **(token if audience else {}))
    connect(emulator.user("ann@example.com", "roles/owner")).create_task(parent=QUEUE, task=created)
    assert [done["status"] for done in emulator.history(QUEUE, at_least=1)] == [status]
    found = [(request.path, request.headers["host"]) for request in target.received]
    assert found == ([("/job?day=1", url.removeprefix("https://"))] if status == "OK" else [])


SIGNATURES = [(False, False, [True]), (True, False, [False]), (False, True, [False, True])]


@pytest.mark.parametrize(("kept", "serverless", "removed"), SIGNATURES, ids=["removed", "kept", "another header"])
def test_the_signature_of_a_checked_token(
    emulator: StrictEmulator, connect: Connect, target: Target, *, kept: bool, serverless: bool, removed: list[bool]
) -> None:
    """The container gets the token that Cloud Run has checked without its signature, and another one as it was."""
    url = "https://g.run.app"
    key = emulator.service_account("caller", "roles/run.invoker")
    emulator.cloud_run(url, target.port, invokers="caller")
    emulator.set(signatures_kept=kept)
    emulator.seed({"reports": {"max_attempts": 1}})
    created = task(url, oidc_token={"service_account_email": emulator.email("caller"), "audience": url})
    if serverless:
        own = IDTokenCredentials.from_service_account_file(str(key), target_audience=url)
        own.refresh(google.auth.transport.requests.Request())
        created["http_request"]["headers"] = {"X-Serverless-Authorization": f"Bearer {own.token}"}
    connect(emulator.user("ann@example.com", "roles/owner")).create_task(parent=QUEUE, task=created)
    headers = target.wait()[0].headers
    found = [headers[name] for name in ("authorization", "x-serverless-authorization") if name in headers]
    assert [value.endswith(".SIGNATURE_REMOVED_BY_GOOGLE") for value in found] == removed


def test_policies_of_services_and_buckets(emulator: StrictEmulator, credentials: Load) -> None:
    """Who may read them sees who may call a service, or use a bucket; others and what is not there are refused."""
    emulator.cloud_run("https://other-7.us-central1.run.app", 9)
    emulator.cloud_run("https://report-7.us-central1.run.app", 9, invokers="caller")
    emulator.grant("caller@demo.iam.gserviceaccount.com", "roles/storage.objectUser", "gs://team")
    reader, nobody = emulator.user("ann@example.com", "roles/run.viewer"), emulator.user("bob@example.com")
    emulator.grant("ann@example.com", "roles/storage.admin", "gs://team")
    services, team = "v2/projects/demo/locations/us-central1/services", "storage/v1/b/team/iam"
    asked = (f"{services}/report:getIamPolicy", f"{services}/none:getIamPolicy", f"{services}/report", team)
    with session(credentials(reader)) as http:
        found = [http.get(f"{emulator.http}/{path}") for path in asked]
        assert [one.status_code for one in found] == [200, 404, 200, 200]
        members = ["serviceAccount:caller@demo.iam.gserviceaccount.com"]
        assert found[0].json() == {"bindings": [{"role": "roles/run.invoker", "members": members}]}
        assert found[2].json()["invokerIamDisabled"] is False
        assert {"role": "roles/storage.objectUser", "members": members} in found[3].json()["bindings"]
    with session(credentials(nobody)) as http:
        assert [http.get(f"{emulator.http}/{path}").status_code for path in asked] == [403, 404, 403, 403]


def test_a_request_of_somebody_else(emulator: StrictEmulator, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the proxy a service is reached by those who may invoke it, once their right works."""
    url = "https://report-7.us-central1.run.app"
    key = emulator.service_account("caller")
    own = IDTokenCredentials.from_service_account_file(str(key), target_audience=url)
    own.refresh(google.auth.transport.requests.Request())
    emulator.set(grants_after_s=3600)
    emulator.cloud_run(url, target.port, invokers="caller")
    for name, value in emulator.google_environment.items():
        monkeypatch.setenv(name, value)
    bearer = {"Authorization": f"Bearer {own.token}", "X-Own": "1"}
    target.script(Answer(status=418, headers={"X-Reply": "yes"}, body=b"short and stout"))

    def post(headers: dict[str, str] = bearer) -> requests.Response:
        return requests.post(f"{url}/a?b=1", data=b"tea", headers=headers, timeout=240)

    assert post().status_code == 403  # the role does not work yet
    emulator.set(grants_after_s=0)
    emulator.revoke(emulator.email("caller"), "roles/run.invoker", url)
    emulator.cloud_run(url, target.port, invokers="caller")
    assert post({"X-Own": "1"}).status_code == 403
    assert post({"Authorization": "Bearer nonsense"}).status_code == 401
    answer = post()
    assert (answer.status_code, answer.headers["X-Reply"], answer.content) == (418, "yes", b"short and stout")
    (request,) = target.received
    assert (request.method, request.path, request.body, request.headers["x-own"]) == ("POST", "/a?b=1", b"tea", "1")
    emulator.cloud_run(url, 9, invokers="caller")
    assert post().status_code == 503
    assert requests.get("https://other-7.us-central1.run.app/", timeout=240).status_code == 403


def test_a_restart_keeps_principals_roles_and_tokens(
    tmp_path: Path, credentials: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Principals, roles and the certificate authority are in the data folder; access tokens stay valid."""
    with closing(StrictEmulator(tmp_path, "demo", "us-central1")) as first:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", first.environment["REQUESTS_CA_BUNDLE"])
        loaded = credentials(first.user("ann@example.com", ADMIN))
        loaded.refresh(google.auth.transport.requests.Request())
    with closing(StrictEmulator(tmp_path, "demo", "us-central1")) as again, session(loaded) as http:
        assert http.get(f"{again.http}/v2/{LOCATION}/queues").json() == {}

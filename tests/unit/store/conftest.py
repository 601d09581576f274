"""Stores of each kind: a folder, memory, and buckets of real servers on loopback."""

import json
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from gcp_storage_emulator import server as gcs
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

from cloudtasks_nb.store import store as store_module
from cloudtasks_nb.store.store import Store
from tests.buckets import s3_bucket

PAGE = 10  # objects of a page
MISSING = "<Error><Code>NoSuchBucket</Code><Message>The bucket is missing.</Message></Error>"


class _Server(ThreadingHTTPServer):
    """A server that takes many connections at a time, in place of the emulator's own, which takes one."""

    daemon_threads = True
    request_queue_size = 128


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """Serve the bucket `team`, and give the environment variables by which it is found."""
    with s3_bucket() as variables:
        yield variables


def _generation(storage: Any, bucket: str, name: str) -> str:
    """Return the generation of an object, 0 if there is none, as conditions of Cloud Storage name it."""
    try:
        return str(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return "0"


def _put(request: Any, response: Any, storage: Any) -> None:
    """Write an object on the condition that the request has, which the emulator does not check."""
    bucket, name = request.params["bucket_name"], request.params["object_id"]
    wanted = request.get_header("x-goog-if-generation-match")
    if wanted not in {None, _generation(storage, bucket, name)}:
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    objects.xml_upload(request, response, storage)
    _complete(request, response, storage)


def _get(request: Any, response: Any, storage: Any) -> None:
    objects.download(request, response, storage)
    _complete(request, response, storage)


def _complete(request: Any, response: Any, storage: Any) -> None:
    """Add the headers of an object, or say that the bucket is missing."""
    generation = _generation(storage, request.params["bucket_name"], request.params["object_id"])
    response["ETag"], response["x-goog-generation"] = f'"{generation}"', generation
    response["Last-Modified"] = formatdate(usegmt=True)
    if response.status == HTTPStatus.NOT_FOUND and storage.get_bucket(request.params["bucket_name"]) is None:
        response.write_file(MISSING)


def _list(request: Any, response: Any, storage: Any) -> None:
    """List objects as XML, which the emulator does as JSON only."""
    query = {name: values[0] for name, values in request.query.items()}
    try:
        found, _ = storage.get_file_list(request.params["bucket_name"], query.get("prefix"), None)
    except NotFound:
        response.status = HTTPStatus.NOT_FOUND
        response.write_file(MISSING)
        return
    after = max(query.get("start-after", ""), query.get("continuation-token", ""))
    prefix, folders = query.get("prefix", ""), set[str]()
    if "delimiter" in query:
        below = [(each, each["name"].removeprefix(prefix).partition("/")) for each in found]
        folders = {f"{prefix}{name}/" for _, (name, slash, _) in below if slash}
        found = [each for each, (_, slash, _) in below if not slash]
    page = sorted((each for each in found if each["name"] > after), key=lambda each: each["name"])
    more = f"<NextContinuationToken>{page[PAGE - 1]['name']}</NextContinuationToken>" if len(page) > PAGE else ""
    contents = "".join(
        f"<Contents><Key>{escape(each['name'])}</Key><Size>{each['size']}</Size>"
        f"<LastModified>{each['updated']}</LastModified><ETag>{each['generation']}</ETag></Contents>"
        for each in page[:PAGE]
    )
    common = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
    response.write_file(f"<ListBucketResult>{contents}{common}{more}</ListBucketResult>", "application/xml")


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """Give the URL of a server of Cloud Storage with the bucket `team`; what its XML interface lacks is added."""
    bucket = r"^/(?P<bucket_name>[-.\w]+)"
    of_object = {"GET": _get, "PUT": _put, "DELETE": objects.delete}
    routes = ((f"{bucket}/?$", {"GET": _list}), (f"{bucket}/(?P<object_id>.+)$", of_object))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcs, "HANDLERS", routes)
        server = gcs.Server("127.0.0.1", 0, in_memory=True, default_bucket="team")
        with patch.context() as starting:
            starting.setattr(gcs.server, "HTTPServer", _Server)
            server.start()
        yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
        server.stop()


def google_key(url: str) -> str:
    """Return the key of a service account for a server without tokens."""
    fields = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return json.dumps(fields)


@pytest.fixture
def bucket_servers(s3_server: dict[str, str], gs_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send requests for buckets to the servers of the tests."""
    google = {"GOOGLE_BASE_URL": gs_server, "GOOGLE_SERVICE_ACCOUNT_KEY": google_key(gs_server)}
    for name, value in {**s3_server, **google}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["folder", "memory", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Give an empty store of each kind, which lists few objects a page."""
    monkeypatch.setattr(store_module, "_PAGE", PAGE)
    if request.param in {"s3", "gs"}:
        request.getfixturevalue("bucket_servers")
    name = tmp_path.name.replace("_", "-").strip("-")  # of this test
    places: dict[str, str | Path] = {"folder": tmp_path / "store", "memory": f"memory://{name}"}
    return Store(places.get(request.param, f"{request.param}://team/{name}"))

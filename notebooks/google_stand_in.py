"""What stands in for Google Cloud in notebook 07: everything is on this machine, and ends with the kernel.

==================  ====================================================================================
Google              here
==================  ====================================================================================
Cloud Tasks, IAM,   the emulator with ``--strict``: TLS, tokens, roles, and Google's refusals. Google's own
tokens, the log     addresses lead to it through a proxy
``gcloud``          a command on the ``PATH``, which knows the commands that the notebook and the toolkit name, and
                    refuses what gcloud refuses: first of all, everybody who has not logged in
Cloud Run           the deployed folder, served by the line of its ``Procfile``, with the packages of the kernel;
                    the emulator admits callers with ``roles/run.invoker`` only, and removes signatures
Cloud Storage       a folder that can be read and written by the protocol of Cloud Storage, with a token of somebody
                    who has a role on the bucket
==================  ====================================================================================
"""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Listener
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import google.auth
import orjson
import requests
from google.auth.transport.requests import Request

from cloudtasks_nb.testing import StrictEmulator, strict_emulator

__all__ = ["GoogleCloud", "start"]

_OPTIONS = (
    *("--project", "--region", "--member", "--role", "--source", "--service-account", "--add-custom-audiences"),
    *("--update-env-vars", "--format", "--concurrency", "--timeout", "--location", "--limit", "--condition"),
    *("--base-image", "--data-file", "--set-secrets"),
)
_FLAGS = ("--quiet", "--no-allow-unauthenticated", "--to-latest", "--uniform-bucket-level-access")
#: The Pythons that the builder has without a base image: https://cloud.google.com/run/docs/runtimes/python
_UNIVERSAL = ("3.13", "3.14")
#: The command `gcloud`: it hands its words to the process that started the stand-in.
_COMMAND = """
import os, sys
from multiprocessing.connection import Client
with Client(os.environ["GCLOUD_ADDRESS"]) as connection:
    connection.send((os.getcwd(), sys.argv[1:]))
    code, text = connection.recv()
(sys.stderr if code else sys.stdout).write(text and f"{text}\\n")
sys.exit(code)
"""


_DEFAULT, _SCOPE = "application-default", "https://www.googleapis.com/auth/cloud-platform"


def start(project: str, user: str) -> GoogleCloud:
    """Start it, and set the variables that lead this process to it; call it before the first connection."""
    running = ExitStack()
    folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="google-stand-in-")))
    emulator = running.enter_context(strict_emulator("--wait-for-loopback", project=project))
    cloud = GoogleCloud(emulator, folder, user)
    running.callback(cloud.close)
    atexit.register(running.close)
    os.environ.update(emulator.google_environment, **cloud.environment)
    os.environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return cloud


class GoogleCloud:
    """A project on Google Cloud with one user, and the `gcloud` of that user.

    Attributes
    ----------
    emulator : StrictEmulator
        Cloud Tasks, IAM and the log.
    folder : Path
        A temporary folder: `gcloud`, its login, and the buckets.
    """

    def __init__(self, emulator: StrictEmulator, folder: Path, user: str) -> None:
        self.emulator = emulator
        self.folder = folder
        self._user = user
        self._logged_in = False
        self._project = ""
        self._accounts: set[str] = set()
        self._uniform: set[str] = set()  # buckets with uniform bucket-level access
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._disabled = {"cloudtasks.googleapis.com", "run.googleapis.com"}
        emulator.set(api_disabled=sorted(self._disabled))
        emulator.user(user, roles=["roles/cloudtasks.admin", "roles/serviceusage.serviceUsageConsumer"])
        self._listener = Listener()
        handler = type("Handler", (_Storage,), {"folder": folder, "google": emulator})
        self._storage = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.environment = {
            "CLOUDSDK_CONFIG": str(folder),
            "GCLOUD_ADDRESS": str(self._listener.address),
            "GOOGLE_BASE_URL": f"http://127.0.0.1:{self._storage.server_address[1]}",
        }
        command = folder / "gcloud"
        command.write_text(f"#!{sys.executable}\n{_COMMAND}")
        command.chmod(0o755)
        threading.Thread(target=self._answer, daemon=True).start()
        threading.Thread(target=self._storage.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the services."""
        for process in self._services.values():
            process.terminate()
            process.wait()
        self._listener.close()
        self._storage.shutdown()
        self._storage.server_close()

    def _answer(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                with self._listener.accept() as connection:
                    folder, words = connection.recv()
                    try:
                        connection.send((0, self._run(Path(folder), words)))
                    except Exception as error:  # noqa: BLE001 - whatever it is, the command failed
                        connection.send((1, f"ERROR: (gcloud) {error}"))

    def _run(self, folder: Path, words: list[str]) -> str:  # noqa: C901, PLR0911, PLR0912 - a table
        parser = argparse.ArgumentParser(prog="gcloud", allow_abbrev=False, exit_on_error=False)
        parser.add_argument("words", nargs="*")
        for option in _OPTIONS:
            parser.add_argument(option, default="")
        for flag in _FLAGS:
            parser.add_argument(flag, action="store_true")
        options, unknown = parser.parse_known_intermixed_args(words)
        asked = [*options.words, *unknown]
        self._check(asked, options)
        match asked:
            case ["config", "get-value", "account"]:
                return self._user if self._logged_in else "(unset)"
            case ["config", "set", "project", project] if project == self.emulator.project:
                self._project = project
                return "Updated property [core/project]."
            case ["auth", "login"]:
                self._logged_in = True
                return f"You are now logged in as [{self._user}]."
            case ["auth", "print-access-token"]:
                return self._access_token()
            case ["auth", "application-default", "login"]:
                file = self.emulator.user(self._user, gcloud=True, quota_project=self._project or None)
                shutil.copy(file, self.folder / "application_default_credentials.json")
                return "Credentials saved: these will be used by any library that requests them."
            case ["services", "enable", *apis]:
                self._disabled -= set(apis)
                self.emulator.set(api_disabled=sorted(self._disabled))
                return "Operation finished successfully."
            case ["projects", "add-iam-policy-binding", _]:
                self.emulator.grant(options.member, options.role)
                return "Updated IAM policy."
            case ["iam", "service-accounts", "create", name]:
                self._accounts.add(self.emulator.email(name))
                self.emulator.service_account(name, key=False)
                return f"Created service account [{name}]."
            case ["iam", "service-accounts", "describe", email] if email in self._accounts:
                return f"email: {email}"
            case ["iam", "service-accounts", "add-iam-policy-binding", email]:
                self.emulator.grant(options.member, options.role, email)
                return f"Updated IAM policy for serviceAccount [{email}]."
            case ["tasks", "queues", "create", name]:
                return self._create_queue(f"projects/{options.project}/locations/{options.location}", name)
            case ["secrets", "create" | "add-iam-policy-binding", name]:
                return f"Updated secret [{name}]."
            case ["storage", "buckets", "create", url]:
                (self.folder / "buckets" / url.removeprefix("gs://")).mkdir(parents=True)
                self._uniform |= {url} if options.uniform_bucket_level_access else set()
                self.emulator.grant(self._user, "roles/storage.admin", url)
                return f"Creating {url}/..."
            case ["storage", "buckets", "add-iam-policy-binding", url]:
                # https://cloud.google.com/storage/docs/access-control/iam#conditions; here a role counts without it
                if options.condition != "None" and url not in self._uniform:
                    raise ValueError("Conditions need uniform bucket-level access")
                self.emulator.grant(options.member, options.role, url)
                return "Updated IAM policy."
            case ["run", "deploy", name]:
                self._build(folder / options.source, options.base_image)
                self._deploy(name, folder / options.source, options)
                return f"Service [{name}] has been deployed and is serving 100 percent of traffic."
            case ["run", "services", "add-iam-policy-binding", name] if name in self._services:
                self.emulator.grant(options.member, options.role, self._url(name))
                return f"Updated IAM policy for service [{name}]."
            case ["run", "services", "update-traffic", name] if name in self._services:
                return f"Traffic: 100% LATEST. URL: {self._url(name)}"
            case ["run", "services", "get-iam-policy", name] if name in self._services:
                return orjson.dumps({"bindings": self._policy(self._url(name))}).decode()
            case ["run", "services", "describe", name] if name in self._services:
                found = {"metadata": {"annotations": {}}, "status": {"url": self._url(name)}}
                return orjson.dumps(found).decode() if options.format == "json" else self._url(name)
            case ["run", "services", "logs", "read", name] if name in self._services:
                return "\n".join(self._log(name).read_text().splitlines()[-int(options.limit or 100) :])
            case _:
                raise ValueError(f"this stand-in cannot do: gcloud {' '.join(words)}")

    def _check(self, words: list[str], options: argparse.Namespace) -> None:
        """Refuse what gcloud refuses whatever the command does: no login, and a question that nobody can answer."""
        if not (self._logged_in or words[:1] == ["config"] or words[:2] in (["auth", "login"], ["auth", _DEFAULT])):
            raise ValueError(
                "You do not currently have an active account selected.\nPlease run:\n\n  $ gcloud auth login"
            )
        if words[:2] in (["storage", "buckets"], ["services", "enable"]) and not (options.project or self._project):
            raise ValueError("The required property [project] is not currently set.")
        # The policies of this project have conditions.
        if words[2:3] == ["add-iam-policy-binding"] and words[0] != "run" and not options.condition:
            raise ValueError(
                "Adding a binding without specifying a condition to a policy containing conditions is prohibited in "
                "non-interactive mode. Run the command again with `--condition=None`"
            )

    def _create_queue(self, parent: str, name: str) -> str:
        """Create a queue as the user who has logged in."""
        url = f"https://cloudtasks.googleapis.com/v2/{parent}/queues"
        token = {"Authorization": f"Bearer {self._access_token()}"}
        queue = {"name": f"{parent}/queues/{name}"}
        requests.post(url, json=queue, headers=token, timeout=30).raise_for_status()
        return f"Created queue [{name}]."

    def _access_token(self) -> str:
        """Return an access token of the user."""
        file = self.folder / f"{self._user}.json"
        shutil.copy(self.emulator.user(self._user), file)
        source, _ = google.auth.load_credentials_from_file(str(file), [_SCOPE])
        source.refresh(Request())
        return str(source.token)

    def _policy(self, resource: str) -> list[dict[str, object]]:
        state = requests.get(f"{self.emulator.http}/admin/google", timeout=30).json()
        bindings = state["bindings"].get(resource, {})
        return [{"role": role, "members": members} for role, members in bindings.items()]

    def _build(self, source: Path, base_image: str) -> None:
        """Choose the builder of a folder, as Cloud Run does: some lack this Python."""
        wanted = (source / ".python-version").read_text().strip()
        if base_image not in ("", f"python{wanted.replace('.', '')}"):
            raise ValueError(f"Build failed: {base_image} is no base image for Python {wanted}")
        if not base_image and wanted not in _UNIVERSAL:
            raise ValueError(f"Build failed: Failed to resolve version {wanted} for Python against [3.14.5 3.13.0]")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _url(self, name: str) -> str:
        return f"https://{name}-1234567890.us-central1.run.app"

    def _deploy(self, name: str, source: Path, options: argparse.Namespace) -> None:
        """Serve the folder as Cloud Run does: by the line of its Procfile, on ``$PORT``."""
        if name in self._services:
            self._services[name].terminate()
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        given = dict(pair.split("=", 1) for pair in options.update_env_vars.split(",") if pair)
        environment = {
            **os.environ,
            **given,
            "K_SERVICE": name,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.emulator.service_account(options.service_account)),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PORT": str(port),
            "GUNICORN_CMD_ARGS": "--no-control-socket --log-level=warning",
        }
        line = (source / "Procfile").read_text().removeprefix("web: ")
        with self._log(name).open("wb") as log:
            service = self._services[name] = subprocess.Popen(  # noqa: S603 - the line that ct.deploy has written
                ["/bin/sh", "-c", f"exec {line}"], cwd=source, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        while not _listens(port):
            if service.poll() is not None:
                raise ValueError(f"the service {name} ended before it listened: {self._log(name).read_text()}")
            time.sleep(0.05)
        self.emulator.cloud_run(self._url(name), port, audiences=[options.add_custom_audiences])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _Storage(BaseHTTPRequestHandler):
    """The XML API of Cloud Storage over a folder, as far as a store of results needs it."""

    folder: Path
    google: StrictEmulator
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Write an object."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._allowed("create"):
            return
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted not in {None, self._generation()}:
            self._send(412)
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_bytes(content)
        self._send(200)

    def do_GET(self) -> None:
        """Read an object, or list those with a prefix."""
        if not self._allowed("list" if "list-type" in self.path else "get"):
            return
        if "list-type" in parse_qs(urlsplit(self.path).query):
            self._list()
        elif self._file.is_file():
            self._send_object(self._file.read_bytes())
        else:
            self._send(404)

    do_HEAD = do_GET  # noqa: N815 - as the base class wants it

    def do_DELETE(self) -> None:
        """Delete an object."""
        if not self._allowed("delete"):
            return
        self._file.unlink(missing_ok=True)
        self._send(204)

    def log_message(self, *_: object) -> None:
        """Write no line for each request."""

    def _allowed(self, verb: str) -> bool:
        """Return whether the caller has a permission on objects of the bucket; else the request is refused."""
        bucket, permission = self.path.split("?")[0].split("/")[1], f"storage.objects.{verb}"
        url = f"{self.google.http}/storage/v1/b/{bucket}/iam/testPermissions"
        token = {"Authorization": self.headers.get("Authorization", "")}
        answer = requests.get(url, params={"permissions": permission}, headers=token, timeout=30)
        if answer.ok and answer.json().get("permissions"):
            return True
        message = f"{permission} on gs://{bucket} is denied: {answer.text}"
        self._send(403, f"<Error><Code>AccessDenied</Code><Message>{escape(message)}</Message></Error>".encode())
        return False

    @property
    def _file(self) -> Path:
        return self.folder / "buckets" / unquote(urlsplit(self.path).path).lstrip("/")

    def _generation(self) -> str:
        return str(self._file.stat().st_mtime_ns) if self._file.is_file() else "0"

    def _list(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        files = {str(file.relative_to(self._file)): file for file in self._file.rglob("*") if file.is_file()}
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{files[name].stat().st_size}</Size><ETag>x</ETag>"
            f"<LastModified>{datetime.fromtimestamp(files[name].stat().st_mtime, UTC).isoformat()}</LastModified>"
            "</Contents>"
            for name in sorted(files)
            if name.startswith(query.get("prefix", "")) and name > query.get("start-after", "")
        )
        self._send(200, f"<ListBucketResult>{contents}</ListBucketResult>".encode())

    def _send_object(self, content: bytes) -> None:
        """Send an object, or the range of it that is asked for."""
        asked = self.headers.get("Range")
        if asked is None:
            self._send(200, content)
        else:
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            self._send(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"})

    def _send(self, status: int, content: bytes = b"", more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        generation = self._generation()
        for name, value in {
            **(more or {}),
            "Content-Length": str(len(content)),
            "ETag": f'"{generation}"',
            "x-goog-generation": generation,
            "Last-Modified": formatdate(usegmt=True),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

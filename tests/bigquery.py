"""A stand-in of BigQuery's REST API, for Google's own client: every query has the same answer."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

_PAGE = 4  # rows


class BigQuery(BaseHTTPRequestHandler):
    """The methods that a query needs: its rows come in pages."""

    fails = False
    schema: Mapping[str, Any]
    rows: Sequence[Sequence[str | None]]

    def do_POST(self) -> None:
        """Answer as if a job had been made."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self._job())

    def do_GET(self) -> None:
        """Answer with the job, a page of its rows, or the schema."""
        path, _, query = self.path.partition("?")
        if "/jobs/" in path:
            self._answer(self._job())
        elif path.endswith("/data") or "maxResults=0" not in query:
            self._answer(self._page(int((re.findall(r"pageToken=(\d+)", query) or [0])[0])))
        else:
            self._answer({name: value for name, value in self._page(0).items() if name not in ("rows", "pageToken")})

    def _job(self) -> dict[str, Any]:
        table = {"projectId": "demo", "datasetId": "temporary", "tableId": "answer"}
        return {
            "jobReference": {"projectId": "demo", "jobId": "one", "location": "US"},
            "configuration": {"query": {"query": "select", "destinationTable": table}, "jobType": "QUERY"},
            "status": {"state": "DONE"},
            "statistics": {"query": {"statementType": "SELECT"}},
        }

    def _page(self, start: int) -> dict[str, Any]:
        rows = [{"f": [{"v": cell} for cell in row]} for row in self.rows[start : start + _PAGE]]
        more = {"pageToken": str(start + _PAGE)} if start + _PAGE < len(self.rows) else {}
        whole = {"jobReference": self._job()["jobReference"], "jobComplete": True, "totalRows": str(len(self.rows))}
        return {**whole, "schema": self.schema, "rows": rows, **more}

    def _answer(self, message: Any) -> None:
        body = json.dumps({"error": {"code": 403, "message": "no access"}} if self.fails else message).encode()
        self.send_response(403 if self.fails else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def warehouse(types: Mapping[str, str], rows: Sequence[Sequence[str | None]]) -> Iterator[bigquery.Client]:
    """Give a client whose queries have these rows, of columns with these types."""
    fields = [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in types.items()]
    api = type("Answers", (BigQuery,), {"schema": {"fields": fields}, "rows": rows})
    with ThreadingHTTPServer(("127.0.0.1", 0), api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = {"api_endpoint": f"http://127.0.0.1:{server.server_port}"}
        with bigquery.Client("demo", credentials=AnonymousCredentials(), client_options=options) as client:
            yield client
        server.shutdown()
        thread.join()

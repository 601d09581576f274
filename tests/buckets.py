"""A bucket of Amazon's kind on loopback."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus


@contextmanager
def s3_bucket() -> Iterator[dict[str, str]]:
    """Serve the bucket `team`, and give the environment variables by which ``s3://team`` is found."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes 1 s, which no collection of tests needs

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", "/team")
    assert connection.getresponse().status == HTTPStatus.OK
    connection.close()
    secrets = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    variables = {"ENDPOINT_URL": f"http://{host}:{port}", **secrets}
    yield {f"AWS_{name}": value for name, value in variables.items()}
    server.stop()

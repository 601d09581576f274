"""Tokens of tasks for handlers on this machine: a task with the token of another account is refused."""

import pandas as pd

import cloudtasks_nb as ct
from tests.cases import cases
from tests.integration.fanout.conftest import Serve

ROWS = pd.DataFrame({"row": range(4)})
ACCOUNT = "caller@demo.iam.gserviceaccount.com"
OTHER = "other@demo.iam.gserviceaccount.com"


@cases((ACCOUNT, 4, {}), (OTHER, 0, {"PERMISSION_DENIED": 4}), ids=["the right account", "another account"])
def test_a_routed_queue_calls_a_handler(
    once: ct.Queue, serve: Serve, account: str, succeeded: int, causes: dict[str, int]
) -> None:
    """A routed queue sends every row to its own URL with its own token, which the handler verifies."""
    rows: list[int] = []

    def work(row: int) -> None:
        rows.append(row)

    audience = "https://reports.example"
    handler = serve(work, name=f"route-{once.id}", service_account=ACCOUNT, audience=audience)
    once.route(handler.url, service_account=account, audience=audience)
    batch = once.fan_out(ROWS, url="http://127.0.0.1:9/elsewhere")
    assert batch.wait("60s").succeeded == succeeded == len(rows)
    assert batch.failed()["last_status"].value_counts().to_dict() == causes

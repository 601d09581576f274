"""Where the end of a batch is notified; when that is done is asked of the emulator."""

from cloudtasks_nb.fanout.batch.completion import registered, store_registration
from cloudtasks_nb.fanout.outbox.outbox import Outbox

URL = "https://svc/done"


def test_the_newest_options_count(outbox: Outbox, batch: str) -> None:
    """Registered again with another account or queue it is the same URL, which is not notified of this round again."""
    store_registration(outbox, batch, URL, service_account=None, audience=None, queue="q")
    store_registration(outbox, batch, URL, told=1)
    store_registration(outbox, batch, URL, service_account="sa@p", audience=None, queue="other")
    found = {"service_account": "sa@p", "audience": None, "queue": "other"}
    assert registered(outbox.batches.facts(batch)) == {URL: {"told": 1, "again": 0, "known": 0, "error": None, **found}}
    store_registration(outbox, batch, URL, known=1, error="KeyError: 7")
    store_registration(outbox, batch, URL, **found)
    assert registered(outbox.batches.facts(batch)) == {URL: {"told": 0, "again": 1, "known": 0, "error": None, **found}}

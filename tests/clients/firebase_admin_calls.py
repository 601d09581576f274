"""Uses task queues with firebase-admin, and writes what each call returns, or the code of its refusal, as JSON."""

import json
import sys
from collections.abc import Callable

from firebase_admin import functions, initialize_app
from firebase_admin.exceptions import FirebaseError
from firebase_admin.functions import TaskOptions


def outcome(call: Callable[[], str | None]) -> str | None:
    """Return what a call returns, or the code of its refusal."""
    try:
        return call()
    except FirebaseError as error:
        return str(error.code)


initialize_app(options={"projectId": "demo"})
queue = functions.task_queue("resize")
missing = functions.task_queue("locations/europe-west1/functions/resize")
named = TaskOptions(task_id="python", headers={"X-Mine": "1"}, dispatch_deadline_seconds=30)
calls: dict[str, Callable[[], str | None]] = {
    "enqueue": lambda: queue.enqueue({"data": {"width": 1}}, named),
    "duplicate": lambda: queue.enqueue({"data": {"width": 1}}, named),
    "later": lambda: queue.enqueue({}, TaskOptions(task_id="later", schedule_delay_seconds=3600)),
    "delete": lambda: queue.delete("later"),
    "delete_again": lambda: queue.delete("later"),
    "elsewhere": lambda: queue.enqueue({}, TaskOptions(uri=sys.argv[1])),
    "without_queue": lambda: missing.enqueue({}),
}
sys.stdout.write(json.dumps({name: outcome(call) for name, call in calls.items()}))

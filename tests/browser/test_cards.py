"""Cards of batches in the cells of a real JupyterLab."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.notebooks.outputs import BEGIN


def test_cards_tell_what_their_cell_did(notebook: Callable[..., Any], tmp_path: Path) -> None:
    """A displayed batch goes on to its end; what later cells do, also after a restart, is shown by these."""
    begin = BEGIN.format(home=str(tmp_path / "home"), folder=str(tmp_path / "folder"))
    book = notebook(
        begin,
        'queue.pause()\nbatch = send(range(10), name="ten")\nbatch',
        "queue.resume()\nbatch.wait()",
        "bad.remove(3)\nbatch.retry_failed().wait()",
        'send(range(14), name="ten").wait()',
        'held = send(range(100, 120), name="held", canary=1)\ntry:\n    held.wait()\n'
        "except ct.errors.PreconditionError as error:\n    print(error)",
        'slow = send([1000, 1001], name="slow")\nthreading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n'
        "try:\n    slow.wait()\nexcept KeyboardInterrupt:\n    print('interrupted')",
        "go.set()\nslow.wait()",
        'queue.pause()\nstopped = send(range(50, 55), name="stopped").cancel().wait()\nqueue.resume()\nstopped',
    )
    cells = book.page.locator(".jp-Cell")
    for number, text in enumerate(("9 succeeded, 1 failed", "10 succeeded", "14 succeeded"), 2):
        expect(cells.nth(number)).to_contain_text(text)
    for number, counts in ((1, "10 of 10 done"), (2, "failed 1"), (3, "succeeded 10"), (4, "succeeded 14")):
        expect(cells.nth(number)).to_contain_text(counts)
    expect(cells.nth(5)).to_contain_text("held, 1 of 20 done")
    expect(cells.nth(6)).to_contain_text("interrupted")
    for number in (5, 6):
        expect(cells.nth(number)).to_contain_text(" UTC, ")
    expect(cells.nth(7)).to_contain_text("succeeded 2")
    expect(cells.nth(8)).to_contain_text("cancelled, 5 of 5 done")
    before = [cells.nth(number).inner_text() for number in range(1, 9)]
    book.restart_kernel()
    assert "14 rows: 14 succeeded" in book.python(begin + "print(tasks.batch('ten').wait())")
    assert [cells.nth(number).inner_text() for number in range(1, 9)] == before

"""The first hour of an analyst in one notebook: each cell gives the right answer, also after interrupt and edit."""

import json
import os
import re
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jupyter_client.manager import start_new_kernel

from tests.integration.conftest import PATIENCE, until
from tests.web import Reply, Request, http_server

ROOT = Path(__file__).parents[3]


class Cell(NamedTuple):
    """A cell of the notebook, as the head of `first_hour.toml` describes it."""

    source: str
    shows: str = ""
    interrupted: bool = False
    again: bool = False


TABLE = tomllib.loads(Path(__file__).with_name("first_hour.toml").read_text(encoding="utf-8"))
CELLS = [Cell(**row) for row in TABLE["cell"]]


class Shop:
    """A service with prices, and with the stock of the items that it knows.

    Prices of items 3 to 5 in dollars come only after somebody has asked for one in euros.
    """

    def __init__(self) -> None:
        self.waiting = threading.Semaphore(0)  # released for each request that waits
        self._euros = threading.Event()
        self._paths: list[str] = []
        self._failing = {3: 404, 4: 404, 5: 500}

    def answer(self, request: Request) -> Reply:
        """Answer ``/usd/3``, ``/eur/3`` and ``/stock/3``; ``/calls/stock`` counts; ``/mend/404`` mends items."""
        self._paths.append(request.path)
        what, name = request.path[1:].split("/")
        if what == "calls":
            return Reply(body=json.dumps([self._paths.count(f"/{name}/{item}") for item in range(6)]).encode())
        number = int(name)
        if what == "usd" and number in self._failing:
            self.waiting.release()
            self._euros.wait(PATIENCE)
        if what == "eur":
            self._euros.set()
        if what == "mend":
            self._failing = {item: status for item, status in self._failing.items() if status != number}
        status = self._failing.get(number, 200) if what == "stock" else 200
        return Reply(status=status, body=str({"usd": 10, "eur": 9}.get(what, 1) * number).encode())


class Notebook:
    """A kernel in a folder of its own, with the address of a shop."""

    def __init__(self, shop: Shop, folder: Path, port: int) -> None:
        environment = {"CLOUDTASKS_NB_HOME": str(folder / "home"), "SHOP_API": f"http://127.0.0.1:{port}"}
        environment |= {"PYTHONPATH": str(ROOT)}
        self._shop = shop
        self._manager, self._client = start_new_kernel(
            startup_timeout=PATIENCE, cwd=str(folder), env={**os.environ, **environment}
        )

    def close(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel()

    def run(self, cell: Cell) -> str:
        """Return what a cell shows: streams, reports, its result, its traceback."""
        shown, runs = [], cell.interrupted

        def hook(message: dict[str, Any]) -> None:
            nonlocal runs
            shown.append(text_of(message["content"]))
            assert message["content"].get("name") != "stderr", shown[-1]
            if runs and "3 succeeded" in shown[-1]:
                assert all(self._shop.waiting.acquire(timeout=PATIENCE) for _ in range(3))
                self._manager.interrupt_kernel()
                runs = False

        self._client.execute_interactive(cell.source, timeout=PATIENCE, output_hook=hook)
        return "".join(shown)


def text_of(content: dict[str, Any]) -> str:
    """Return the text of a kernel's message, without colours and without the empty lines of progress."""
    texts = [content.get("text"), content.get("data", {}).get("text/plain"), *content.get("traceback", ())]
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(f"{text.rstrip()}\n" for text in texts if text and text.strip()))


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """Give a notebook without cells."""
    shop = Shop()
    with http_server(shop.answer) as port, closing(Notebook(shop, tmp_path, port)) as made:
        yield made


def shown(notebook: Notebook, cell: Cell) -> str | None:
    """Run a cell, and return what it shows; None if it is to be run again."""
    text = notebook.run(cell)
    return None if cell.again and not re.search(cell.shows, text, re.MULTILINE) else text


def test_each_cell_is_right(notebook: Notebook) -> None:
    """It shows what it should, no frame of the package, and nothing on stderr."""
    for cell in CELLS:
        text = until(partial(shown, notebook, cell)) if cell.shows else notebook.run(cell)
        assert re.search(cell.shows, text, re.MULTILINE), f"{cell.source}\n{text}"
        assert "cloudtasks_nb/" not in text, text

"""The memory of a fan-out: from an iterator the same for many rows as for few, and from a large file."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pyarrow import parquet

import cloudtasks_nb as ct
from tests.benchmarks import flights
from tests.benchmarks.fan_out import until_sent
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.machine import peak_mb
from tests.benchmarks.servers import Cost, Emulator, client
from tests.benchmarks.sweep import store_results

_CHUNK = 10_000  # rows of a DataFrame that the iterator gives
_ADDED = 10  # rows that are added to a batch
_MILLION = 1_000_000
_GROUP = 5_000  # rows of a row group of the file
_WIDE = 4  # its columns of 1,700 characters that compress badly
_NEEDED = ["n", "shop", "price"]
_LIMIT = 2 << 30  # bytes of address space


def _measure(bench: Bench) -> None:
    sample = bench.folder / "sample.csv"
    flights.frame(_CHUNK).to_csv(sample, index=False)
    small, *large = bench.size.streamed
    for number, folder in enumerate(bench.rounds()):
        few, _ = _run(folder / f"home-{small}", "frames", sample, small)
        bench.report("few", few)
        for rows in large:
            # Ten millions only once: that takes minutes.
            if rows <= _MILLION or number == 0:
                peak, added = _run(folder / f"home-{rows}", "frames", sample, rows)
                if rows <= _MILLION:
                    bench.report("added", added)
                bench.report(f"{rows:,}" if rows > _MILLION else "many", peak)
                bench.report(f"{rows:,} more" if rows > _MILLION else "more", peak - few)
    bench.note(f"Few are {small:,} rows, many {large[0]:,}.")
    counts = bench.size.written
    peaks = [_to_parquet(bench.folder / f"results-{count}", count) for count in counts]
    bench.report("results", peaks[-1])
    bench.report("more results", peaks[-1] - peaks[0])
    bench.note(f"The Parquet files have {counts[-1]:,} results, compared with {counts[0]:,}.")


def _measure_files(bench: Bench) -> None:
    path = bench.folder / "wide.parquet"
    _write(path, bench.size.wide)
    bench.note(f"The file has {bench.size.wide:,} rows and {path.stat().st_size / 1e9:.2f} GB.")
    for folder in bench.rounds():
        for way in ("path", "path limited", "lazy", "iterator", "iterator limited"):
            bench.report(way, _run(folder / way, way, path, bench.size.wide)[0])


def _write(path: Path, rows: int) -> None:
    """Write a file of several row groups, of whose columns a few small ones are needed."""
    generator, writer = np.random.default_rng(0), None
    for first in range(0, rows, _GROUP):
        numbers = np.arange(first, min(first + _GROUP, rows))
        small = {"n": numbers, "shop": [f"shop {number % 50}" for number in numbers], "price": numbers / 4}
        wide = {f"wide_{at}": [generator.bytes(850).hex() for _ in numbers] for at in range(_WIDE)}
        table = pa.table(small | wide)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _run(folder: Path, way: str, file: Path, rows: int) -> tuple[float, float]:
    """Fan out in a process of its own; return its peak of memory in MB, and what `_added` does."""
    with Emulator() as emulator:
        return _child(emulator, folder, way, file, rows)


def _to_parquet(folder: Path, rows: int) -> float:
    """Store results in one process and write them to Parquet files in another; return the peak of that in MB."""
    with Emulator() as emulator:
        _child(emulator, folder, "store", folder, rows)
        return _child(emulator, folder, "parquet", folder / "out", rows)[0]


def _child(emulator: Emulator, folder: Path, way: str, file: Path, rows: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "tests.benchmarks.memory", emulator.grpc, way, str(file), str(rows)]
    environment = {**os.environ, "CLOUDTASKS_NB_HOME": str(folder)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    peak, added = json.loads(done.stdout.splitlines()[-1])
    return peak, added


def main() -> None:
    """Fan out until all rows are acknowledged, and print what `_run` returns."""
    target, way, file, rows = sys.argv[1:]
    if way.endswith("limited"):
        resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))
    with client(target) as tasks:
        if way == "parquet":
            tasks.batch("full").to_parquet(file)
            if sum(parquet.read_metadata(part).num_rows for part in Path(file).iterdir()) != int(rows):
                raise AssertionError("results are missing")
            sys.stdout.write(json.dumps([peak_mb(), 0.0]) + "\n")
            return
        queue = tasks.queue("stream", create=True).pause()
        if way == "store":
            frames = _frames(pd.DataFrame({"x": range(_CHUNK), "name": "a name"}), int(rows))
            batch = queue.fan_out(frames, url=flights.URL, name="full", progress=False)
            until_sent(batch)
            store_results(batch, Path(file, "store"))
            sys.stdout.write(json.dumps([peak_mb(), 0.0]) + "\n")
            return
        body = None if way == "frames" else _NEEDED
        batch = queue.fan_out(
            _data(way.split()[0], file, int(rows)), url=flights.URL, body=body, name="full", progress=False
        )
        until_sent(batch)
        if batch.progress().total != int(rows):
            raise AssertionError(f"{batch.progress().total:,} rows were sent and not {rows}")
        peak = peak_mb()
        sys.stdout.write(json.dumps([peak, _added(queue, batch) if way == "frames" else 0.0]) + "\n")


def _added(queue: ct.Queue, batch: ct.Batch) -> float:
    """Return the CPU of adding rows to a batch, as a multiple of that of adding them to a batch of one row."""
    first = pd.DataFrame({"n": range(-1 - _ADDED, 0)})
    until_sent(queue.fan_out(first.tail(1), url=flights.URL, name="empty", progress=False))
    spent = []
    for name in ("empty", batch.name):
        cost = Cost()
        until_sent(queue.fan_out(first.head(_ADDED), url=flights.URL, name=name, progress=False))
        spent.append(cost.cpu)
    return spent[1] / spent[0]


def _data(way: str, file: str, rows: int) -> Any:
    if way == "lazy":
        return pl.scan_parquet(file)
    if way == "iterator":
        return parquet.ParquetFile(file, pre_buffer=False).iter_batches(_CHUNK, columns=_NEEDED)
    return file if way == "path" else _frames(pd.read_csv(file), rows)


def _frames(chunk: pd.DataFrame, rows: int) -> Iterator[pd.DataFrame]:
    for first in range(0, rows, len(chunk)):
        part = chunk.head(rows - first)
        yield part.assign(n=range(first, first + len(part)))


MEMORY = case(
    "memory",
    "Memory of a fan-out from an iterator, and of results that are written to files",
    _measure,
    f"`queue.fan_out(frames, url=…)` with an iterator of DataFrames of {_CHUNK:,} rows, in a process of its own, "
    "until the last acknowledgement of a temporary emulator; the peak of resident memory (`VmHWM`). "
    f"Then {_ADDED} rows are added, also to a batch of one row. Results of two fields are written by a process that "
    "has not sent them.",
    """
    added           | CPU of adding rows to the batch with many rows         | x  | ≤ 2 | a batch of one row
    more            | peak with many rows less that with few                 | MB | ≤ 50
    few             | peak with few rows, interpreter and libraries included | MB
    many            | peak with many rows                                    | MB
    more results    | `batch.to_parquet(…)` of a million results less that of 10,000 | MB | ≤ 60
    results         | `batch.to_parquet(…)`, peak with a million results            | MB
    10,000,000 more | same with 10,000,000 rows                              | MB | ≤ 50 |  | --full
    10,000,000      | peak with 10,000,000 rows                              | MB |      |  | --full
    """,
    seconds=900,
    full_seconds=3000,
)

FILES = case(
    "files",
    "Memory of a fan-out from a file",
    _measure_files,
    f"`queue.fan_out(data, url=…, body={_NEEDED})` of a Parquet file in row groups of {_GROUP:,} rows, of "
    "whose columns these are needed, in a process of its own until the last acknowledgement; the peak of resident "
    "memory (`VmHWM`), interpreter and libraries included. The limit is 2 GiB of address space.",
    """
    path             | by its path                                          | MB | ≤ 600
    path limited     | by its path, with the limit                          | MB | ≤ 600
    lazy             | `pl.scan_parquet`                                    | MB | ≤ 600
    iterator         | `ParquetFile.iter_batches` of these columns      | MB | ≤ 600
    iterator limited | `ParquetFile.iter_batches`, with the limit           | MB | ≤ 600
    """,
    seconds=900,
)


if __name__ == "__main__":
    main()

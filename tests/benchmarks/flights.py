"""The data of the measurements: the flights that left New York in 2013, as a DataFrame and as JSON."""

from collections.abc import Iterator
from itertools import cycle, islice

import orjson
import pandas as pd

#: URL of the tasks; their queues are paused, and nothing listens there.
URL = "http://127.0.0.1:9/flights"


def frame(rows: int | None = None) -> pd.DataFrame:
    """Return the first flights, all of them without a number."""
    from notebooks.nyc_flights import flights  # noqa: PLC0415 - reads the data

    return flights if rows is None else flights.head(rows)


def bodies(count: int) -> list[bytes]:
    """Return flights as JSON; they are repeated if there are too few."""
    return list(islice(cycle(_json(frame(count))), count))


def _json(rows: pd.DataFrame) -> list[bytes]:
    return [orjson.dumps(row) for row in _records(rows)]


def _records(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    # As the toolkit sends them: whole numbers stay whole beside missing ones, and what is missing is null.
    whole = rows.convert_dtypes()
    columns = {str(name): whole[name].astype(object).where(whole[name].notna(), None).tolist() for name in whole}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))

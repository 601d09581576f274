"""Read-only views of one task, batch or plan."""

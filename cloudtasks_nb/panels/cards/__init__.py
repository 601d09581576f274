"""HTML cards that show one task, queue, batch or plan."""

"""From a DataFrame to tasks and back, a room a step: plan, outbox, sender, batch; periods are what backfills are of."""

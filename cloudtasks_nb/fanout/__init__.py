"""From a DataFrame to tasks and back: plan, outbox, sender, batch."""

"""The connection and the verbs on queues and tasks that an analyst calls."""

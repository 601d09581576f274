"""Objects in a folder or a bucket: the results of tasks, which the service does not keep."""

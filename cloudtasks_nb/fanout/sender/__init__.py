"""Send stored requests in the background, with retries, backoff and a pace."""

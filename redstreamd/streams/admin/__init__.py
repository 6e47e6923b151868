"""Changes that need care: groups, streams and dead letters, counted before they are made."""

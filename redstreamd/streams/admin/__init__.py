"""Administration of groups, streams and dead letters."""

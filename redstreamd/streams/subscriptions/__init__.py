"""Who wants to be told of changes, and telling them; over the tail hub."""

"""Who did what: which calls are recorded, how a chain of the records shows changes, and is verified."""

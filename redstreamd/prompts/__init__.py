"""Prompts: a task that a user gives to a model, with the current state that it needs."""

"""Subscriptions to changes, over the tail hub."""

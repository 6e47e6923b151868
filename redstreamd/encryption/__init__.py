"""Entries that Redis cannot read: keys, which streams are encrypted, sealing and opening."""

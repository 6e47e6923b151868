"""Servers of others that speak Streamable HTTP; each runs in an environment of its own (install.py)."""

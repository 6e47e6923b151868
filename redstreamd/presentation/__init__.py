"""How the domain looks to a caller: addresses, entries, truncation, views, suggestions, health."""

"""Prompts: work that a person hands to a model, with the live facts it needs.

- ``definition``: what a prompt is, and the registry that finds one by name.
- ``diagnosis``, ``design``, ``work``: the prompts themselves, one file per family.
- ``server``: how MCP lists and gets them.
"""

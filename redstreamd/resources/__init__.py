"""Resources: streams, entries, fields, groups and the daemon's health under ``redstream://`` addresses.

- ``definition``: what a resource is, and the library that finds one by its address.
- ``streams``, ``groups``, ``health``: the resources themselves, one file per family.
- ``server``, ``subscriptions``: how MCP lists, reads and subscribes to them, in both eras.
- ``completion``: what can stand for an argument of a template or a prompt.
"""

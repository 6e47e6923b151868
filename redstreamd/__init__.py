"""redstreamd: Redis Streams as a message bus for AI agents, served over MCP by one supervised daemon.

Importing the package imports nothing else: the bridge that MCP clients start for
each session (``redstreamd connect``) has to be running in a few milliseconds.
"""

__version__ = "0.1.0"

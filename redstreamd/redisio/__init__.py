"""Everything that speaks to Redis on trio; knows nothing of MCP."""

from __future__ import annotations

#: What an argument of a command may be. hiredis, which packs commands, refuses anything else, also
#: bool and None: their meaning on the wire is for the caller to choose.
Arg = str | bytes | int | float

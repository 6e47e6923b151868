"""Everything that speaks to Redis on trio; knows nothing of MCP."""

from __future__ import annotations

import enum

#: What an argument of a command may be. hiredis, which packs commands, refuses anything else, also
#: bool and None: their meaning on the wire is for the caller to choose.
Arg = str | bytes | int | float


class Role(enum.Enum):
    """What a connection is for; each is opened when it is first needed."""

    # Enum's own is written in Python, and every command looks up its role.
    __hash__ = object.__hash__

    COMMAND = "command"
    """Everything short."""
    WATCH = "watch"
    """Key tracking; its push notifications wake those who wait."""
    BULK = "bulk"
    """Reads, which may be large and would hold up short commands behind them."""
    LARGE = "large"
    """Reads whose replies are known to be large, which would hold up other reads behind them."""
    DURABLE = "durable"
    """Writes that are to be confirmed, with the WAIT that confirms them and holds up the connection."""

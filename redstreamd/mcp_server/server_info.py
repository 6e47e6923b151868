"""What the server says of itself. Apart from `server`, because it is needed before the SDK is imported."""

from __future__ import annotations

from typing import Any, Final

NAME: Final = "redstreamd"
TITLE: Final = "Redis Streams for agents"


def greeting(version: str, instructions: str) -> dict[str, Any]:
    """Return the result of ``initialize``, without the revision, as the SDK gives it.

    Args:
        version: The daemon's.
        instructions: How to use the tools together.
    """
    return {
        "capabilities": {
            "completions": {},
            "prompts": {"listChanged": False},
            "resources": {"listChanged": True, "subscribe": True},
            "tools": {"listChanged": False},
        },
        "instructions": instructions,
        "serverInfo": {"name": NAME, "title": TITLE, "version": version},
    }

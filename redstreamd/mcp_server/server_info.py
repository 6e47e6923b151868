"""What the server says of itself. Apart from `server`, because it is needed before the SDK is imported."""

from __future__ import annotations

from typing import Any, Final

NAME: Final = "redstreamd"
TITLE: Final = "Redis Streams for agents"


#: The revisions of the modern era, in which requests have no session.
MODERN_REVISIONS: Final = ("2026-07-28",)
_CAPABILITIES: Final = {
    "completions": {},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "tools": {"listChanged": True},
}


def implementation(version: str) -> dict[str, str]:
    """Return the name, the title and the version of the server, as a new value."""
    return {"name": NAME, "title": TITLE, "version": version}


def greeting(version: str, instructions: str = "") -> dict[str, Any]:
    """Return the result of ``initialize``, without the revision, as the SDK gives it.

    Args:
        version: The daemon's.
        instructions: How to use the tools together; empty if that is said later.
    """
    return {
        "capabilities": _CAPABILITIES,
        "instructions": instructions,
        "serverInfo": implementation(version),
    }


def discovery(version: str, instructions: str = "") -> dict[str, Any]:
    """Return the result of ``server/discover`` as the SDK gives it; for the arguments see `greeting`."""
    return {
        "supportedVersions": list(MODERN_REVISIONS),
        "capabilities": _CAPABILITIES,
        "instructions": instructions,
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": implementation(version)},
    }

"""The part of the daemon that needs the SDK of MCP: the kernels, which serve all but plain calls of tools.

Imported on a thread while the daemon serves plain calls, because it takes as long as all the rest.
"""

from __future__ import annotations

# anyio imports it when it is first used, which would be by the first request, on the event loop.
import anyio._backends._trio  # noqa: F401

from redstreamd import __version__
from redstreamd.daemon.parts import Parts
from redstreamd.mcp_server.server import build_server
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.resources.catalog import RESOURCES


def build_kernels(parts: Parts) -> Kernels:
    """Return the kernels over `parts`. May be called on any thread."""
    server = build_server(
        parts.toolbox,
        RESOURCES,
        PROMPTS,
        parts.views,
        parts.updates,
        version=__version__,
        on_refused=parts.call_log.audit.refused,
    )
    parts.on_listings_changed.append(server.reconfigured)
    return Kernels(server, server.instructions)

"""The registry of all tools."""

from __future__ import annotations

from redstreamd.tools import (
    dead_letters,
    group_admin,
    original_red_stream,
    pending,
    publishing,
    quarantine,
    reading,
    request_reply,
    settling,
    stream_admin,
    stream_health,
    work,
)
from redstreamd.tools.definition import Registry

REGISTRY = Registry(
    (
        *reading.TOOLS,
        *pending.TOOLS,
        *stream_health.TOOLS,
        *publishing.TOOLS,
        *request_reply.TOOLS,
        *work.TOOLS,
        *settling.TOOLS,
        *dead_letters.TOOLS,
        *quarantine.TOOLS,
        *group_admin.TOOLS,
        *stream_admin.TOOLS,
        *original_red_stream.TOOLS,
    )
)

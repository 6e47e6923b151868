"""What the server says of itself. Apart from `server`, because it is needed before the SDK is imported."""

from __future__ import annotations

from typing import Final

NAME: Final = "redstreamd"
TITLE: Final = "Redis Streams for agents"

"""Events of the embedded server, as typed values for one hook."""

from __future__ import annotations

import msgspec


class SpaceMissing(msgspec.Struct, frozen=True):
    """The server waits until its disk has space.

    Attributes:
        cause: How much there is, and how much it needs.
    """

    cause: str


class SpaceFreed(msgspec.Struct, frozen=True):
    """Its disk has space again, and the server starts."""


class DataLoaded(msgspec.Struct, frozen=True):
    """The server has loaded its data.

    Attributes:
        seconds: How long that took.
    """

    seconds: float


EmbeddedEvent = SpaceMissing | SpaceFreed | DataLoaded

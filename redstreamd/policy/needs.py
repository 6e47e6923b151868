"""What a call needs: a permission on each stream that it touches."""

from __future__ import annotations

from typing import NamedTuple

from redstreamd.policy.principals import Permission


class Need(NamedTuple):
    """A permission on one stream, which also covers the companion keys of the stream.

    A named tuple, because one or two are made for each call.

    Attributes:
        stream: The stream's name.
        permission: What the call does to it.
        creates: Whether the call may create the stream.
    """

    stream: str
    permission: Permission
    creates: bool = False

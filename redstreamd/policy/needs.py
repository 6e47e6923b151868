"""What a call needs: a permission on each stream that it touches, and the question whether it is granted."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from redstreamd.policy.principals import Permission, Principal


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


Authorise = Callable[[Principal, str, Permission], None]
"""``(principal, stream, permission)``: raises `BusError` PERMISSION_DENIED if it is not granted.

The answer for the same three values may be remembered until `Toolbox.forget_verdicts` is called.
"""


def allow_all(principal: Principal, stream: str, permission: Permission) -> None:
    """Grant everything."""

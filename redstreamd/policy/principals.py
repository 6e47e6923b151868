"""The identity every call carries and the permissions a tool can require.

A principal is the door a call came through: on a host, identity is the socket first
(one socket and one system group per role), so it holds even where peer credentials are
hidden from the daemon. Rights per stream build on the two types here.
"""

from __future__ import annotations

import enum

import attrs


class Permission(enum.StrEnum):
    """What a tool does to the streams it names."""

    READ = "read"
    PUBLISH = "publish"
    CONSUME = "consume"
    MANAGE = "manage"


@attrs.frozen
class Principal:
    """On whose behalf a call is made.

    Attributes:
        name: Stable name, stamped into entries as their sender; printable ASCII without spaces.
        transport: How the caller is connected: ``unix``, ``tcp``, ``stdio`` or ``http``.
    """

    name: str
    transport: str

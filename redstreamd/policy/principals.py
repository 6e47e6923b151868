"""The principal of a call, and the permissions that tools need.

A client is identified by the socket it connects to, with one socket and one system group for each role. This
works even where peer credentials are hidden from the daemon.
"""

from __future__ import annotations

import enum

import msgspec


class Permission(enum.StrEnum):
    """What a tool does to the streams it names."""

    # Enum's own is written in Python, and permissions are a part of the key of every call's verdicts.
    __hash__ = str.__hash__

    READ = "read"
    PUBLISH = "publish"
    CONSUME = "consume"
    MANAGE = "manage"


class Principal(msgspec.Struct, frozen=True, cache_hash=True):
    """On whose behalf a call is made.

    Attributes:
        name: Stored in entries as their sender; printable ASCII without spaces.
        transport: ``unix``, ``tcp``, ``stdio`` or ``http``.
    """

    name: str
    transport: str

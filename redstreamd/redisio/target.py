"""Where Redis servers are and how to log in to them.

Owns the values only. They are made from the settings in ``configured_target``; a `Target` is used in
``connection``, a `Deployment` in the topologies.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Protocol

import attrs
import msgspec
from redis.credentials import CredentialProvider

from redstreamd.redisio.redis_errors import Problem, ServerReplied
from redstreamd.redisio.setting_names import NAMED, SENTINELS, SettingNames
from redstreamd.redisio.tls import Tls


class Operator(Protocol):
    """Knows more about a server than its replies tell, such as who runs it. Nothing may raise or block."""

    @property
    def name(self) -> str:
        """The server, at the beginning of a sentence."""

    def problem(self) -> Problem | None:
        """Return why the server does not serve; None if it does, or that is not known."""

    def adapted(self, problem: Problem) -> Problem:
        """Return a problem of a connection with the next step that fits this server, and the same cause."""

    def advise(self, answer: ServerReplied) -> None:
        """Give an error reply the next step that fits this server."""


@attrs.frozen
class Target:
    """One Redis or Valkey server and the login that redstreamd uses there.

    Attributes:
        host: Host name or address; ignored when `path` is given.
        port: TCP port; ignored when `path` is given.
        path: Unix socket of the server, or None for TCP.
        username: ACL user; None logs in as the server's default user.
        password: Its password, or None to send no login at all. Never shown by ``repr``.
        credentials: Asked for user and password at each login, instead of the two above. One that
            announces new credentials (StreamingCredentialProvider) has live connections log in again.
        tls: How to speak TLS, or None for a plain connection; ignored when `path` is given.
        database: Database number to SELECT.
        client_name: Name shown by CLIENT LIST, with the connection's role appended
            (``redstreamd:command``). No spaces, as CLIENT SETNAME demands.
        connect_timeout: Seconds for connecting and logging in together.
        settings: Which settings it follows from, for texts that say what to change.
        operator: Who knows more about the server than its replies tell; None for any other server.
        must_be_primary: Whether a login at a replica fails: it takes no writes.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    credentials: CredentialProvider | None = attrs.field(default=None, repr=False)
    tls: Tls | None = None
    database: int = 0
    client_name: str = "redstreamd"
    connect_timeout: float = 5.0
    operator: Operator | None = attrs.field(default=None, repr=False)
    settings: SettingNames = attrs.field(default=NAMED, repr=False)
    must_be_primary: bool = False

    @property
    def label(self) -> str:
        """How messages and records call the server: ``host:port`` or the socket's path."""
        if self.path is not None:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The server, at the beginning of a sentence."""
        return f"{self.settings.what} at {self.label}" if self.operator is None else self.operator.name


class TopologyKind(enum.StrEnum):
    """How the servers that hold the streams stand to each other."""

    STANDALONE = "standalone"
    """One server."""
    SENTINEL = "sentinel"
    """A primary that sentinels name, and that a replica takes the place of."""
    CLUSTER = "cluster"
    """Several primaries, each with its part of the keys."""


class Deployment(msgspec.Struct, frozen=True):
    """The servers that hold the streams, as the settings name them.

    Attributes:
        target: The one server; otherwise what every server has in common: login, TLS, timeouts.
        kind: How the servers stand to each other.
        nodes: Host and port of those that are asked first: the sentinels, or nodes of the cluster.
        primary_name: What the sentinels call the primary.
        sentinel: What every sentinel has in common: login, TLS, timeouts.
        addresses: Where to connect to instead of an address that a server announces.
    """

    target: Target
    kind: TopologyKind = TopologyKind.STANDALONE
    nodes: tuple[tuple[str, int], ...] = ()
    primary_name: str = "mymaster"
    sentinel: Target = msgspec.field(default_factory=Target)
    addresses: Mapping[tuple[str, int], tuple[str, int]] = msgspec.field(default_factory=dict)

    def target_at(self, host: str, port: int) -> Target:
        """Return the server that announces itself at an address."""
        host, port = self.addresses.get((host, port), (host, port))
        return attrs.evolve(self.target, host=host, port=port, path=None)

    def sentinel_at(self, host: str, port: int) -> Target:
        """Return the sentinel that announces itself at an address."""
        host, port = self.addresses.get((host, port), (host, port))
        return attrs.evolve(self.sentinel, host=host, port=port, path=None, settings=SENTINELS)

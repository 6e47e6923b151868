"""Which settings a server follows from, so that texts about it name what to change.

A server may be named by the settings themselves, be a sentinel, or be announced by sentinels or a cluster;
each has its address, TLS and login from other settings.
"""

from __future__ import annotations

from typing import Final

import msgspec

from redstreamd.errors.remedies import password, setting


class SettingNames(msgspec.Struct, frozen=True):
    """The settings of one kind of server; each is a dotted key.

    Attributes:
        what: The kind, at the beginning of a sentence.
        address: Where the settings name it; empty for a server that only others announce.
        announced_by: Who tells its address, with the option of Redis that decides it; None for nobody.
        successor: Who takes its place when it is down, as a sentence; empty for nobody.
        tls: Whether it is spoken to in TLS.
        ca_file: Whose certificates are trusted.
        server_name: The name that its certificate must bear.
        username: The user that logs in.
        password_file: The file of the password.
        password_key: The password.
        url: A scheme of URLs with TLS that stands for it; None where a URL does not decide.
    """

    what: str = "Redis"
    address: tuple[str, ...] = ("redis.host", "redis.port")
    announced_by: str | None = None
    successor: str = ""
    tls: str = "redis.tls"
    ca_file: str = "redis.ca_file"
    server_name: str = "redis.server_name"
    username: str = "redis.username"
    password_file: str = "redis.password_file"  # noqa: S105 - the name of a setting
    password_key: str = "redis.password"  # noqa: S105 - the name of a setting
    url: str | None = "rediss://"

    @property
    def password(self) -> str:
        """The password and where it is set, for use after a verb."""
        return password(self.password_key)

    @property
    def correct_address(self) -> str:
        """How to correct its address, for use after "or"."""
        if self.announced_by is None:
            return f"correct its address: {setting(*self.address)}"
        announced = f"where {self.announced_by}, map that to the right one: {setting('redis.node_addresses')}"
        return (
            f"correct its address: {setting(*self.address)}, or, {announced}" if self.address else announced
        )

    @property
    def start(self) -> str:
        """What helps if nothing listens at its address."""
        start = f"{self.successor} Else start it" if self.successor else "Start Redis"
        return f"{start}, or {self.correct_address}."

    @property
    def use_tls(self) -> str:
        """How to turn TLS on, as a sentence."""
        url = "" if self.url is None else f", or use {self.url} in the URL"
        return f"Set {setting(self.tls)} to true{url}."

    @property
    def use_no_tls(self) -> str:
        """How to turn TLS off, for use after "for a port without TLS,"."""
        url = "" if self.url is None else f", or use {self.url.replace('rediss', 'redis')} in the URL"
        return f"set {setting(self.tls)} to false{url}"


NAMED: Final = SettingNames()
"""The one server."""

SENTINELS: Final = SettingNames(
    what="The sentinel",
    address=("redis.nodes",),
    tls="redis.sentinel_tls",
    ca_file="redis.sentinel_ca_file",
    server_name="redis.sentinel_server_name",
    username="redis.sentinel_username",
    password_file="redis.sentinel_password_file",  # noqa: S106 - the name of a setting
    password_key="redis.sentinel_password",  # noqa: S106 - the name of a setting
    url=None,
)

WATCHED: Final = SettingNames(
    address=(),
    announced_by="the sentinels announce another address (`replica-announce-ip` of the server)",
    url="rediss+sentinel://",
)
"""A server that sentinels watch over."""

CLUSTER_NODE: Final = SettingNames(
    what="The node of the cluster",
    address=("redis.nodes",),
    successor="Its replica takes its place within seconds, if it has one.",
    announced_by="the cluster announces another address (`cluster-announce-ip` of the node)",
    url="rediss+cluster://",
)

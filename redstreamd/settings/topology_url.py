"""URLs that name a topology: several servers at once, and for Sentinel the name of the primary.

The forms are those that clients in the field understand, where they mean the same:

- ``redis+sentinel://`` of many Python, Go and TypeScript programs: hosts with commas, ``/PRIMARY/DATABASE``
- ``redis-sentinel://`` of Lettuce (``/DATABASE#PRIMARY`` or ``?sentinelMasterId=``) and others, which give
  the primary or the database as an option
- ``sentinel://`` of Celery: hosts with semicolons, each with the scheme
- ``redis+cluster://`` and ``redis-cluster://``: hosts with commas, or the others as options (``node=``)

In all of them the login is that of the servers. That of sentinels comes as options.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable
from typing import Any, Final

import attrs

from redstreamd.addresses.address_syntax import MASK
from redstreamd.settings.node_address import NodeAddress

FORMS: Final = (
    "redis+sentinel://[user:password@]host[:port][,host[:port]...][/primary[/database]] or "
    "redis+cluster://[user:password@]host[:port][,host[:port]...], with rediss+ for TLS"
)

_SCHEME: Final = re.compile(
    r"((?P<tls>rediss|valkeys)|redis|valkey)[+-](?P<topology>sentinel|cluster)|(?P<celery>sentinel)",
    re.IGNORECASE,
)
#: Names of options, without case and underscores, as clients in the field have them.
_PRIMARY: Final = frozenset(
    {"master", "mastername", "sentinelmaster", "sentinelmasterid", "sentinelmastername"}
    | {"sentinelservice", "sentinelservicename", "servicename"}
)
_DATABASE: Final = frozenset({"db", "database"})
_LOGIN: Final = {
    "sentinelusername": "redis.sentinel_username",
    "sentinelpassword": "redis.sentinel_password",
}


@attrs.frozen
class _Split:
    """A URL in its parts, as they stand in it.

    Attributes:
        login: What stands before the @; empty without one.
        members: The hosts, each with its port if it has one.
        tail: Everything behind them: path, options, fragment.
    """

    login: str = attrs.field(repr=False)
    members: tuple[str, ...]
    tail: str = attrs.field(repr=False)


def is_topology_url(text: str) -> bool:
    """Whether `text` is a URL whose scheme names a topology."""
    scheme, separator, _ = text.partition("://")
    return bool(separator and _SCHEME.fullmatch(scheme))


def parse_topology_url(text: str) -> dict[str, Any]:
    """Return the parts that such a URL contains, as dotted key to value.

    Raises:
        ValueError: It is invalid; the message says what is accepted, and does not contain the text.
    """
    scheme = _SCHEME.fullmatch(text.partition("://")[0])
    if scheme is None:
        raise ValueError(FORMS)
    topology = (scheme["topology"] or scheme["celery"]).lower()
    split = _split(text)
    user, _, password = split.login.partition(":")
    path, _, rest = split.tail.partition("?")
    query, _, fragment = rest.partition("#") if rest else ("", "", "")
    if not rest:
        path, _, fragment = path.partition("#")
    options = _options(query)
    nodes = [*split.members, *(value for name, value in options if name == "node" and topology == "cluster")]
    parts: dict[str, Any] = {
        "redis.topology": topology,
        "redis.nodes": [str(NodeAddress.parse(urllib.parse.unquote(node))) for node in nodes],
        "redis.tls": scheme["tls"] is not None,
    }
    for key, value in (("redis.username", user), ("redis.password", password)):
        if value:
            parts[key] = urllib.parse.unquote(value)
    segments = [urllib.parse.unquote(segment) for segment in path.split("/") if segment]
    if topology == "sentinel":
        parts |= _of_sentinel(segments, urllib.parse.unquote(fragment), options)
        return parts
    unknown = {name for name, _ in options} - _DATABASE - {"node"}
    if fragment or unknown or len(segments) > 1:
        raise ValueError(f"{FORMS}, no other options, and reserved characters percent-encoded")
    databases = {*segments, *(value for name, value in options if name in _DATABASE)}
    if databases:
        parts["redis.database"] = _database(databases)
    return parts


def masked_topology_url(text: str) -> str:
    """Return such a URL with its password masked, or only its scheme if it is not clear where that is."""
    scheme = text.partition("://")[0]
    try:
        split = _split(text)
        for member in split.members:
            NodeAddress.parse(urllib.parse.unquote(member))
    except ValueError:
        return f"{scheme}://{MASK}"
    if "pass" in split.tail.lower():
        return f"{scheme}://{MASK}"
    user, colon, _ = split.login.partition(":")
    login = f"{urllib.parse.quote(urllib.parse.unquote(user), safe='')}:{MASK}@" if colon else split.login
    if login and not colon:
        login += "@"
    return f"{scheme}://{login}{','.join(split.members)}{split.tail}"


def _split(text: str) -> _Split:
    """Split a URL; urllib's own function takes several hosts for one.

    Raises:
        ValueError: It has no host, or it is not clear where the login ends.
    """
    scheme, _, rest = text.partition("://")
    # Celery repeats the scheme with each host.
    rest = re.sub(rf"[,;]{re.escape(scheme)}://", ",", rest, flags=re.IGNORECASE)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    members, logins = [], []
    for member in re.split("[,;]", authority):
        login, at, place = member.rpartition("@")
        members.append(place)
        if at:
            logins.append(login)
    unclear = "@" in tail or any("@" in login for login in logins)
    if unclear or len(set(logins)) > 1 or (logins and "@" not in re.split("[,;]", authority)[0]):
        raise ValueError(f"{FORMS}, with one login for all and its reserved characters percent-encoded")
    if not all(members):
        raise ValueError(FORMS)
    return _Split(logins[0] if logins else "", tuple(members), tail)


def _options(query: str) -> list[tuple[str, str]]:
    try:
        found = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise ValueError(f"{FORMS}, with fewer options") from None
    return [(name.lower().replace("_", ""), value) for name, value in found]


def _of_sentinel(segments: list[str], fragment: str, options: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the primary, the database and the login at the sentinels."""
    if {name for name, _ in options} - _PRIMARY - _DATABASE - _LOGIN.keys() or len(segments) > 2:
        raise ValueError(f"{FORMS}, no other options, and reserved characters percent-encoded")
    names = {value for name, value in options if name in _PRIMARY} | ({fragment} if fragment else set())
    databases = {value for name, value in options if name in _DATABASE}
    # /PRIMARY/DATABASE, /PRIMARY, or, where the primary is named elsewhere, /DATABASE.
    if len(segments) == 1 and segments[0].isdigit():
        databases.add(segments[0])
    elif segments:
        names.add(segments[0])
        databases |= set(segments[1:])
    parts: dict[str, Any] = {_LOGIN[name]: value for name, value in options if name in _LOGIN and value}
    if len(names) > 1:
        raise ValueError(f"{FORMS}, with one name of the primary")
    if names:
        parts["redis.sentinel_primary"] = names.pop()
    if databases:
        parts["redis.database"] = _database(databases)
    return parts


def _database(texts: Iterable[str]) -> int:
    numbers = set(texts)
    if len(numbers) != 1 or not re.fullmatch("[0-9]{1,9}", text := numbers.pop()):
        raise ValueError(f"{FORMS}, where database is one number")
    return int(text)

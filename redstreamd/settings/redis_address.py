"""Resolves the settings of Redis's address, in all forms, to one address.

A URL is a whole address: it replaces all parts from earlier sources, so that a password for one server is not
sent to another. A part from the same or a later source replaces that part of the URL.

`redis.url`, `redis.host` and `redis.path` each accept every form (`parse_redis_address`).
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import attrs

from redstreamd.addresses.address_syntax import host_and_port
from redstreamd.settings import topology_url
from redstreamd.settings.redis_topology import NODE_ADDRESSES, NODES, SENTINEL, TOPOLOGY, choose_topology
from redstreamd.settings.sources import RawValue, Values, invalid_value

URL = "redis.url"
HOST = "redis.host"
PORT = "redis.port"
PATH = "redis.path"
PARTS = (
    HOST,
    PORT,
    PATH,
    "redis.username",
    "redis.password",
    "redis.password_file",
    "redis.database",
    "redis.tls",
    "redis.server_name",
    TOPOLOGY,
    NODES,
    NODE_ADDRESSES,
    # Which CA is trusted does not depend on the address.
    *(key for key in SENTINEL if key != "redis.sentinel_ca_file"),
)

_FORMS = (
    "redis://[user:password@]host[:port][/database], the same with rediss:// for TLS, "
    "unix://[user:password@]/path[?db=n], HOST[:PORT] or a socket's path; for other topologies "
    "redis+sentinel:// or redis+cluster://"
)

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)")
#: With Valkey's names for the same protocol, and the schemes of the daemon's own addresses.
_SCHEMES = {
    "redis": "redis",
    "valkey": "redis",
    "tcp": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
}


@attrs.frozen
class ParsedAddress:
    """A parsed address of Redis.

    Attributes:
        parts: Dotted key to value, for the parts that it contains.
        whole: Whether it is a URL, which also resets the parts that it does not contain.
        url: The address as a URL.
    """

    parts: dict[str, Any] = attrs.field(repr=False)
    whole: bool
    url: str = attrs.field(repr=False)


def parse_redis_address(text: str) -> ParsedAddress:
    """Parse an address of Redis in any form.

    Raises:
        ValueError: It is invalid; the message says what is accepted, and does not contain the text.
    """
    if re.search(r"[\s\x00-\x1f\x7f]", text) and not text.startswith(("/", "unix:")):
        raise ValueError(f"{_FORMS}, without spaces")
    if topology_url.is_topology_url(text):
        return ParsedAddress(topology_url.parse_topology_url(text), whole=True, url=text)
    scheme = _SCHEME.fullmatch(text)
    if scheme is not None:
        known = _SCHEMES.get(scheme["scheme"].lower())
        if known is None:
            raise ValueError(_FORMS)
        parts = _url_parts(f"{known}://{scheme['rest']}")
        # unix: and tcp: may be addresses without other parts.
        bare = scheme["scheme"].lower() in ("unix", "tcp") and set(parts) <= {HOST, PORT, PATH, "redis.tls"}
        if bare:
            del parts["redis.tls"]
        return ParsedAddress(parts, not bare, text)
    if text.startswith(("/", "unix:")):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("unix:///PATH, an absolute path after two slashes")
        return ParsedAddress({PATH: path}, whole=False, url=f"unix://{urllib.parse.quote(path)}")
    text = re.sub(r"^tcp:(?=[^:]+:[0-9]+$|\[)", "", text, flags=re.IGNORECASE).removesuffix("/")
    login, at, address = text.rpartition("@")
    if at:
        # Without a colon it may be a password, which must not be taken for a user, because users are shown.
        if login.count(":") != 1 or not address:
            raise ValueError(
                f"{_FORMS}; a user alone is redis.username (REDIS_USERNAME), "
                "a password alone is redis.password (REDIS_PASSWORD)"
            )
        return ParsedAddress(_url_parts(f"redis://{text}"), whole=True, url=f"redis://{text}")
    if re.search(r"/[0-9]+$", text):
        # With the number of a database.
        return ParsedAddress(_url_parts(f"redis://{text}"), whole=True, url=f"redis://{text}")
    host, port = _endpoint(text)
    parts = {HOST: host} if port is None else {HOST: host, PORT: port}
    shown = f"[{host}]" if ":" in host else host
    return ParsedAddress(parts, whole=False, url=f"redis://{shown}" + ("" if port is None else f":{port}"))


def resolve(values: Values) -> Values:
    """Return `values` with the URL split into parts, and one of each pair of alternatives.

    The alternatives are socket and host, and password and password file.

    Raises:
        SettingsError: An address is invalid, or one source gives both of a pair.
    """
    values = _moved_to_their_settings(values)
    from_url: Values = {}
    url = values.get(URL)
    if url is not None and url.value is not None:
        address = _parsed_url(url)
        # A URL always decides about TLS and the topology.
        decided = {"redis.tls": False, TOPOLOGY: "standalone"}
        from_url = {key: RawValue(part, url.source) for key, part in (decided | address.parts).items()}
        values = {
            key: given
            for key, given in values.items()
            if key not in PARTS or given.source.precedence >= url.source.precedence
        } | {URL: RawValue(address.url, url.source)}

    def precedence(key: str) -> tuple[int, bool]:
        # A separate part takes precedence over that of a URL from the same source.
        if key in values:
            return (values[key].source.precedence, True)
        return (from_url[key].source.precedence, False) if key in from_url else (-1, False)

    chosen = _choose_endpoint(choose_topology(from_url | values, precedence), precedence)
    for password in ("redis.password", "redis.sentinel_password"):
        chosen = _choose_password(chosen, precedence, password)
    return chosen


def _moved_to_their_settings(values: Values) -> Values:
    """Move addresses in `redis.host` and `redis.path` to the settings of their parts."""
    for key in (HOST, PATH):
        given = values.get(key)
        if given is None or not isinstance(given.value, str) or not given.value:
            continue
        try:
            found = parse_redis_address(given.value)
        except ValueError as wrong:
            raise invalid_value(key, given, str(wrong)) from None
        if key == PATH and HOST in found.parts and PORT not in found.parts and not found.whole:
            raise invalid_value(key, given, "an absolute path; a name or address is redis.host")
        rest = {name: other for name, other in values.items() if name != key}
        parts = {URL: found.url} if found.whole else found.parts
        for part, value in parts.items():
            other = values.get(part) if part != key else None
            if (
                other is not None
                and other.value is not None
                and other.source.precedence >= given.source.precedence
            ):
                if other.source.precedence == given.source.precedence and not _same(part, other.value, value):
                    raise invalid_value(
                        key,
                        given,
                        f"the same address as {part} (from {other.source}), or only one of the two",
                    )
                continue
            rest[part] = RawValue(value, given.source)
        values = rest
    return values


def _same(part: str, one: Any, other: Any) -> bool:
    """Whether two values of a part mean the same."""
    if part != URL:
        return bool(str(one) == str(other))
    try:
        return parse_redis_address(str(one)).parts == parse_redis_address(str(other)).parts
    except ValueError:
        return False


def _choose_endpoint(merged: Values, precedence: Callable[[str], tuple[int, bool]]) -> Values:
    """Keep the later of socket and host; a later socket also turns TLS off."""
    path = merged.get("redis.path")
    if path is None or path.value is None:
        return merged
    network = max(("redis.host", "redis.port"), key=precedence)
    if precedence(network) > precedence("redis.path"):
        return merged | {"redis.path": RawValue(None, merged[network].source)}
    if precedence(network) == precedence("redis.path"):
        raise invalid_value("redis.path", path, f"a socket's path or {network}, not both from one source")
    tls = merged.get("redis.tls")
    if tls is None or tls.value is not True:
        return merged
    if precedence("redis.path") > precedence("redis.tls"):
        return merged | {"redis.tls": RawValue(False, path.source)}
    raise invalid_value(
        "redis.tls", tls, f"false: {path.value} is a Unix socket, on which Redis speaks no TLS"
    )


def _choose_password(merged: Values, precedence: Callable[[str], tuple[int, bool]], password: str) -> Values:
    """Keep the later of a password and the file of it."""
    file = f"{password}_file"
    given = [key for key in (password, file) if key in merged and merged[key].value is not None]
    if len(given) < 2:
        return merged
    if precedence(password) == precedence(file):
        raise invalid_value(file, merged[file], f"this or {password}, not both from one source")
    loser, winner = sorted(given, key=precedence)
    return merged | {loser: RawValue(None, merged[winner].source)}


def _parsed_url(url: RawValue) -> ParsedAddress:
    if not isinstance(url.value, str):
        raise invalid_value(URL, url, _FORMS)
    try:
        return parse_redis_address(url.value)
    except ValueError as wrong:
        raise invalid_value(URL, url, str(wrong)) from None


def _url_parts(text: str) -> dict[str, Any]:
    """Return the parts that a redis://, rediss:// or unix:// URL contains.

    The syntax is that of redis-py (``redis.connection.parse_url``), which ignores a database that is not a
    number, unknown options, and a host in a unix:// URL. Here these are errors.
    """
    try:
        split = urllib.parse.urlsplit(text)
        options = urllib.parse.parse_qs(split.query, keep_blank_values=True, max_num_fields=8)
        port = split.port
        database = _database(split, options)
    except ValueError:
        # The exception's text contains the URL with its password.
        raise ValueError(f"{_FORMS}, with reserved characters in a password percent-encoded") from None
    if split.fragment or set(options) - {"db"}:
        raise ValueError(f"{_FORMS}, no other options, and reserved characters percent-encoded")
    parts: dict[str, Any] = {}
    if split.scheme == "unix":
        if split.netloc.rpartition("@")[2] or not split.path:
            raise ValueError("unix:///PATH, an absolute path after two slashes")
        parts[PATH] = urllib.parse.unquote(split.path)
    else:
        if not re.fullmatch(r"(/[0-9]{0,9})?/?", split.path):
            raise ValueError("redis://HOST[:PORT][/DATABASE], where DATABASE is a number")
        place = split.netloc.rpartition("@")[2]
        host = _endpoint(place)[0] if place.removesuffix(":") else ""
        if host:
            parts[HOST] = urllib.parse.unquote(host)
        if port is not None:
            parts[PORT] = port
    for key, part in (("redis.username", split.username), ("redis.password", split.password)):
        if part:
            parts[key] = urllib.parse.unquote(part)
    if database is not None:
        parts["redis.database"] = database
    return parts | {"redis.tls": split.scheme == "rediss"}


def _database(split: urllib.parse.SplitResult, options: dict[str, list[str]]) -> int | None:
    """Return the database in a URL's query or path, or None.

    Raises:
        ValueError: It is not a number.
    """
    text = options["db"][0] if "db" in options else "" if split.scheme == "unix" else split.path.strip("/")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if "db" in options:
        raise ValueError(text)
    return None


def _endpoint(text: str) -> tuple[str, int | None]:
    if "," in text:
        raise ValueError(
            f"one address; several are redis.nodes (REDIS_NODES) with redis.topology, or {topology_url.FORMS}"
        )
    try:
        host, port = host_and_port(text.removesuffix(":"))
    except ValueError as wrong:
        raise ValueError(f"{_FORMS}; {wrong}") from None
    if not host and port is None:
        raise ValueError(_FORMS)
    return host or "localhost", port

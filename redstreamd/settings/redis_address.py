"""How the address of Redis, in whatever form and setting, becomes one address.

A URL is a whole address, so it replaces all parts that an earlier source gave (a password
meant for one server is not sent to another). A part in the same or a later source is the
more particular word and replaces that part of the URL.

People write a URL where a host is asked for, a host with its port, or a socket's path, and the other
way round. So `redis.url`, `redis.host` and `redis.path` take each form (`written`), and are sorted out here.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import attrs

from redstreamd.addresses.address_syntax import host_and_port
from redstreamd.settings.sources import Given, Values, misfit

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
)

_FORMS = (
    "redis://[user:password@]host[:port][/database], the same with rediss:// for TLS, "
    "unix://[user:password@]/path[?db=n], HOST[:PORT] or a socket's path"
)

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)")
#: Valkey's names for the same protocol, and how the daemon's own addresses are written.
_SCHEMES = {
    "redis": "redis",
    "valkey": "redis",
    "tcp": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
}


@attrs.frozen
class Written:
    """An address as it was written.

    Attributes:
        parts: The settings that it names.
        whole: Whether it is a URL, which stands for every part, named or not; else only for what it names.
        url: As a URL.
    """

    parts: dict[str, Any] = attrs.field(repr=False)
    whole: bool
    url: str = attrs.field(repr=False)


def written(text: str) -> Written:
    """Read an address of Redis in any of its forms.

    Raises:
        ValueError: It is none; the message says what is accepted, and does not repeat the text.
    """
    if re.search(r"[\s\x00-\x1f\x7f]", text) and not text.startswith(("/", "unix:")):
        raise ValueError(f"{_FORMS}, without spaces")
    scheme = _SCHEME.fullmatch(text)
    if scheme is not None:
        known = _SCHEMES.get(scheme["scheme"].lower())
        if known is None:
            raise ValueError(_FORMS)
        parts = _url_parts(f"{known}://{scheme['rest']}")
        # These two are also how an address alone is written.
        bare = scheme["scheme"].lower() in ("unix", "tcp") and set(parts) <= {HOST, PORT, PATH, "redis.tls"}
        if bare:
            del parts["redis.tls"]
        return Written(parts, not bare, text)
    if text.startswith(("/", "unix:")):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("unix:///PATH, an absolute path after two slashes")
        return Written({PATH: path}, whole=False, url=f"unix://{urllib.parse.quote(path)}")
    text = re.sub(r"^tcp:(?=[^:]+:[0-9]+$|\[)", "", text, flags=re.IGNORECASE).removesuffix("/")
    login, at, address = text.rpartition("@")
    if at:
        # Without a colon it could be either, and a password must not be taken for a user, who is shown.
        if login.count(":") != 1 or not address:
            raise ValueError(
                f"{_FORMS}; a user alone is redis.username (REDIS_USERNAME), "
                "a password alone is redis.password (REDIS_PASSWORD)"
            )
        return Written(_url_parts(f"redis://{text}"), whole=True, url=f"redis://{text}")
    if re.search(r"/[0-9]+$", text):
        # With the number of a database.
        return Written(_url_parts(f"redis://{text}"), whole=True, url=f"redis://{text}")
    host, port = _endpoint(text)
    parts = {HOST: host} if port is None else {HOST: host, PORT: port}
    shown = f"[{host}]" if ":" in host else host
    return Written(parts, whole=False, url=f"redis://{shown}" + ("" if port is None else f":{port}"))


def resolve(values: Values) -> Values:
    """Return `values` with the address settled: URL taken apart, and one of each pair of alternatives.

    The alternatives are a socket and a host, and a password and a file that holds it.

    Raises:
        SettingsError: An address is not understood, or one source names both of a pair.
    """
    values = _sorted_out(values)
    from_url: Values = {}
    url = values.get(URL)
    if url is not None and url.value is not None:
        address = _taken_apart(url)
        # Said either way: a whole address that names no TLS means none.
        from_url = {
            key: Given(part, url.source) for key, part in ({"redis.tls": False} | address.parts).items()
        }
        values = {
            key: given
            for key, given in values.items()
            if key not in PARTS or given.source.rank >= url.source.rank
        } | {URL: Given(address.url, url.source)}

    def strength(key: str) -> tuple[int, bool]:
        # An explicit part counts as later than the URL's.
        if key in values:
            return (values[key].source.rank, True)
        return (from_url[key].source.rank, False) if key in from_url else (-1, False)

    return _one_password(_one_endpoint(from_url | values, strength), strength)


def _sorted_out(values: Values) -> Values:
    """Move what is written under `redis.host` or `redis.path` to the settings that it belongs to."""
    for key in (HOST, PATH):
        given = values.get(key)
        if given is None or not isinstance(given.value, str) or not given.value:
            continue
        try:
            found = written(given.value)
        except ValueError as wrong:
            raise misfit(key, given, str(wrong)) from None
        if key == PATH and HOST in found.parts and PORT not in found.parts and not found.whole:
            raise misfit(key, given, "an absolute path; a name or address is redis.host")
        rest = {name: other for name, other in values.items() if name != key}
        parts = {URL: found.url} if found.whole else found.parts
        for part, value in parts.items():
            other = values.get(part) if part != key else None
            if other is not None and other.value is not None and other.source.rank >= given.source.rank:
                if other.source.rank == given.source.rank and not _same(part, other.value, value):
                    raise misfit(
                        key,
                        given,
                        f"the same address as {part} (from {other.source}), or only one of the two",
                    )
                continue
            rest[part] = Given(value, given.source)
        values = rest
    return values


def _same(part: str, one: Any, other: Any) -> bool:
    """Whether two settings for the same part say the same."""
    if part != URL:
        return bool(str(one) == str(other))
    try:
        return written(str(one)).parts == written(str(other)).parts
    except ValueError:
        return False


def _one_endpoint(merged: Values, strength: Callable[[str], tuple[int, bool]]) -> Values:
    """Let the later of socket and host decide; a later socket also ends TLS."""
    path = merged.get("redis.path")
    if path is None or path.value is None:
        return merged
    network = max(("redis.host", "redis.port"), key=strength)
    if strength(network) > strength("redis.path"):
        return merged | {"redis.path": Given(None, merged[network].source)}
    if strength(network) == strength("redis.path"):
        raise misfit("redis.path", path, f"a socket's path or {network}, not both from one source")
    tls = merged.get("redis.tls")
    if tls is None or tls.value is not True:
        return merged
    if strength("redis.path") > strength("redis.tls"):
        return merged | {"redis.tls": Given(False, path.source)}
    raise misfit("redis.tls", tls, f"false: {path.value} is a Unix socket, on which Redis speaks no TLS")


def _one_password(merged: Values, strength: Callable[[str], tuple[int, bool]]) -> Values:
    """Let the later of the password and the file that holds it decide."""
    word, file = "redis.password", "redis.password_file"
    given = [key for key in (word, file) if key in merged and merged[key].value is not None]
    if len(given) < 2:
        return merged
    if strength(word) == strength(file):
        raise misfit(file, merged[file], f"this or {word}, not both from one source")
    loser, winner = sorted(given, key=strength)
    return merged | {loser: Given(None, merged[winner].source)}


def _taken_apart(url: Given) -> Written:
    if not isinstance(url.value, str):
        raise misfit(URL, url, _FORMS)
    try:
        return written(url.value)
    except ValueError as wrong:
        raise misfit(URL, url, str(wrong)) from None


def _url_parts(text: str) -> dict[str, Any]:
    """Return the parts that a URL with a scheme of Redis's own names; those that it does not are left out.

    The notation is redis-py's (``redis.connection.parse_url``). That lets pass what it does not understand:
    a database that is no number, options of its own connections, a host in a unix:// URL. Here these are
    errors.
    """
    try:
        split = urllib.parse.urlsplit(text)
        options = urllib.parse.parse_qs(split.query, keep_blank_values=True, max_num_fields=8)
        port = split.port
        database = _database(split, options)
    except ValueError:
        # The exception quotes the URL, password and all.
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
    """Return the database that a URL names in its query or its path; None if it names none.

    Raises:
        ValueError: It is no number.
    """
    text = options["db"][0] if "db" in options else "" if split.scheme == "unix" else split.path.strip("/")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if "db" in options:
        raise ValueError(text)
    return None


def _endpoint(text: str) -> tuple[str, int | None]:
    try:
        host, port = host_and_port(text.removesuffix(":"))
    except ValueError as wrong:
        raise ValueError(f"{_FORMS}; {wrong}") from None
    if not host and port is None:
        raise ValueError(_FORMS)
    return host or "localhost", port

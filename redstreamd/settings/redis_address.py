"""How a Redis URL and the separate parts of an address become one address.

A URL is a whole address, so it replaces all parts that an earlier source gave (a password
meant for one server is not sent to another). A part in the same or a later source is the
more particular word and replaces that part of the URL.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from redstreamd.settings.sources import Given, Values, misfit

URL = "redis.url"
PARTS = (
    "redis.host",
    "redis.port",
    "redis.path",
    "redis.username",
    "redis.password",
    "redis.password_file",
    "redis.database",
    "redis.tls",
    "redis.server_name",
)

_FORMS = (
    "redis://[user:password@]host[:port][/database], the same with rediss:// for TLS, or "
    "unix://[user:password@]/path[?db=n]"
)


def resolve(values: Values) -> Values:
    """Return `values` with the address settled: URL taken apart, and one of each pair of alternatives.

    The alternatives are a socket and a host, and a password and a file that holds it.

    Raises:
        SettingsError: The URL is not understood, or one source names both of a pair.
    """
    from_url: Values = {}
    url = values.get(URL)
    if url is not None and url.value is not None:
        from_url = {key: Given(part, url.source) for key, part in _taken_apart(url).items()}
        values = {
            key: given
            for key, given in values.items()
            if key not in PARTS or given.source.rank >= url.source.rank
        }

    def strength(key: str) -> tuple[int, bool]:
        # An explicit part counts as later than the URL's.
        if key in values:
            return (values[key].source.rank, True)
        return (from_url[key].source.rank, False) if key in from_url else (-1, False)

    return _one_password(_one_endpoint(from_url | values, strength), strength)


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


def _taken_apart(url: Given) -> dict[str, Any]:
    """Return the parts that the URL names.

    redis-py's ``parse_url`` does the reading. It lets pass what it does not understand (a
    database that is no number, options of its own connections, a host in a unix:// URL),
    which here is an error.
    """
    text = url.value
    if not isinstance(text, str):
        raise misfit(URL, url, _FORMS)
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise misfit(URL, url, _FORMS)

    from redis.connection import parse_url  # here, because it costs 0.2 s and most settings have no URL

    try:
        split = urllib.parse.urlsplit(text)
        options = urllib.parse.parse_qs(split.query, keep_blank_values=True)
        parsed = parse_url(text)  # type: ignore[no-untyped-call]
    except ValueError:
        # The exception quotes the URL, password and all.
        raise misfit(URL, url, f"{_FORMS}, with reserved characters in a password percent-encoded") from None
    if split.fragment or set(options) - {"db"}:
        raise misfit(URL, url, f"{_FORMS}, no other options, and reserved characters percent-encoded")
    if split.scheme == "unix":
        if split.hostname is not None or not split.path:
            raise misfit(URL, url, "unix:///PATH, an absolute path after two slashes")
    elif not re.fullmatch(r"(/[0-9]{0,9})?", split.path):
        raise misfit(URL, url, "redis://HOST[:PORT][/DATABASE], where DATABASE is a number")
    names = {"db": "database"}
    parts = {
        f"redis.{names.get(name, name)}": value
        for name, value in parsed.items()
        if name != "connection_class"
    }
    # Said either way: a whole address that names no TLS means none.
    return parts | {"redis.tls": split.scheme == "rediss"}

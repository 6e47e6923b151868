"""Parses addresses of the daemon and of Redis, and masks logins in them.

Standard library only, and no pathlib, for `redstreamd connect`.
"""

from __future__ import annotations

import os
import re
import socket
from typing import NamedTuple

MASK = "***"

SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket in bytes, without the final NUL (unix(7))."""

#: Underscores are not allowed in DNS names, but Docker Compose uses them.
_HOST = re.compile(r"\w(?:[\w.-]*\w)?\.?")
_SCHEME = re.compile(r"(?P<scheme>unix|tcp|http|metrics):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_REDIS_SCHEME = re.compile(r"(redis|rediss|valkey|valkeys)([+-](sentinel|cluster))?://", re.IGNORECASE)
#: What begins as an address of some kind does, and not as one of IPv6.
_OTHER_KIND = re.compile(r"[a-z][a-z+.-]*[g-z][a-z+.-]*:(/|.*:[0-9]+\Z)", re.IGNORECASE)


class Address(NamedTuple):
    """A listening address.

    Attributes:
        kind: "unix", "tcp", "http" or "metrics"; of a daemon for its clients also "tls".
        path: The socket's path; empty unless it is a Unix socket, as all kinds but "tcp" and "tls" may be.
        host: A name or address without brackets; empty with a path.
        port: 0 with a path.
    """

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0


def parse_address(text: str) -> Address:
    """Parse ``unix:PATH``, ``unix://PATH``, a path, ``tcp:HOST:PORT``, ``tcp://HOST:PORT`` or ``HOST:PORT``.

    Also ``http:HOST:PORT``, ``http:PATH``, ``metrics:HOST:PORT`` and ``metrics:PATH``.

    Raises:
        ValueError: It is invalid; the message says what is accepted, and does not contain the text.
    """
    if text.startswith("/"):
        return Address("unix", path=socket_path(text))
    found = _SCHEME.fullmatch(text)
    kind = "tcp" if found is None else found["scheme"].lower()
    rest = text if found is None else found["rest"].removeprefix("//")
    if kind == "unix" or (kind in ("http", "metrics") and rest.startswith("/")):
        return Address(kind, path=socket_path(rest))
    if _REDIS_SCHEME.match(text):
        raise ValueError("unix:PATH or tcp:HOST:PORT; the address of Redis is redis.url (REDIS_URL)")
    if text[:6].lower() == "https:":
        raise ValueError("http:HOST:PORT; with listeners.certificate_file it takes TLS and nothing else")
    if "@" in rest:
        raise ValueError(
            f"{kind}:HOST:PORT without a login; that of Redis is redis.username and redis.password"
        )
    if found is None and _OTHER_KIND.match(text):
        raise ValueError(
            "unix:PATH, tcp:HOST:PORT, http:HOST:PORT or metrics:HOST:PORT; there is no such kind"
        )
    if kind == "http" and "/" in rest.removesuffix("/"):
        raise ValueError("http:HOST:PORT, or http:PATH of a Unix socket; the path of the URL is http.path")
    try:
        # A URL may end in a slash.
        host, port = host_and_port(rest.removesuffix("/") if "://" in text else rest)
    except ValueError as wrong:
        raise ValueError(f"{kind}:HOST:PORT; {wrong}") from None
    if not host:
        # An empty host would mean every interface, which has to be explicit.
        raise ValueError(f"{kind}:HOST:PORT, with 0.0.0.0 or [::] for every interface")
    if port is None:
        raise ValueError(f"{kind}:HOST:PORT, or unix:PATH with an absolute path")
    return Address(kind, host=host, port=port)


def parse_daemon_address(text: str) -> Address:
    """Parse the address of a daemon for its clients: as `parse_address`, a relative path, or tls:HOST:PORT.

    Raises:
        ValueError: It is invalid; the message says what is accepted, and does not contain the text.
    """
    if (path := _relative_path(text)) is not None:
        return Address("unix", path=path)
    if text[:4].lower() == "tls:":
        try:
            return parse_address(f"tcp:{text[4:]}")._replace(kind="tls")
        except ValueError as wrong:
            raise ValueError(str(wrong).replace("tcp:", "tls:")) from None
    found = parse_address(text)
    if found.kind == "http":
        raise ValueError("unix:PATH or tcp:HOST:PORT; http: is for clients that speak Streamable HTTP")
    if found.kind == "metrics":
        raise ValueError("unix:PATH or tcp:HOST:PORT; metrics: is not for clients of MCP")
    return found


def unquoted(text: str) -> str:
    """Return a text without white space around it and without one pair of quotes.

    ``docker run --env-file`` and some launchers pass the quotes of ``NAME="value"``.
    """
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].strip()
    return text


def _relative_path(text: str) -> str | None:
    path = text.removeprefix("unix:")
    if path.startswith("/") or "@" in text or "://" in path:
        return None
    # HOST:PORT has no slash, and a file in the same directory no colon.
    return path if path and ("/" in path or ":" not in path) else None


def host_and_port(text: str) -> tuple[str, int | None]:
    """Parse ``HOST``, ``HOST:PORT``, ``ADDRESS``, ``[ADDRESS]`` or ``[ADDRESS]:PORT``; the host may be empty.

    Raises:
        ValueError: It is invalid, or an IPv6 address whose end may be a port.
    """
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not is_ipv6(address) or (rest and not rest.startswith(":")):
            raise ValueError("brackets go around an IPv6 address: [ADDRESS]:PORT")
        return address, _port(rest[1:]) if rest else None
    host, colon, port = text.rpartition(":")
    if ":" in host:
        if is_ipv6(text) and not (is_ipv6(host) and re.fullmatch(r"[0-9]{4,5}", port)):
            return text, None
        raise ValueError("an IPv6 address with a port stands in brackets: [ADDRESS]:PORT")
    name = host if colon else text
    if name and not _HOST.fullmatch(name):
        raise ValueError("a host is a name or an address")
    return name, _port(port) if colon else None


def is_ipv6(text: str) -> bool:
    """Return whether `text` is an IPv6 address, with or without a zone (``%eth0``)."""
    address, percent, zone = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, UnicodeError, ValueError):
        return False
    return not percent or bool(re.fullmatch(r"[\w.-]+", zone))


def socket_path(path: str) -> str:
    """Return `path` if it can be that of a Unix socket.

    Raises:
        ValueError: It is relative, too long or contains a NUL.
    """
    if not path.startswith("/"):
        raise ValueError("unix:PATH, with an absolute path")
    if "\0" in path or len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise ValueError(f"unix:PATH, with at most {SOCKET_PATH_LIMIT} bytes and no NUL")
    return path


def without_login(text: str) -> str:
    """Return `text` with a possible login before an address, or password in a query, masked."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?://)?", text)
    if "@" in text:
        return f"{scheme[0] if scheme else ''}{MASK}{text[text.rindex('@') :]}"
    return f"{scheme[0] if scheme else ''}{MASK}" if "pass" in text.partition("?")[2].lower() else text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError("a port is a number from 0 to 65535")
    return int(text)

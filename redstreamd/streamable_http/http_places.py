"""Which hosts a request may be for, and which web pages it may come from: against DNS rebinding.

A browser lets a page send requests to any address, and names the page in ``Origin``. A page whose own name is
made to lead to the daemon's address is of the same origin as the daemon, for the browser; only ``Host`` tells
then that it is not.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Final

#: Schemes of web pages of this host.
_SCHEMES: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#@\s]+)")
#: Answers that are remembered; a client sends the same value over and over.
_MAX_REMEMBERED: Final = 256
#: Longer values are not remembered, since they would fill the memory.
_LONGEST: Final = 300


class Hosts:
    """The hosts that a request may be for.

    These are the names and addresses of the host itself, any port, and those that are given.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        """Allow hosts.

        Args:
            allowed: Each a name or an address, IPv6 in brackets, for any port; or followed by a port, for
                that one. The addresses ``0.0.0.0`` and ``[::]`` allow every address: no page can make an
                address lead elsewhere.

        Raises:
            ValueError: One is none of these.
        """
        self._exact: set[str] = set()
        self._every_address = False
        for each in allowed:
            found = _AUTHORITY.fullmatch(each.lower())
            if found is None:
                raise ValueError(
                    f"{each!r} is no host; allowed: a name or an address, IPv6 in brackets, with or "
                    "without a port"
                )
            address = _address(found["host"])
            self._every_address = self._every_address or (address is not None and address.is_unspecified)
            self._exact.add(_written(found["host"]) + (f":{found['port']}" if found["port"] else ""))
        self._remembered: dict[str, bool] = {}

    def __contains__(self, authority: str) -> bool:
        """Return whether a request may be for ``host`` or ``host:port``."""
        return _remembered(self._remembered, authority, self._allows)

    def _allows(self, authority: str) -> bool:
        found = _AUTHORITY.fullmatch(authority.lower())
        if found is None:
            return False
        # A dot at the end makes a name absolute, and changes nothing else.
        host = _written(found["host"].removesuffix("."))
        if is_loopback(host) or host in self._exact or f"{host}:{found['port']}" in self._exact:
            return True
        return self._every_address and _address(host) is not None


class Origins:
    """The web pages that a request may come from: those of this host, and those that are given."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Allow origins.

        Args:
            allowed: Each as browsers send it, such as ``https://app.example.org`` or
                ``vscode-webview://app``.

        Raises:
            ValueError: One is no origin; ``null`` is none, because any page can have that.
        """
        self._exact: set[str] = set()
        for each in allowed:
            if _ORIGIN.fullmatch(each.lower()) is None:
                raise ValueError(
                    f"{each!r} is no origin; allowed: SCHEME://HOST or SCHEME://HOST:PORT, without a path"
                )
            self._exact.add(_without_usual_port(each.lower()))
        self._remembered: dict[str, bool] = {}

    def __contains__(self, origin: str) -> bool:
        """Return whether a request may come from a page of this origin."""
        return _remembered(self._remembered, origin, self._allows)

    def _allows(self, origin: str) -> bool:
        found = _ORIGIN.fullmatch(origin)
        if found is None:
            return False
        if _without_usual_port(origin) in self._exact:
            return True
        place = _AUTHORITY.fullmatch(found["authority"])
        return found["scheme"] in _SCHEMES and place is not None and is_loopback(_written(place["host"]))


def _remembered(known: dict[str, bool], value: str, allows: Callable[[str], bool]) -> bool:
    is_allowed = known.get(value)
    if len(value) > _LONGEST:
        return allows(value)
    if is_allowed is None:
        if len(known) >= _MAX_REMEMBERED:
            known.clear()
        is_allowed = known[value] = allows(value)
    return is_allowed


def is_loopback(host: str) -> bool:
    """Return whether a host is this one by its name or address."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _without_usual_port(origin: str) -> str:
    scheme = origin.partition(":")[0]
    return origin.removesuffix(f":{_SCHEMES[scheme]}") if scheme in _SCHEMES else origin


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host[1:-1])
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def _written(host: str) -> str:
    """Return a host in one form of writing: addresses of IPv6 have several."""
    address = _address(host)
    return host if address is None or address.version == 4 else f"[{address}]"

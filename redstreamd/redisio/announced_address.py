"""Reads the addresses that servers announce: nodes of a cluster, and sentinels.

Owns what can be one. Whether a name is known, and whether anything listens there, shows when it is dialled.
"""

from __future__ import annotations

from typing import Any, Final

Address = tuple[str, int]
"""Host and port."""

_MAX_HOST: Final = 255
_MAX_PORT: Final = 65_535


def announced_address(host: Any, port: Any) -> Address:
    """Return an address that a server announces.

    Args:
        host: The bytes or text of a name or an address.
        port: A number.

    Raises:
        ValueError: Nothing can listen there; says why, without repeating it.
    """
    if type(port) is not int or not 0 < port <= _MAX_PORT:
        raise ValueError("no port")
    name = host.decode("utf-8", "backslashreplace") if isinstance(host, bytes) else host
    if not isinstance(name, str) or not name or len(name) > _MAX_HOST:
        raise ValueError("no host")
    if not name.isprintable() or " " in name:
        raise ValueError("no host")
    return name, port

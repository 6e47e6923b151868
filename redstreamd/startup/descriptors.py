"""How many file descriptors the process may have, and how many connections of clients fit.

The daemon bounds its connections by this, and ``doctor`` says what the service would have. Sources:
getrlimit(2) (RLIMIT_NOFILE), systemd.exec(5) (LimitNOFILE=).
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

#: Descriptors kept for everything but clients: the process's own and its listening sockets (about 10),
#: connections to Redis and their successors (up to 8), an embedded server's pipes, files and name servers
#: asked by a login, the health report, and the acceptor's spare ones.
KEPT: Final = 48
#: Clients beyond the limit that are read and answered at a time; at most an eighth of all descriptors.
_MIN_NEWCOMERS: Final = 8
_MAX_NEWCOMERS: Final = 256


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process to the hard one; as it was if the kernel refuses.

    The soft limit is low for programs that use select(2), which this one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return how many descriptors this process may have now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def max_newcomers(limit: int) -> int:
    """Return how many clients beyond its bound a daemon with so many descriptors attends to at a time."""
    return max(_MIN_NEWCOMERS, min(_MAX_NEWCOMERS, limit // 8))


def connections_within(limit: int) -> int:
    """Return how many connections of clients a daemon with so many descriptors has room for."""
    return max(0, limit - KEPT - max_newcomers(limit))


def room() -> int:
    """Return for how many connections of clients this process has room now."""
    return connections_within(descriptor_limit())


def needed_for(connections: int) -> int:
    """Return how many descriptors a daemon needs for so many connections of clients."""
    return connections + KEPT + _MAX_NEWCOMERS

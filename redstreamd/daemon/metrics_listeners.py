"""The daemon's sockets for metrics, inherited or from the settings.

Whoever reaches such a socket may read the metrics, which name streams and groups: its file's permissions
guard it, and on TCP loopback alone. There is neither TLS nor a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from redstreamd.errors import SettingsError
from redstreamd.mcpio.listeners import UnixListener, open_tcp_listeners, open_unix_listener
from redstreamd.settings import Kind, ListenAddress, Settings
from redstreamd.settings.listener_demands import check_metrics_reach

#: The name of an inherited socket for metrics.
NAME: Final = "metrics"

MetricsListener = trio.SocketListener | UnixListener


async def open_metrics_listeners(
    settings: Settings, inherited: Sequence[MetricsListener]
) -> list[MetricsListener]:
    """Return the inherited sockets for metrics and those of the settings.

    Raises:
        SettingsError: One is open to other hosts, and the settings do not allow that. What was opened is
            closed.
        ListenError: An address cannot be listened on.
    """
    listeners: list[MetricsListener] = list(inherited)
    try:
        for address in settings.daemon.listen:
            if address.kind is Kind.METRICS:
                listeners += await _open(address)
        for number, each in enumerate(listeners):
            key, source = (
                ("ListenStream", "the socket unit")
                if number < len(inherited)
                else ("daemon.listen", "the settings")
            )
            check_metrics_reach(metrics_address(each), settings.listeners, source=source, key=key)
    except (SettingsError, OSError):
        for each in listeners:
            await each.aclose()
        raise
    return listeners


def metrics_address(listener: MetricsListener) -> ListenAddress:
    """Return where a listener for metrics listens."""
    name = listener.socket.getsockname()
    if listener.socket.family == trio.socket.AF_UNIX:
        return ListenAddress(Kind.METRICS, path=name)
    return ListenAddress(Kind.METRICS, host=name[0], port=name[1])


async def _open(address: ListenAddress) -> Sequence[MetricsListener]:
    if address.path:
        return [await open_unix_listener(address.path)]
    return await open_tcp_listeners(address.host, address.port)

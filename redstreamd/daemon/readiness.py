"""When the daemon tells the service manager that it is ready, and how it asks for more time until then.

Clients are accepted before that, and get an error that says why they are not served yet.
Sources: sd_notify(3) (EXTEND_TIMEOUT_USEC=), systemd.service(5) (TimeoutStartSec=, WatchdogSec=, which counts
from READY=1 on).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from redstreamd.redisio.client import Redis
from redstreamd.service.embedded.embedded_server import START_SECONDS, EmbeddedServer
from redstreamd.service.notify import Notifier

#: How much time to start is asked for whenever the embedded server has said that it loads. A server that
#: goes silent is given up after the same time; then nothing more is asked for, and the start times out.
_EXTENSION_SECONDS: Final = START_SECONDS

#: Seconds between two looks whether it has said so again.
_LOOK_SECONDS: Final = 1.0

#: Seconds for our own connection to a server that serves from now on. Without it, READY would come up to a
#: second before the first call succeeds.
_CONNECT_SECONDS: Final = 2.0


async def wait_ready(embedded: EmbeddedServer | None, redis: Redis) -> None:
    """Return when the embedded server serves or waits for disk space.

    Args:
        embedded: The daemon's own server, if it has one. Any other Redis is not waited for: it may come
            and go.
        redis: Our connections to it.
    """
    if embedded is None:
        return
    await embedded.wait_served()
    if embedded.problem() is None:
        with trio.move_on_after(_CONNECT_SECONDS):
            await redis.wait_connected()


@asynccontextmanager
async def extended_start_timeout(notifier: Notifier, embedded: EmbeddedServer | None) -> AsyncIterator[None]:
    """Ask for more time to start, during the block, as often as the embedded server says that it loads.

    The block includes what is imported and built meanwhile: where the processor is busy that takes long, too,
    and the server's progress must count from its first answer on.
    """
    async with trio.open_nursery() as nursery:
        if embedded is not None:
            nursery.start_soon(_extend_while_loading, notifier, embedded)
        yield
        nursery.cancel_scope.cancel()


async def _extend_while_loading(notifier: Notifier, embedded: EmbeddedServer) -> None:
    """Ask for more time as often as the server says that it loads, until cancelled."""
    answered_at: float | None = None
    while True:
        heard_at = embedded.loading_heard_at
        # Not for a server that has not answered since: it may hang.
        if heard_at is not None and heard_at != answered_at:
            notifier.extend_timeout(_EXTENSION_SECONDS)
            answered_at = heard_at
        await trio.sleep(_LOOK_SECONDS)

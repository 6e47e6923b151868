"""What serves metrics, built of the parts that have figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from redstreamd import __version__
from redstreamd.admission.accounts import Accounts
from redstreamd.daemon.metrics_listeners import MetricsListener
from redstreamd.daemon.parts import Parts
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.metrics.metrics_events import MetricsEventHook
from redstreamd.metrics.page_figures import HttpFigures, Sources, page_of
from redstreamd.service.log_output import LogOutput
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.process_stats import process_stats
from redstreamd.startup.descriptors import descriptor_limit

if TYPE_CHECKING:
    from redstreamd.metrics.exposition import PageWriter
    from redstreamd.metrics.metrics_server import MetricsServer

_ABOUT: Final = f"redstreamd {__version__}. Its metrics are at /metrics; docs/metrics.md says what they mean."


def sources_of(
    parts: Parts,
    acceptor: Acceptor,
    accounts: Accounts,
    *,
    http: Callable[[], HttpFigures] | None,
    lag: LoopLag,
    log: LogOutput,
    instance: str | None,
) -> Sources:
    """Return all that has figures.

    Args:
        parts: The parts of the daemon.
        acceptor: Has the clients.
        accounts: Where their connections are counted.
        http: Returns the figures of HTTP; None if there is no listener for it.
        lag: Measures the event loop.
        log: Writes the log.
        instance: What `daemon.instance` calls this process.
    """
    return Sources(
        version=__version__,
        instance=instance or "",
        process=process_stats,
        max_descriptors=descriptor_limit,
        lag=lag,
        collector=parts.collector,
        dropped_records=lambda: log.statistics().dropped,
        clients=acceptor.statistics,
        accounts=accounts,
        hub=parts.bus.hub,
        updates=parts.updates,
        calls=parts.calls,
        redis=parts.bus.redis,
        survey=parts.survey,
        http=http,
    )


class MetricsPages:
    """The pages of metrics, written by packages that are imported when the first is asked for."""

    def __init__(self, sources: Sources) -> None:
        """Import nothing yet.

        Args:
            sources: What has figures.
        """
        self._sources = sources
        self._importing = trio.Lock()
        self._writer: PageWriter | None = None

    def load(self) -> PageWriter:
        """Import the packages; for a thread."""
        from redstreamd.metrics.exposition import PageWriter

        if self._writer is None:
            self._writer = PageWriter(partial(page_of, self._sources))
        return self._writer

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Return a page and its content type; for the argument see `PageWriter.page`."""
        async with self._importing:
            writer = await trio.to_thread.run_sync(self.load) if self._writer is None else self._writer
        return await writer.page(accept)


class MetricsChild:
    """Serves the sockets for metrics; a supervised child."""

    def __init__(
        self,
        listeners: Sequence[MetricsListener],
        pages: MetricsPages,
        *,
        loaded: trio.Event,
        on_event: MetricsEventHook,
    ) -> None:
        """Prepare to serve.

        Args:
            listeners: The caller's.
            pages: What is served.
            loaded: Set once `load` was called. Clients wait in the backlog until then.
            on_event: Called with each event.
        """
        self._listeners = listeners
        self._pages = pages
        self._loaded = loaded
        self._report = on_event
        self._server: MetricsServer | None = None

    def load(self) -> None:
        """Import the packages that only this needs; for a thread."""
        from redstreamd.metrics.metrics_server import MetricsServer

        self._pages.load()
        self._server = MetricsServer(self._listeners, self._pages.page, about=_ABOUT, on_event=self._report)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, which closes all connections at once."""
        task_status.started()
        await self._loaded.wait()
        if self._server is not None:
            await self._server.run()

"""What serves HTTP, built of the settings and of the parts of the daemon.

Imported only where there is a listener for it, because its packages are an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from redstreamd.admission.accounts import Accounts
from redstreamd.admission.memory import Memory
from redstreamd.daemon.http_pages import HttpPages, MetricsSource, document_page
from redstreamd.daemon.parts import Parts
from redstreamd.daemon.sockets import OpenListener
from redstreamd.metrics.page_figures import HttpFigures
from redstreamd.protection.configured_tokens import (
    METADATA_PATH,
    bearer_tokens_of,
    metadata_pages_of,
    metadata_url_of,
    oauth_tokens_of,
)
from redstreamd.service.child import Child
from redstreamd.settings import HttpSettings, Kind, ListenAddress, Settings
from redstreamd.settings.http_checks import HEALTHZ, METRICS, READYZ, check_http_protected
from redstreamd.streamable_http.http_access import HttpAccess
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Surroundings
from redstreamd.streamable_http.http_site import HttpSite, Page
from redstreamd.streamable_http.http_transport import HttpTransport


class HttpParts:
    """Serves HTTP.

    Attributes:
        transport: Opens the connections of its listeners, for the acceptor.
        children: Supervised, before the acceptor that has its listeners.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        listeners: Sequence[OpenListener],
        accounts: Accounts,
        memory: Memory,
        metrics: MetricsSource,
    ) -> None:
        """Read the files that say who may call. Blocks.

        Args:
            settings: Those in force.
            parts: The parts of the daemon.
            listeners: All listeners, of which those of HTTP count.
            accounts: Where what clients hold and use is counted.
            memory: The budget of these accounts.
            metrics: Writes the page of metrics.

        Raises:
            SettingsError: One cannot be used.
        """
        self._addresses = [each.address for each in listeners if each.address.kind is Kind.HTTP]
        # What they demand before HTTP is spoken does not change while they are open.
        self._listeners = settings.listeners
        self._limits = http_limits(settings.http)
        self._is_draining = False
        # What was read for the settings that are checked, until they are applied.
        self._read = self._options(settings.http)
        self._access = HttpAccess(
            **self._read,
            useful=lambda: parts.toolbox.permissions,
            missing_scope=parts.toolbox.missing_scope,
            report=parts.event_log,
        )
        surroundings = Surroundings(parts.limits, self._limits, accounts, memory, parts.event_log)
        pages = HttpPages(
            parts.bus.redis, parts.toolbox.policy, metrics, is_draining=lambda: self._is_draining
        )
        self._pages = {
            HEALTHZ: Page(pages.alive, is_open=True),
            READYZ: Page(pages.ready, is_open=True),
            METRICS: Page(pages.metrics),
            **_metadata_pages(settings.http),
        }
        self._site = HttpSite(
            surroundings,
            parts.kernels,
            parts.direct_path,
            self._access,
            path=settings.http.path,
            pages=self._pages,
            tool_headers=parts.toolbox.headers_of,
        )
        self._counts = surroundings.counts
        self.transport = HttpTransport(self._site, surroundings)
        self.children = (
            Child("HTTP access", self._access.run),
            Child("HTTP sessions", self._site.sessions.run),
        )

    def check(self, settings: Settings) -> None:
        """Read what other settings name, so that `apply` cannot fail. Blocks; on any thread.

        Raises:
            SettingsError: It cannot be used, or a listener would be open to everybody.
        """
        for address in self._addresses:
            check_http_protected(address, settings.http, self._listeners, source="the running daemon")
        self._read = self._options(settings.http)

    def apply(self, settings: Settings) -> None:
        """Apply settings that were checked."""
        self._limits.become(http_limits(settings.http))
        self._access.reconfigure(**self._read)
        for path in [each for each in self._pages if each.startswith(METADATA_PATH)]:
            del self._pages[path]
        self._pages.update(_metadata_pages(settings.http))

    def drain(self) -> None:
        """Note that the daemon stops: it is not ready any more, and open responses of events end."""
        self._is_draining = True
        self._site.sessions.drain()

    def figures(self) -> HttpFigures:
        """Return a snapshot."""
        sessions = self._site.sessions.statistics()
        return HttpFigures(
            connections=self._counts.connections,
            sessions=sessions.sessions,
            event_streams=sessions.event_streams,
            responses={f"{first}xx": count for first, count in self._counts.responses.items()},
        )

    def _options(self, http: HttpSettings) -> dict[str, Any]:
        """Return what says who may call, as the arguments of `HttpAccess`."""
        outside = [] if http.resource_url is None else [urlsplit(http.resource_url).netloc]
        return {
            "hosts": [*map(_host, self._addresses), *outside, *http.allowed_hosts],
            "origins": http.allowed_origins,
            "tokens": bearer_tokens_of(http),
            "oauth": oauth_tokens_of(http),
            "metadata_url": metadata_url_of(http),
        }


def http_limits(http: HttpSettings) -> HttpLimits:
    """Return the limits of the settings; a value of its own."""
    return HttpLimits(**{each.name: getattr(http, each.name) for each in attrs.fields(HttpLimits)})


def _metadata_pages(http: HttpSettings) -> dict[str, Page]:
    """Return the pages that say which authorization server issues tokens, by path."""
    return {path: Page(document_page(json), is_open=True) for path, json in metadata_pages_of(http).items()}


def _host(address: ListenAddress) -> str:
    """Return the host that requests to an address are for; those to a Unix socket are for this one."""
    if not address.host:
        return "localhost"
    # The zone of a link-local address is this host's affair, and no client sends it.
    host = address.host.partition("%")[0]
    return f"[{host}]" if ":" in host else host

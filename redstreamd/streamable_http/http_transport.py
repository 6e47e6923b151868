"""Opens the connections of HTTP listeners: what an acceptor is given for these."""

from __future__ import annotations

import trio

from redstreamd.admission.accounts import Peer
from redstreamd.policy import Principal
from redstreamd.streamable_http.http_connection import HttpConnection
from redstreamd.streamable_http.http_messages import Site, Surroundings
from redstreamd.streamable_http.http_responses import refusal, whole
from redstreamd.streamable_http.request_rules import Fault


class HttpTransport:
    """An `mcpio.served_connection.OpenConnection`."""

    def __init__(self, site: Site, surroundings: Surroundings) -> None:
        """Serve a site.

        Args:
            site: What is served.
            surroundings: With the accounts and the budget of the acceptor.
        """
        self._site = site
        self._surroundings = surroundings

    def __call__(
        self,
        stream: trio.SocketStream,
        *,
        principal: Principal,
        socket: str = "",
        peer: Peer,
        received: bytes = b"",
    ) -> HttpConnection:
        """Return a connection that is to be run."""
        return HttpConnection(
            stream,
            self._site,
            self._surroundings,
            principal=principal,
            socket=socket,
            peer=peer,
            received=received,
        )

    @property
    def max_connections_per_peer(self) -> int:
        """Most connections of one address or process."""
        return self._surroundings.http_limits.max_connections_per_peer

    def refusal(self, why: str, *, is_temporary: bool) -> bytes:
        """Return the whole response to a client that is not served."""
        status = 503 if is_temporary else 400
        self._surroundings.counts.note(status)
        return whole(refusal(Fault(status, why)), is_1_1=True, keeps_alive=False)

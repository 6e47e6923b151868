"""What a session needs of those who serve: the SDK's kernels, and the direct path.

``protocol_eras`` and ``pending_kernels`` implement the first, ``mcp_server.direct_calls`` the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.exchange import Exchange, Sink
from redstreamd.mcpio.jsonrpc import Params
from redstreamd.mcpio.plain_calls import PlainCall

if TYPE_CHECKING:
    from redstreamd.mcpio.session import Session

TakeCall = Callable[["Session", PlainCall, int, Sink], bool]
"""Serves a plain call of so many bytes without the SDK, as an `Exchange` of the session with this sink.

False if it does not take it, and then nothing is in flight. It takes none while the session is `draining`, of
another era (`Session.settle_era`), or that `RequestsInFlight.add` refuses.
"""


class Kernel(Protocol):
    """Runs the SDK's handlers for one session, in one era; see ``protocol_eras``."""

    @property
    def era(self) -> Era:
        """The era."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the client has shown that it speaks this era: by a handshake or a valid envelope.

        A request with neither, such as an early ping, leaves the era open.
        """
        ...

    @property
    def takes_batches(self) -> bool:
        """Whether the negotiated revision has JSON-RPC batches."""
        ...

    def claim(self, method: str, params: Params) -> None:
        """Note a request that is about to be served; it may settle the era."""
        ...

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """Run the handler of a request and return its result.

        Raises:
            Exception: Whatever the handler raised; see `Kernels.error_of`.
        """
        ...

    async def resubscribe(self, uri: str, cursor: str) -> None:
        """Subscribe again to what the client subscribed to before a hand-over. Raises as `serve`."""
        ...

    async def notify(self, method: str, params: Params) -> None:
        """Run the handler of a notification, if there is one."""
        ...

    def state(self, connection_id: str) -> ConnectionState:
        """Return the kernel's part of the connection's state."""
        ...

    async def aclose(self) -> None:
        """Run the exit callbacks of handlers; shielded from cancellation, and limited by the SDK to 5 s."""
        ...


class Kernels(Protocol):
    """Makes kernels; the one thing that a session needs of the SDK.

    The other methods may be called once `ready` has returned to somebody.
    """

    async def ready(self, method: str, params: Params) -> None:
        """Return once a kernel can be made for a session that begins with this request. Can be cancelled.

        The SDK is imported while clients are served.
        """
        ...

    def era_of(self, method: str, params: Params) -> Era:
        """Return the era of a request in a session that has not shown its era."""
        ...

    def open(self, era: Era, session: Session, state: ConnectionState | None) -> Kernel:
        """Begin a session of an era, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        ...

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        """Return the members of the JSON-RPC error for an exception; None if the client must not see it."""
        ...

"""What clients ask first, before the SDK is imported: ``initialize``, or ``server/discover``.

As with plain calls (`plain_calls`), whatever is not fully understood here is left to the SDK's kernel, so
that there is one truth about errors, and tests hold both to the same answers
(tests/mcpio/test_early_kernels.py, tests/daemon/test_start.py). All later requests are the SDK's: its kernel
takes the session up from its state, as after a hand-over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.jsonrpc import Params
from redstreamd.mcpio.kernels import Kernel
from redstreamd.mcpio.plain_calls import is_plain_envelope

#: The revisions with a handshake, oldest first; a client that asks for another is offered the last.
REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
#: The revision that has batches.
_BATCHES: Final = "2025-03-26"


class _Client(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str
    version: str
    title: str | None = None
    description: str | None = None
    website_url: str | None = None


class _Roots(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    list_changed: bool | None = None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Capabilities(msgspec.Struct, forbid_unknown_fields=True):
    roots: _Roots | None = None
    sampling: _Nothing | None = None
    elicitation: _Nothing | None = None


class _Initialize(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    protocol_version: str
    capabilities: _Capabilities
    client_info: _Client


def negotiated(params: Params) -> str | None:
    """Return the revision that a plain ``initialize`` leads to; None if it has to be interpreted."""
    try:
        asked = msgspec.convert(params, _Initialize)
        # What has a lone surrogate is refused, which is for the SDK to say.
        msgspec.json.encode(asked)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    return asked.protocol_version if asked.protocol_version in REVISIONS else REVISIONS[-1]


def is_plain_discovery(params: Params) -> bool:
    """Return whether a ``server/discover`` needs no interpretation: it has an envelope and nothing else."""
    return params is not None and params.keys() == {"_meta"} and is_plain_envelope(params["_meta"])


class _EarlyKernel:
    """Answers one kind of request, and leaves the rest to the SDK's kernel, once there is one."""

    def __init__(
        self,
        state: ConnectionState,
        ready: Callable[[], Awaitable[None]],
        take_up: Callable[[ConnectionState], Kernel],
    ) -> None:
        """Begin a session.

        Args:
            state: Of the session.
            ready: Returns once the SDK is imported.
            take_up: Returns the SDK's kernel for the session in this state, after that.
        """
        self._state = state
        self._ready = ready
        self._take_up = take_up
        self._kernel: Kernel | None = None

    def claim(self, method: str, params: Params) -> None:
        """Do nothing: it was opened for a request that settles the era, or will."""

    async def resubscribe(self, uri: str, cursor: str) -> None:
        """Wait for the SDK's kernel, and raise as it does."""
        await (await self._sdk()).resubscribe(uri, cursor)

    def state(self, connection_id: str) -> ConnectionState:
        """Return the state of the session."""
        state = self._state if self._kernel is None else self._kernel.state(connection_id)
        return msgspec.structs.replace(state, connection_id=connection_id)

    async def aclose(self) -> None:
        """Close the SDK's connection, if there is one."""
        if self._kernel is not None:
            await self._kernel.aclose()

    async def _sdk(self) -> Kernel:
        if self._kernel is None:
            await self._ready()
        # Another request may have waited as long.
        if self._kernel is None:
            self._kernel = self._take_up(self._state)
        return self._kernel


class EarlyHandshake(_EarlyKernel):
    """A kernel of the handshake era: answers ``initialize``."""

    era = Era.HANDSHAKE

    def __init__(
        self,
        connection_id: str,
        greeting: Mapping[str, Any],
        ready: Callable[[], Awaitable[None]],
        take_up: Callable[[ConnectionState], Kernel],
    ) -> None:
        """Begin a session whose ``initialize`` has this result, apart from the revision."""
        super().__init__(ConnectionState(connection_id, era=Era.HANDSHAKE), ready, take_up)
        self._greeting = greeting

    @property
    def settled(self) -> bool:
        """Whether `initialize` succeeded."""
        return self._state.initialize_params is not None if self._kernel is None else self._kernel.settled

    @property
    def takes_batches(self) -> bool:
        """Whether 2025-03-26 was negotiated."""
        return (
            self._state.protocol_version == _BATCHES if self._kernel is None else self._kernel.takes_batches
        )

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """Answer a plain `initialize` at once; else wait for the SDK's kernel, and raise as it does."""
        if exchange.method == "initialize" and not self.settled:
            version = negotiated(exchange.params)
            if version is not None:
                self._state = msgspec.structs.replace(
                    self._state, initialize_params=exchange.params, protocol_version=version
                )
                return {"protocolVersion": version, **self._greeting}
        return await (await self._sdk()).serve(exchange)

    async def notify(self, method: str, params: Params) -> None:
        """Note that the client is initialized; other notifications have no handler."""
        if self._kernel is not None:
            await self._kernel.notify(method, params)
        elif method == "notifications/initialized" and self.settled and not params:
            self._state = msgspec.structs.replace(self._state, initialized=True)


class EarlyDiscovery(_EarlyKernel):
    """A kernel of the modern era, for a session that begins with a plain ``server/discover``."""

    era = Era.MODERN
    #: The envelope of the request that it was opened for is valid.
    settled = True
    takes_batches = False

    def __init__(
        self,
        connection_id: str,
        discovery: Mapping[str, Any],
        ready: Callable[[], Awaitable[None]],
        take_up: Callable[[ConnectionState], Kernel],
    ) -> None:
        """Begin a session whose ``server/discover`` has this result."""
        super().__init__(ConnectionState(connection_id, era=Era.MODERN), ready, take_up)
        self._discovery = discovery

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """Answer a plain ``server/discover`` at once; else wait for the SDK's kernel, raising as it does."""
        if exchange.method == "server/discover" and is_plain_discovery(exchange.params):
            return dict(self._discovery)
        return await (await self._sdk()).serve(exchange)

    async def notify(self, method: str, params: Params) -> None:
        """Do nothing before the SDK's kernel is there: no notification has a handler."""
        if self._kernel is not None:
            await self._kernel.notify(method, params)

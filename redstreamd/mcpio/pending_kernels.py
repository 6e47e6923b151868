"""Stands for the kernels while the SDK is imported and clients are accepted already.

What clients ask first is answered meanwhile, if it is plain; see `early_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import trio

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.early_kernels import EarlyDiscovery, EarlyHandshake, is_plain_discovery, negotiated
from redstreamd.mcpio.jsonrpc import Params
from redstreamd.mcpio.kernels import Kernel, Kernels
from redstreamd.mcpio.session import Session
from redstreamd.policy import Principal


class PendingKernels:
    """Stands for the kernels until they are provided; see `kernels.Kernels`.

    Only `ready` may be called before that.
    """

    def __init__(
        self,
        greeting: Mapping[str, Any] | None = None,
        discovery: Mapping[str, Any] | None = None,
        instructions: Callable[[Principal], str] | None = None,
    ) -> None:
        """Begin without kernels.

        Args:
            greeting: The result of ``initialize``, without the revision; None to have handshakes wait, too.
            discovery: The result of ``server/discover``; None to have it wait, too.
            instructions: Returns the instructions of either for a client; None for those in it.
        """
        self._greeting = greeting
        self._discovery = discovery
        self._instructions = instructions
        self._kernels: Kernels | None = None
        self._provided = trio.Event()

    def provide(self, kernels: Kernels) -> None:
        """Let the sessions that wait go on, with these kernels."""
        self._kernels = kernels
        self._provided.set()

    async def ready(self, method: str, params: Params) -> None:
        """Return once a session may begin with this request: at once if it can be answered at once."""
        if self._kernels is None and self._early(method, params) is None:
            await self._provided.wait()

    def era_of(self, method: str, params: Params) -> Era:
        """Return the era of a request in a session that has not shown its era."""
        early = self._early(method, params) if self._kernels is None else None
        return early or self._get().era_of(method, params)

    def open(self, era: Era, session: Session, state: ConnectionState | None) -> Kernel:
        """Begin a session of an era, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        if self._kernels is None and state is None:
            name, take_up = session.connection_id, partial(self._take_up, era, session)
            ready = self._provided.wait
            if era is Era.HANDSHAKE and self._greeting is not None:
                return EarlyHandshake(name, self._told(self._greeting, session), ready, take_up)
            if era is Era.MODERN and self._discovery is not None:
                return EarlyDiscovery(name, self._told(self._discovery, session), ready, take_up)
        return self._get().open(era, session, state)

    def _told(self, result: Mapping[str, Any], session: Session) -> Mapping[str, Any]:
        if self._instructions is None:
            return result
        return {**result, "instructions": self._instructions(session.principal)}

    def _take_up(self, era: Era, session: Session, state: ConnectionState) -> Kernel:
        return self._get().open(era, session, state)

    def _early(self, method: str, params: Params) -> Era | None:
        """Return the era of a request that can be answered now; None if it has to wait."""
        if method == "initialize" and self._greeting is not None and negotiated(params) is not None:
            return Era.HANDSHAKE
        if method == "server/discover" and self._discovery is not None and is_plain_discovery(params):
            return Era.MODERN
        return None

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        """Return the members of the JSON-RPC error for an exception; None if the client must not see it."""
        return self._get().error_of(exc)

    def _get(self) -> Kernels:
        if self._kernels is None:
            raise RuntimeError("the kernels are not ready")
        return self._kernels

"""Stands for the kernels while the SDK is imported and clients are accepted already.

A plain handshake is answered meanwhile; see `early_handshake`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.early_handshake import EarlyHandshake, negotiated
from redstreamd.mcpio.jsonrpc import Params
from redstreamd.mcpio.kernels import Kernel, Kernels
from redstreamd.mcpio.session import Session


class PendingKernels:
    """Stands for the kernels until they are provided; see `kernels.Kernels`.

    Only `ready` may be called before that.
    """

    def __init__(self, greeting: Mapping[str, Any] | None = None) -> None:
        """Begin without kernels.

        Args:
            greeting: The result of ``initialize``, without the revision; None to have handshakes wait, too.
        """
        self._greeting = greeting
        self._kernels: Kernels | None = None
        self._provided = trio.Event()

    def provide(self, kernels: Kernels) -> None:
        """Let the sessions that wait go on, with these kernels."""
        self._kernels = kernels
        self._provided.set()

    async def ready(self, method: str, params: Params) -> None:
        """Return once a session may begin with this request: at once for a plain handshake."""
        if self._kernels is None and not self._is_early(method, params):
            await self._provided.wait()

    def era_of(self, method: str, params: Params) -> Era:
        """Return the era of a request in a session that has not shown its era."""
        if self._kernels is None and self._is_early(method, params):
            return Era.HANDSHAKE
        return self._get().era_of(method, params)

    def open(self, era: Era, session: Session, state: ConnectionState | None) -> Kernel:
        """Begin a session of an era, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        if self._kernels is None and self._greeting is not None and era is Era.HANDSHAKE and state is None:
            take_up = partial(self._take_up, session)
            return EarlyHandshake(session.connection_id, self._greeting, self._provided.wait, take_up)
        return self._get().open(era, session, state)

    def _take_up(self, session: Session, state: ConnectionState) -> Kernel:
        return self._get().open(Era.HANDSHAKE, session, state)

    def _is_early(self, method: str, params: Params) -> bool:
        return self._greeting is not None and method == "initialize" and negotiated(params) is not None

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        """Return the members of the JSON-RPC error for an exception; None if the client must not see it."""
        return self._get().error_of(exc)

    def _get(self) -> Kernels:
        if self._kernels is None:
            raise RuntimeError("the kernels are not ready")
        return self._kernels

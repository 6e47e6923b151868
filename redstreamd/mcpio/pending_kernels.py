"""Stands for the kernels while the SDK is imported and clients are accepted already."""

from __future__ import annotations

from typing import Any

import trio

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.jsonrpc import Params
from redstreamd.mcpio.kernels import Kernel, Kernels
from redstreamd.mcpio.session import Session


class PendingKernels:
    """Stands for the kernels until they are provided; see `kernels.Kernels`.

    Only `ready` may be called before that.
    """

    def __init__(self) -> None:
        """Begin without kernels."""
        self._kernels: Kernels | None = None
        self._provided = trio.Event()

    def provide(self, kernels: Kernels) -> None:
        """Let the sessions that wait go on, with these kernels."""
        self._kernels = kernels
        self._provided.set()

    async def ready(self) -> None:
        """Return once they are provided; can be cancelled."""
        await self._provided.wait()

    def era_of(self, method: str, params: Params) -> Era:
        """Return the era of a request in a session that has not shown its era."""
        return self._get().era_of(method, params)

    def open(self, era: Era, session: Session, state: ConnectionState | None) -> Kernel:
        """Begin a session of an era, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        return self._get().open(era, session, state)

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        """Return the members of the JSON-RPC error for an exception; None if the client must not see it."""
        return self._get().error_of(exc)

    def _get(self) -> Kernels:
        if self._kernels is None:
            raise RuntimeError("the kernels are not ready")
        return self._kernels

"""Tells of requests that the policy refuses, other than calls of tools, of which the toolbox tells.

To the client such a refusal may look as if the thing did not exist; the audit knows better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from redstreamd.mcp_server.mcp_errors import RefusedError
from redstreamd.policy import Principal

if TYPE_CHECKING:
    from redstreamd.admission.accounts import Account

OnRefused = Callable[[Principal, str, tuple[str, ...], "Account | None"], None]
"""``(principal, method, streams, account)``: is told of a refusal; must neither block nor raise."""


class Refusals:
    """Tells a hook of refusals."""

    def __init__(self, on_refused: OnRefused | None) -> None:
        """Tell `on_refused`; None for nobody."""
        self._on_refused = on_refused

    def tell(self, ctx: ServerRequestContext[Principal], streams: tuple[str, ...]) -> None:
        """Tell that a request was refused, at least a part of it."""
        if self._on_refused is not None:
            account = None if ctx.request is None else ctx.request.session.account
            self._on_refused(ctx.lifespan_context, ctx.method, streams, account)

    async def tell_refused(self, ctx: ServerRequestContext[Principal], call_next: CallNext) -> HandlerResult:
        """Tell of a request that is answered with a `RefusedError`, as a middleware."""
        try:
            return await call_next(ctx)
        except RefusedError as refused:
            self.tell(ctx, refused.streams)
            raise

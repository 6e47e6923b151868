"""``completion/complete`` for the arguments of resource templates and prompts.

Owns which arguments exist and the shape of the result; `presentation.suggestions` finds the values.
"""

from __future__ import annotations

from collections.abc import Mapping

import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from redstreamd.errors import BusError
from redstreamd.mcp_server.mcp_errors import request_error
from redstreamd.policy import Principal
from redstreamd.presentation.suggestions import Suggester


class CompletionServer:
    """Answers ``completion/complete``."""

    def __init__(
        self,
        suggester: Suggester,
        *,
        templates: Mapping[str, tuple[str, ...]],
        prompts: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Complete the given arguments.

        Args:
            suggester: Finds the values.
            templates: URI template -> its variables.
            prompts: Name of a prompt -> its arguments.
        """
        self._suggester = suggester
        self._templates = templates
        self._prompts = prompts

    async def complete(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.CompleteRequestParams
    ) -> mcp_types.CompleteResult:
        """Return values that begin with the given text.

        Raises:
            MCPError: -32602 for an unknown template, prompt or argument; see `request_error` for others.
        """
        ref, argument = params.ref, params.argument
        if isinstance(ref, mcp_types.PromptReference):
            what, arguments = f"prompt {ref.name[:80]!r}", self._prompts.get(ref.name)
        else:
            what, arguments = f"template {ref.uri[:200]!r}", self._templates.get(ref.uri)
        if arguments is None:
            raise MCPError(mcp_types.INVALID_PARAMS, f"There is no {what}.")
        if argument.name not in arguments:
            raise MCPError(
                mcp_types.INVALID_PARAMS,
                f"The {what} has no argument {argument.name[:80]!r}; it has: {', '.join(arguments)}.",
            )
        others = (params.context.arguments if params.context is not None else None) or {}
        try:
            found = await self._suggester.suggest(argument.name, argument.value, others)
        except BusError as error:
            raise request_error(error) from error
        return mcp_types.CompleteResult(
            completion=mcp_types.Completion(
                values=found.names,
                total=found.total,
                has_more=found.total is None or found.total > len(found.names),
            )
        )

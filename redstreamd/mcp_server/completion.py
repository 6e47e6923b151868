"""``completion/complete`` for the arguments of resource templates and prompts.

Owns which arguments exist and the shape of the result; `presentation.suggestions` finds the values.
"""

from __future__ import annotations

import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from redstreamd.errors import BusError
from redstreamd.mcp_server.mcp_errors import RefusedError, request_error
from redstreamd.policy import Principal
from redstreamd.presentation.suggestions import Suggester
from redstreamd.presentation.views import Views
from redstreamd.prompts.definition import PromptRegistry
from redstreamd.resources.definition import ResourceRegistry


class CompletionServer:
    """Answers ``completion/complete``."""

    def __init__(
        self,
        views: Views,
        resources: ResourceRegistry,
        prompts: PromptRegistry,
    ) -> None:
        """Complete the arguments of `resources` and `prompts` with what is in `views`."""
        self._views = views
        self._templates = {each.uri: each for each in resources if each.is_template}
        self._prompts = prompts

    async def complete(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.CompleteRequestParams
    ) -> mcp_types.CompleteResult:
        """Return values that begin with the given text.

        Raises:
            MCPError: -32602 for an unknown template, prompt or argument; see `request_error` for others.
        """
        ref, argument = params.ref, params.argument
        views = self._views.seen_by(ctx.lifespan_context)
        is_hidden = False
        arguments: tuple[str, ...] | None = None
        if isinstance(ref, mcp_types.PromptReference):
            what = f"prompt {ref.name[:80]!r}"
            if (prompt := self._prompts.find(ref.name, views)) is not None:
                arguments = tuple(each.name for each in prompt.arguments)
            else:
                is_hidden = any(each.name == ref.name for each in self._prompts)
        else:
            what = f"template {ref.uri[:200]!r}"
            if (template := self._templates.get(ref.uri)) is not None and views.offers(template.permission):
                arguments = template.parameters
            else:
                is_hidden = template is not None
        if arguments is None:
            raise (RefusedError if is_hidden else MCPError)(mcp_types.INVALID_PARAMS, f"There is no {what}.")
        if argument.name not in arguments:
            raise MCPError(
                mcp_types.INVALID_PARAMS,
                f"The {what} has no argument {argument.name[:80]!r}; it has: {', '.join(arguments)}.",
            )
        others = (params.context.arguments if params.context is not None else None) or {}
        try:
            found = await Suggester(views).suggest(argument.name, argument.value, others)
        except BusError as error:
            raise request_error(error) from error
        return mcp_types.CompleteResult(
            completion=mcp_types.Completion(
                values=found.names,
                total=found.total,
                has_more=found.total is None or found.total > len(found.names),
            )
        )

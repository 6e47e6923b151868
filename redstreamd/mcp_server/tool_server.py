"""How MCP lists and calls tools: the one place where their exceptions become what a client sees.

Owns the way of a call from its JSON to its answer (look up, structure, handle, render). Refuses to know
sockets and framing (see ``mcpio``), what a tool does, and which bus it does it on.

How a call can end, and as what:

- the handler returns: a result;
- `BusError`: a result with ``isError`` and the error's four parts, because only a result reaches
  the model, which can then correct itself;
- the name belongs to no tool on offer: the protocol error -32602, as the specification asks for
  unknown tools (https://modelcontextprotocol.io/specification/2025-11-25/server/tools#error-handling);
- any other `Exception`: INTERNAL, without its text; the traceback goes to the log;
- `trio.Cancelled`: nothing. It passes through, also out of the exception group of a handler's
  nursery, and the connection owes no answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import mcp_types
import trio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from redstreamd import strict_json
from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy import Principal
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.definition import Call, Profile, Progress, Registry, Tool, UnknownToolError
from redstreamd.tools.results import failure, success
from redstreamd.tools.tool_listing import listed

BusT = TypeVar("BusT")

_LOG = logging.getLogger("redstreamd.tools")
# A name comes from outside; an error repeats no more of it than is needed to recognise it.
_NAME_SHOWN = 80


class Toolbox(Generic[BusT]):
    """The tools on offer, ready to be called; the same for the SDK and for a direct lane.

    Attributes:
        listing: The tools as ``tools/list`` gives them, sorted by name.
    """

    def __init__(
        self,
        registry: Registry,
        profiles: Iterable[Profile],
        bus: BusT,
        *,
        timeout_seconds: float = 60.0,
        default_wait_seconds: float = 20.0,
        max_nesting: int = strict_json.MAX_NESTING,
    ) -> None:
        """Compile the tools that the profiles, taken together, offer.

        Args:
            registry: All tools there are.
            profiles: Whose tools are offered.
            bus: What handlers find as ``call.bus``.
            timeout_seconds: The bound for one call, whatever it does meanwhile.
            default_wait_seconds: What a call that may wait, and does not say how long, gets on top.
            max_nesting: How deep a message may be, also where a part of it is JSON text.

        Raises:
            TypeError: A tool's argument or result class has no schema.
        """
        self._timeout_seconds = timeout_seconds
        self._default_wait_seconds = default_wait_seconds
        self._registry = registry
        self._profiles = tuple(sorted(profiles))
        self._bus = bus
        self._offered = registry.for_profiles(self._profiles)
        self._structurers: dict[str, Structurer[Any]] = {
            tool.name: Structurer(tool.arguments, max_nesting=max_nesting) for tool in self._offered
        }
        self.listing = [listed(tool) for tool in self._offered]

    def find(self, name: str) -> Tool[Any]:
        """Return the tool of this name.

        Raises:
            MCPError: -32602: it does not exist (the message names what does), or not in the
                active profiles (the message names one that has it).
        """
        try:
            return self._offered.get(name)
        except UnknownToolError as unknown:
            raise MCPError(mcp_types.INVALID_PARAMS, self._explained(unknown)) from None

    async def call(
        self, tool: Tool[Any], arguments: object, principal: Principal, progress: Progress
    ) -> dict[str, Any]:
        """Call ``tool`` and return the body of the answer, whether it worked or not.

        Args:
            tool: One that `find` returned.
            arguments: The ``arguments`` member as the JSON decoder produced it; None if absent.
            principal: On whose behalf.
            progress: Where the handler reports how far it is.

        Raises:
            trio.Cancelled: As ever; a handler that is cancelled has no answer.
        """
        try:
            structured = self._structurers[tool.name](arguments)
            seconds = self._patience(structured)
            with trio.move_on_after(seconds):
                return success(await tool.handler(Call(self._bus, principal, progress), structured))
            return failure(_too_late(tool, seconds))
        except BusError as error:
            return failure(error)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the connection lives on
            return failure(_told(tool, error))
        except BaseExceptionGroup as group:
            # A cancelled nursery, in which something else went wrong as well: there is nobody left
            # to tell, but a defect belongs into the log.
            passing, rest = group.split(lambda error: not isinstance(error, Exception | BaseExceptionGroup))
            if rest is not None:
                _told(tool, rest)
            raise passing or group from None

    def _patience(self, arguments: object) -> float:
        """Return how long a call may take: what it asked to wait comes on top."""
        asked: float | None = getattr(arguments, "timeout_seconds", 0.0)
        return self._timeout_seconds + (self._default_wait_seconds if asked is None else asked)

    def _explained(self, unknown: UnknownToolError) -> str:
        shown = json.dumps(unknown.name[:_NAME_SHOWN]).strip('"')
        active = ", ".join(self._profiles)
        if unknown.name in self._registry:
            profile = self._registry.get(unknown.name).profile
            return (
                f"Unknown tool: {shown}. It belongs to the profile {profile}; active here: {active}. "
                f"The daemon's setting {setting('tools.profile')} chooses them."
            )
        nearest = ", ".join(unknown.nearest)
        return (
            f"Unknown tool: {shown}. Nearest: {nearest}. Active profile: {active}; tools/list has them all."
        )


def _too_late(tool: Tool[Any], seconds: float) -> BusError:
    """Return what to tell the caller of a call that took too long; whatever it was doing was given up."""
    return BusError(
        Code.TIMEOUT if tool.hints.read_only.value else Code.OUTCOME_UNKNOWN,
        f"{tool.name} was given up after {seconds:g} seconds.",
        cause=f"The bound for one call is {setting('tools.call_timeout_seconds')}; Redis is slow, or "
        "there is much to do.",
        next_step="Call again; ask for less at once."
        if tool.hints.read_only.value
        else "Look whether it had its effect before you repeat it, or repeat it with its idempotency_key.",
    )


def _told(tool: Tool[Any], error: BaseException) -> BusError:
    """Return what to tell the caller about ``error``; log it unless it was meant for the caller.

    Of a group from a handler's nursery in which every failure is a `BusError`, the first is told:
    an answer holds one code, and a caller who has dealt with it meets the next one by calling again.
    """
    errors = list(_leaves(error))
    meant = [each for each in errors if isinstance(each, BusError)]
    if len(meant) == len(errors):
        return meant[0]
    _LOG.error("tool %s failed unexpectedly", tool.name, exc_info=error)
    return BusError(
        Code.INTERNAL,
        f"{tool.name} failed unexpectedly.",
        cause="A defect in redstreamd; its log has the traceback. The call may have had its effect.",
        next_step="Read before you repeat a call that writes; report the log's traceback.",
    )


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


class ToolServer:
    """Answers ``tools/list`` and ``tools/call``."""

    def __init__(self, toolbox: Toolbox[Any]) -> None:
        """Serve the tools of `toolbox`."""
        self._toolbox = toolbox
        self._listing = mcp_types.ListToolsResult.model_validate({"tools": toolbox.listing})

    async def list(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListToolsResult:
        """List the tools, in one page."""
        # No page ever ends with a cursor, so none that comes back is ours.
        if params is not None and params.cursor is not None:
            raise MCPError(mcp_types.INVALID_PARAMS, "Unknown cursor: the tools are listed in one page.")
        return self._listing

    async def call(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.CallToolRequestParams
    ) -> Any:
        """Call a tool on behalf of the connection's principal."""
        # The raw arguments: the SDK's model is a copy, in which a repeated member name is lost.
        raw: Mapping[str, Any] = ctx.params or {}
        answer = await self._toolbox.call(
            self._toolbox.find(params.name),
            raw.get("arguments"),
            ctx.lifespan_context,
            ctx.session.report_progress,
        )
        # Required from 2026-07-28 on; for older revisions the SDK takes it out again.
        return {**answer, "resultType": "complete"}

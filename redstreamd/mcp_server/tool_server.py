"""``tools/list`` and ``tools/call``: the one place where exceptions of tools become results.

Owns the steps of a call: look up, structure, run, encode. Does not know sockets and framing (see ``mcpio``).

How a call can end:

- the handler returns: a result;
- `BusError`: a result with ``isError`` and the error's four parts, because only a result reaches the model,
  which can then correct itself;
- an unknown name: the protocol error -32602, as the specification asks
  (https://modelcontextprotocol.io/specification/2025-11-25/server/tools#error-handling);
- any other `Exception`: INTERNAL, without its text; the traceback is logged;
- `trio.Cancelled`: propagated, also out of the exception group of a handler's nursery; there is no answer.
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
from redstreamd.mcp_server.mcp_errors import check_one_page
from redstreamd.policy import Principal
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.definition import Call, Profile, Progress, Registry, Tool, UnknownToolError
from redstreamd.tools.results import failure, success
from redstreamd.tools.tool_listing import listed

BusT = TypeVar("BusT")

_LOG = logging.getLogger("redstreamd.tools")
# Characters of an unknown name that an error repeats.
_NAME_SHOWN = 80


class Toolbox(Generic[BusT]):
    """The tools of the active profiles, ready to be called.

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
        """Compile the tools of the profiles.

        Args:
            registry: All tools.
            profiles: The active profiles.
            bus: What handlers get as ``call.bus``.
            timeout_seconds: The time limit of a call, in addition to the time that it asked to wait.
            default_wait_seconds: Added for a call that may wait and does not say for how long.
            max_nesting: How deep a message may be, including values given as JSON text.

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
            MCPError: -32602 if it does not exist (the message names similar tools), or not in the active
                profiles (the message names the profile that has it).
        """
        try:
            return self._offered.get(name)
        except UnknownToolError as unknown:
            raise MCPError(mcp_types.INVALID_PARAMS, self._unknown_tool(unknown)) from None

    async def call(
        self, tool: Tool[Any], arguments: object, principal: Principal, progress: Progress
    ) -> dict[str, Any]:
        """Call ``tool`` and return the result, also if the call failed.

        Args:
            tool: One that `find` returned.
            arguments: The decoded ``arguments`` member; None if absent.
            principal: On whose behalf the call is made.
            progress: Sends progress notifications.

        If cancelled, the handler is cancelled, and whether it had an effect is not known.
        """
        try:
            structured = self._structurers[tool.name](arguments)
            seconds = self._time_limit(structured)
            with trio.move_on_after(seconds):
                return success(await tool.handler(Call(self._bus, principal, progress), structured))
            return failure(_timed_out(tool, seconds))
        except BusError as error:
            return failure(error)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            return failure(_as_bus_error(tool, error))
        except BaseExceptionGroup as group:
            # A cancelled nursery in which something else failed, too: nobody gets the answer, but a defect
            # is logged.
            passing, rest = group.split(lambda error: not isinstance(error, Exception | BaseExceptionGroup))
            if rest is not None:
                _as_bus_error(tool, rest)
            raise passing or group from None

    def _time_limit(self, arguments: object) -> float:
        """Return the seconds that a call may take, including the time that it asked to wait."""
        asked: float | None = getattr(arguments, "timeout_seconds", 0.0)
        return self._timeout_seconds + (self._default_wait_seconds if asked is None else asked)

    def _unknown_tool(self, unknown: UnknownToolError) -> str:
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


def _timed_out(tool: Tool[Any], seconds: float) -> BusError:
    """Return the error of a call that was cancelled at its time limit."""
    return BusError(
        Code.TIMEOUT if tool.hints.read_only.value else Code.OUTCOME_UNKNOWN,
        f"{tool.name} was cancelled after {seconds:g} seconds.",
        cause=f"The time limit of a call is {setting('tools.call_timeout_seconds')}; Redis is slow, or the "
        "call had much to do.",
        next_step="Call again; ask for less at once."
        if tool.hints.read_only.value
        else "Check whether it had its effect before you repeat it, or repeat it with its idempotency_key.",
    )


def _as_bus_error(tool: Tool[Any], error: BaseException) -> BusError:
    """Return the error to report; log it unless it is a `BusError` or a group of nothing else.

    Of such a group the first is reported, because a result holds one code.
    """
    errors = list(_flattened(error))
    expected = [each for each in errors if isinstance(each, BusError)]
    if len(expected) == len(errors):
        return expected[0]
    _LOG.error("tool %s failed unexpectedly", tool.name, exc_info=error)
    return BusError(
        Code.INTERNAL,
        f"{tool.name} failed unexpectedly.",
        cause="A defect in redstreamd; its log has the traceback. The call may have had its effect.",
        next_step="Read before you repeat a call that writes; report the log's traceback.",
    )


def _flattened(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _flattened(each)
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
        check_one_page(params, "tools")
        return self._listing

    async def call(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.CallToolRequestParams
    ) -> Any:
        """Call a tool on behalf of the connection's principal.

        Raises:
            MCPError: -32602 for an unknown tool.
        """
        # The raw arguments: the SDK's model is a copy that loses repeated member names.
        raw: Mapping[str, Any] = ctx.params or {}
        answer = await self._toolbox.call(
            self._toolbox.find(params.name),
            raw.get("arguments"),
            ctx.lifespan_context,
            ctx.session.report_progress,
        )
        # Required from 2026-07-28 on; for older revisions the SDK removes it.
        return {**answer, "resultType": "complete"}

"""The direct path of a plain tool call: from its text to Redis and back, without the SDK and without a task.

Owns who does what of a call that is one round trip. Whatever is not the plain case (no connection, an error,
a lost reply, a tool that waits) goes on in a task, with the same plan and the same invocation; what is not
understood is left to the SDK's kernel, which comes to the same `Toolbox`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.mcpio.connection_state import Era
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.redisio.client import Redis
from redstreamd.redisio.pipeline import Request
from redstreamd.streams.plans import Plan, UnfinishedError, complete_plan
from redstreamd.tools.invocation import CANCELLED, OK, Invocation, as_bus_error
from redstreamd.tools.results import Result, failure, success
from redstreamd.tools.toolbox import Toolbox

#: The key by which the SDK says in each result of the modern era who answered.
_SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"


class DirectPath:
    """Takes plain calls; `Session` asks it before it asks the kernel."""

    def __init__(self, toolbox: Toolbox[Any], redis: Redis, server_info: dict[str, Any]) -> None:
        """Call the tools of `toolbox`.

        Args:
            toolbox: The tools.
            redis: What plans run on.
            server_info: What the server says of itself in results of the modern era.
        """
        self.toolbox: Final = toolbox
        # The connection to Redis ends a command that is overdue. Where calls have less time than commands, a
        # call needs a timer of its own, and so a task.
        self.uses_plans: Final = toolbox.timeout_seconds >= redis.command_timeout
        self.redis: Final = redis
        stamp = msgspec.json.encode({_SERVER_INFO_KEY: server_info})
        # What follows on a result's members in the modern era.
        self._modern_end: Final = b',"resultType":"complete","_meta":' + stamp + b"}}\n"

    def __call__(self, exchange: Exchange, call: PlainCall) -> bool:
        """Take a call; False if it is left to the kernel, and then nothing was done."""
        tool = self.toolbox.by_name.get(call.tool)
        if tool is None:
            return False
        try:
            invocation = self.toolbox.begin_plain(tool, call.arguments, exchange.session.principal)
        except BusError as error:
            exchange.answer(self.line(exchange, call.era, failure(error)))
            return True
        if invocation is None:
            return False
        _DirectCall(self, exchange, call.era, invocation).begin()
        return True

    def line(self, exchange: Exchange, era: Era, result: Result) -> bytes:
        """Return the message that answers a request with a result."""
        return b'{"jsonrpc":"2.0","id":%b,"result":%b%b' % (
            msgspec.json.encode(exchange.id),
            result.opened(),
            self._modern_end if era is Era.MODERN else b"}}\n",
        )


class _DirectCall:
    """One call on the direct path.

    Invariant: exactly one of these will end it: the reply to come, a task, a place in a queue.
    """

    # Set when there is a plan.
    _plan: Plan[Any]

    __slots__ = ("_era", "_exchange", "_invocation", "_path", "_plan", "_request")

    def __init__(self, path: DirectPath, exchange: Exchange, era: Era, invocation: Invocation[Any]) -> None:
        self._path = path
        self._exchange = exchange
        self._era = era
        self._invocation = invocation
        self._request: Request | None = None

    def begin(self) -> None:
        """Run the call once it is admitted."""
        try:
            deferral = self._invocation.admit()
        except Exception as error:  # noqa: BLE001 - the boundary: a refusal, or a defect
            self._fail(error)
            return
        if deferral is None:
            self._run()
            return

        def withdraw() -> None:
            deferral.withdraw()
            self._end_cancelled()

        self._exchange.on_cancel = withdraw
        deferral.on_admitted(self._run)

    def _run(self) -> None:
        try:
            plan = self._invocation.plan() if self._path.uses_plans else None
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            self._fail(error)
            return
        if plan is None:
            self._start(None)
            return
        self._plan = plan
        try:
            redis = self._path.redis
            self._request = redis.submit(plan.write, self._on_reply, key=plan.stream, role=plan.role)
        except Exception as error:  # noqa: BLE001 - `complete_plan` knows what to do about it
            self._complete(error)
            return
        self._exchange.on_cancel = self._cancel

    def _on_reply(self, reply: Any) -> None:
        exchange = self._exchange
        try:
            if isinstance(reply, Exception):
                if exchange.is_open and not exchange.is_dropped:
                    self._complete(reply)
                    return
                result = None
            else:
                # Also if nobody waits: the domain takes note of what happened.
                result = success(self._plan.read(reply))
        except UnfinishedError as unfinished:
            if exchange.is_open and not exchange.is_dropped:
                self._start(unfinished.go_on)
                return
            result = None
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            if exchange.is_open:
                self._fail(error)
            return
        if not exchange.is_open:
            return
        if result is None or exchange.is_dropped:
            self._end_cancelled()
        else:
            self._answer(result, OK)

    def _complete(self, after: Exception) -> None:
        """Go on with the plan in a task."""
        redis, request = self._path.redis, self._request
        # A request that was sent has had its time since then.
        sent = request is not None and request.sent
        deadline = (
            request.deadline if request is not None and sent else trio.current_time() + redis.command_timeout
        )
        self._start(partial(complete_plan, redis, self._plan, after, deadline))

    def _fail(self, error: Exception) -> None:
        refusal = as_bus_error(self._invocation.tool, error)
        self._answer(failure(refusal), str(refusal.code))

    def _answer(self, result: Result, outcome: str) -> None:
        invocation = self._invocation
        invocation.end(outcome, result.size if invocation.is_reported else 0)
        self._exchange.answer(self._path.line(self._exchange, self._era, result))

    def _cancel(self) -> None:
        # A command that was sent ends the call by its reply, if nobody waits for the answer. Who waits is
        # answered now, because the session ends.
        if (self._request is not None and self._request.take_back()) or not self._exchange.is_dropped:
            self._end_cancelled()
        else:
            # The session does not wait for the reply when it ends.
            self._exchange.on_cancel = self._end_cancelled

    def _end_cancelled(self) -> None:
        self._invocation.end(CANCELLED)
        self._exchange.answer_unknown()

    def _start(self, go_on: Callable[[], Awaitable[object]] | None) -> None:
        """Run the tool's handler, or the rest of a call, in a task."""
        scope = trio.CancelScope()
        exchange = self._exchange
        exchange.on_cancel = scope.cancel
        if exchange.is_dropped:
            scope.cancel()
        if not exchange.session.start_soon(partial(self._run_in_task, scope, go_on)):
            self._invocation.end(CANCELLED)
            exchange.end()

    async def _run_in_task(
        self, scope: trio.CancelScope, go_on: Callable[[], Awaitable[object]] | None
    ) -> None:
        exchange = self._exchange
        result: Result | None = None
        try:
            with scope:
                result = await self._invocation.answer(self._progress, go_on=go_on, admitted=True)
        except BaseException:
            exchange.end()
            raise
        if result is None:
            exchange.answer_unknown()
        else:
            exchange.answer(self._path.line(exchange, self._era, result))

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._exchange.progress(progress, total, message)
        await trio.lowlevel.checkpoint()

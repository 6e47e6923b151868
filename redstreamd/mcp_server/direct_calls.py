"""The direct path of a plain tool call: from its text to Redis and back, without the SDK and without a task.

Owns who does what of a call that is one round trip. A tool that waits goes on as a `DirectWait`; whatever
else is not the plain case (no connection, an error of Redis, a lost reply), in a task, with the same plan and
the same invocation. What is not understood is left to the SDK's kernel, which comes to the same `Toolbox`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.mcp_server.direct_waits import DirectWait
from redstreamd.mcpio.connection_state import Era
from redstreamd.mcpio.exchange import Exchange, Sink
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.mcpio.session import Session
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_request import Request
from redstreamd.streams.plans import Plan, UnfinishedError, complete_plan
from redstreamd.streams.waiting import Wait
from redstreamd.tools.definition import BeginWait, no_progress
from redstreamd.tools.invocation import CANCELLED, OK, Admit, Invocation
from redstreamd.tools.results import Result, failure, success
from redstreamd.tools.toolbox import Toolbox

#: The key by which the SDK says in each result of the modern era who answered.
_SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"

_encode = msgspec.json.Encoder().encode


class DirectPath:
    """Takes plain calls, each as an exchange of its session; asked before the kernel is."""

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
        self.uses_plans = toolbox.timeout_seconds >= redis.command_timeout
        self.redis: Final = redis
        self.queues: Final = redis.queues
        stamp = _encode({_SERVER_INFO_KEY: server_info})
        # What follows on a result's members.
        self._tails: Final = {
            Era.HANDSHAKE: b"}}\n",
            Era.MODERN: b',"resultType":"complete","_meta":' + stamp + b"}}\n",
        }

    def reconfigure(self) -> None:
        """Take note that the time of calls or of commands has changed."""
        self.uses_plans = self.toolbox.timeout_seconds >= self.redis.command_timeout

    def decode(self, call: PlainCall) -> PlainCall | None:
        """Return a call with its arguments decoded, for `__call__`; None if it is left to the kernel."""
        prepared = self.toolbox.prepared.get(call.tool) or self.toolbox.prepare(call.tool)
        arguments = None if prepared is None else prepared.decode(call.arguments, call.colons, call.long_text)
        return None if arguments is None else msgspec.structs.replace(call, decoded=arguments)

    def __call__(self, session: Session, call: PlainCall, size: int, sink: Sink) -> bool:
        """Take a call; False if it is left to the kernel, and then nothing is in flight."""
        era = call.era
        if session.draining.was_set or (era is not session.shown_era and not session.settle_era(era)):
            return False
        toolbox = self.toolbox
        began = time.perf_counter()
        prepared = toolbox.prepared.get(call.tool) or toolbox.prepare(call.tool)
        if prepared is None:
            return False
        principal = session.principal
        if toolbox.hidden is not None and call.tool in toolbox.hidden[principal]:
            return False
        arguments = call.decoded
        if arguments is None:
            arguments = prepared.decode(call.arguments, call.colons, call.long_text)
            if arguments is None:
                return False
        exchange = Exchange(session, call.id, "tools/call", None, size, sink, call.progress_token)
        if not session.in_flight.add(exchange):
            return False
        session.direct += 1
        rules, tail = toolbox.rules, self._tails[era]
        known = None
        if rules.check_rate is None and not prepared.checks and (named := prepared.named) is not None:
            # The whole of what `check` would find.
            known = toolbox.permitted.get((principal, call.tool, named(arguments)))
        direct = _DirectCall(
            rules,
            prepared.tool,
            arguments,
            principal,
            known or (),
            None,
            began,
            rules.bus,
            session.account,
            no_progress,
            False,
            None,
            self,
            exchange,
            tail,
        )
        if known is None:
            try:
                toolbox.check(prepared, direct)
            except BusError as error:
                exchange.answer(failure(error).opened, tail)
                return True
        if rules.admit is None:
            direct.start()
        else:
            direct.start_once_admitted(rules.admit)
        return True


class _DirectCall(Invocation[Any], eq=False):
    """One call on the direct path.

    Invariant: one of these will end it, unless `on_cancel` does before: the reply to come, a wait, a task, a
    place in a queue.

    Attributes:
        path: Took it.
        exchange: Its request.
        tail: What follows on the members of its result.
        plan: The call as one round trip, until its reply is here: its steps may hold the call.
        request: The command that was submitted; it may be unsent.
    """

    # Always given; what is inherited has defaults.
    path: DirectPath = None  # type: ignore[assignment]
    exchange: Exchange = None  # type: ignore[assignment]
    tail: bytes = b""
    plan: Plan[Any] | None = None
    request: Request | None = None

    def start_once_admitted(self, admit: Admit) -> None:
        """Start the call once it is admitted."""
        try:
            deferral = admit(self)
        except Exception as error:  # noqa: BLE001 - the boundary: a refusal, or a defect
            self._fail(error)
            return
        if deferral is None:
            self.start()
            return

        def withdraw() -> None:
            deferral.withdraw()
            self._end_unsent()

        self.exchange.on_cancel = withdraw
        deferral.on_admitted(self.start)

    def start(self) -> None:
        """Submit the call's plan, or start a task for a call that is not one round trip."""
        path, tool = self.path, self.tool
        if tool.wait is not None and self._may_wait and self._wait(tool.wait):
            return
        make = tool.plan
        try:
            plan = make(self, self.arguments) if make is not None and path.uses_plans else None
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            self._fail(error)
            return
        if plan is None:
            self._carry_out_in_task(None)
            return
        try:
            self.request = path.queues[plan.role].submit(plan.write, self._on_reply, plan.stream)
        except Exception as error:  # noqa: BLE001 - `complete_plan` knows what to do about it
            self._complete_in_task(plan, error)
            return
        self.plan = plan
        self.exchange.on_cancel = self._cancel

    @property
    def _may_wait(self) -> bool:
        """Whether the call may wait without a task. Progress would need one all the time."""
        return self.path.uses_plans and self.exchange.progress_token is None

    def _wait(self, make: Callable[[Any, Any], Wait | BeginWait | None]) -> bool:
        """Let the call wait without a task, after a task that begins it, if need be; False if it does not."""
        try:
            wait = make(self, self.arguments)
        except Exception as error:  # noqa: BLE001 - as in `start`
            self._fail(error)
            return True
        if isinstance(wait, Wait):
            DirectWait.begin(wait, self.exchange, self, self.tail)
        elif wait is not None:
            self._start_task(partial(self._begin_wait, begin=wait))
        return wait is not None

    async def _begin_wait(self, scope: trio.CancelScope, begin: BeginWait) -> None:
        wait: Wait | None = None
        try:
            with scope:
                wait = cast("Wait", await self.run(no_progress, begin))
        except Exception as error:  # noqa: BLE001 - as in `start`
            self._fail(error)
            return
        except BaseException:
            self.end(CANCELLED)
            self.exchange.end_unanswered()
            raise
        if wait is None:
            self._end_cut_short()
            return
        waiting = DirectWait.begin(wait, self.exchange, self, self.tail)
        if scope.cancel_called:
            # After the last checkpoint.
            waiting.cancel()

    def _on_reply(self, reply: Any) -> None:
        exchange = self.exchange
        plan: Plan[Any] = self.plan  # type: ignore[assignment] # until this is called
        self.plan = None
        result = go_on = wait = None
        try:
            if not isinstance(reply, Exception):
                # Also if nobody waits: the domain takes note of what happened. As `Plan.read`, which would be
                # a frame for each call.
                left = iter(plan.conversions)
                try:
                    read = plan.decode(reply)
                    for convert in left:
                        read = convert(read)
                except Exception as error:  # noqa: BLE001 - raised again as what it means
                    plan.raise_meaning(error, left)
                result = read if type(read) is Result else success(read)
        except UnfinishedError as unfinished:
            go_on, wait = unfinished.go_on, unfinished.wait
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            self._fail(error)
            return
        if exchange.is_dropped or not exchange.is_open:
            if exchange.is_open:
                self._end_cut_short()
        elif result is not None:
            self.end(OK, result.size)
            exchange.answer(result.opened, self.tail)
        elif wait is not None and self._may_wait:
            self.request = None
            DirectWait.begin(wait, exchange, self, self.tail)
        elif go_on is not None:
            self._carry_out_in_task(go_on)
        else:
            self._complete_in_task(plan, reply)

    def _complete_in_task(self, plan: Plan[Any], after: Exception) -> None:
        """Start a task that goes on with the plan."""
        redis, request = self.path.redis, self.request
        # A request that was sent has had its time since then.
        deadline = (
            request.deadline
            if request is not None and request.sent
            else trio.current_time() + redis.command_timeout
        )
        self._carry_out_in_task(partial(complete_plan, redis, plan, after, deadline))

    def _fail(self, error: Exception) -> None:
        # Also if nobody waits: a defect is logged.
        shown = self.error_to_answer(error)
        if not self.exchange.is_open:
            return
        if self.exchange.is_dropped:
            self._end_cut_short()
            return
        result = failure(shown)
        self.end(str(shown.code), result.size)
        self.exchange.answer(result.opened, self.tail)

    def _cancel(self) -> None:
        # A command that was not sent is taken back, which ends the call. Else a client that waits is answered
        # now (the session ends, or memory is short); a dropped call is ended by the reply, or cut short.
        if self.request is not None and self.request.take_back():
            self._end_unsent()
        elif not self.exchange.is_dropped:
            self._end_cut_short()
        else:
            self.exchange.on_cancel = self._end_cut_short

    def _end_unsent(self) -> None:
        self.plan = None
        self.end(CANCELLED)
        self.exchange.answer_not_executed()

    def _end_cut_short(self) -> None:
        self.end(CANCELLED)
        self.exchange.answer_unknown()

    def _carry_out_in_task(self, go_on: Callable[[], Awaitable[object]] | None) -> None:
        """Start a task that runs the tool's handler, or the rest of a call."""
        self._start_task(partial(self._carry_out_and_answer, go_on=go_on))

    def _start_task(self, task: Callable[[trio.CancelScope], Awaitable[None]]) -> None:
        """Run a task that is cancelled when the exchange is cut short."""
        scope = trio.CancelScope()
        exchange = self.exchange
        exchange.on_cancel = scope.cancel
        if exchange.is_dropped:
            scope.cancel()
        if not exchange.session.start_soon(partial(task, scope)):
            self.end(CANCELLED)
            exchange.end_unanswered()

    async def _carry_out_and_answer(
        self, scope: trio.CancelScope, go_on: Callable[[], Awaitable[object]] | None
    ) -> None:
        exchange = self.exchange
        result: Result | None = None
        try:
            with scope:
                result = await self.carry_out(self._progress, go_on=go_on, admitted=True)
        except BaseException:
            exchange.end_unanswered()
            raise
        if result is None:
            exchange.answer_unknown()
        else:
            exchange.answer(result.opened, self.tail)

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.exchange.progress(progress, total, message)
        await trio.lowlevel.checkpoint()

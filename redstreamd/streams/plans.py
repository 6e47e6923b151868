"""A round trip to Redis as a value: what to send, and what the reply means.

A tool that is one round trip makes a plan of it. Two drivers run it: `run_plan` awaits it in a task; the
direct path submits it and reads the reply without one. So a call has one definition, whichever way it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar, cast

import trio

from redstreamd.errors import BusError
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.connection_manager import Write
from redstreamd.streams.error_context import explain_errors

ResultT = TypeVar("ResultT")
OtherT = TypeVar("OtherT")


class UnfinishedError(Exception):
    """What `Plan.read` or `Plan.reword` raises where the call is not done; only who drives the plan sees it.

    Attributes:
        go_on: Does the rest, and returns the result.
    """

    def __init__(self, go_on: Callable[[], Awaitable[Any]]) -> None:
        """Record how to go on."""
        super().__init__("the call is not done")
        self.go_on = go_on


def _unchanged(value: ResultT) -> ResultT:
    return value


async def _convert_rest(
    convert: Callable[[ResultT], OtherT], go_on: Callable[[], Awaitable[ResultT]]
) -> OtherT:
    return convert(await go_on())


def _reword_on(
    reword: Callable[[BusError], BusError],
    run: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]],
    error: BusError,
) -> BusError:
    try:
        return reword(error)
    except UnfinishedError as unfinished:
        raise UnfinishedError(partial(run, unfinished.go_on)) from None


class Plan(Generic[ResultT]):
    """What to send for one call, and how to read the reply.

    Attributes:
        write: A command, or a script with its operands; also of one that only reads.
        stream: The stream that the call is about: it decides the server, and errors name it.
        read: Makes the result of the reply; raises `BusError` where that means a failure.
        group: The consumer group that errors name, if any.
        retry_safe: Whether it may be sent again if its reply is lost.
        role: Which connection.
        reword: Makes the error that the caller gets of one that the transport raised.

    `read` and `reword` may raise `UnfinishedError`.
    """

    __slots__ = ("group", "read", "retry_safe", "reword", "role", "stream", "write")

    def __init__(
        self,
        write: Write,
        stream: str,
        read: Callable[[Any], ResultT],
        *,
        group: str | None = None,
        retry_safe: bool = False,
        role: Role = Role.COMMAND,
        reword: Callable[[BusError], BusError] = _unchanged,
    ) -> None:
        """Describe a round trip; see the attributes."""
        self.write = write
        self.stream = stream
        self.read = read
        self.group = group
        self.retry_safe = retry_safe
        self.role = role
        self.reword = reword

    def then(self, convert: Callable[[ResultT], OtherT]) -> Plan[OtherT]:
        """Convert the result, and return the plan."""
        return self._change(convert, partial(_convert_rest, convert))

    def with_rest(
        self, run: Callable[[Callable[[], Awaitable[ResultT]]], Awaitable[ResultT]]
    ) -> Plan[ResultT]:
        """Await by ``run`` what is left where the call is not done with the reply, and return the plan."""
        return self._change(_unchanged, run)

    def _change(
        self,
        convert: Callable[[ResultT], OtherT],
        run: Callable[[Callable[[], Awaitable[ResultT]]], Awaitable[OtherT]],
    ) -> Plan[OtherT]:
        read, reword = self.read, self.reword

        def read_on(reply: Any) -> OtherT:
            try:
                result = read(reply)
            except UnfinishedError as unfinished:
                raise UnfinishedError(partial(run, unfinished.go_on)) from None
            return convert(result)

        plan = cast("Plan[OtherT]", self)
        plan.read = read_on
        if reword is not _unchanged:
            plan.reword = partial(_reword_on, reword, run)
        return plan


async def complete_plan(redis: Redis, plan: Plan[ResultT], after: Exception, deadline: float) -> ResultT:
    """Go on with a plan that got no reply, or an error in its place, and return its result.

    Args:
        redis: Where.
        plan: What.
        after: What submitting raised, or what came instead of a reply. What is no matter of the connection or
            of Redis is raised.
        deadline: When to give up.

    Raises: as `run_plan`.
    """
    try:
        try:
            async with explain_errors(redis, plan.stream, plan.group):
                reply = await redis.complete(
                    plan.write,
                    after,
                    key=plan.stream,
                    retry_safe=plan.retry_safe,
                    deadline=deadline,
                    role=plan.role,
                )
        except BusError as error:
            raise plan.reword(error) from error
        return plan.read(reply)
    except UnfinishedError as unfinished:
        go_on: Callable[[], Awaitable[ResultT]] = unfinished.go_on
    return await go_on()


async def run_plan(redis: Redis, plan: Plan[ResultT]) -> ResultT:
    """Send a plan, wait for the reply, do the rest if there is one, and return the result.

    Raises:
        BusError: As `Redis.execute`, about the stream and the group of the plan; and what `Plan.read` raises.

    Cancellation: what was sent may take effect.
    """
    deadline = trio.current_time() + redis.command_timeout
    try:
        request = redis.submit(plan.write, None, key=plan.stream, role=plan.role)
        reply = await request.reply()
    except Exception as error:  # noqa: BLE001 - `complete` raises what is no matter of it
        return await complete_plan(redis, plan, error, deadline)
    try:
        return plan.read(reply)
    except UnfinishedError as unfinished:
        go_on: Callable[[], Awaitable[ResultT]] = unfinished.go_on
    return await go_on()

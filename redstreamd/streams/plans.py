"""A round trip to Redis as a value: what to send, and what the reply means.

A tool that is one round trip makes a plan of it. `run_plan` awaits it in a task; `start_plan` and the direct
path, which has `Plan.read` inlined, need none. So a call has one definition, whichever way it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import ACCOUNT
from redstreamd.errors import BusError
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import Write
from redstreamd.redisio.unexpected_replies import UNREADABLE, UnexpectedReply, unexpected_reply
from redstreamd.streams.background import Background
from redstreamd.streams.error_context import explain_errors

if TYPE_CHECKING:
    from redstreamd.streams.waiting import Wait

ResultT = TypeVar("ResultT")
OtherT = TypeVar("OtherT")


class UnfinishedError(Exception):
    """What a step of a plan raises where the call is not done; only who drives the plan sees it.

    Attributes:
        go_on: Does the rest, and returns the result.
        wait: The rest as a wait that needs no task, if it is one.
    """

    def __init__(self, go_on: Callable[[], Awaitable[Any]], wait: Wait | None = None) -> None:
        """Record how to go on."""
        super().__init__("the call is not done")
        self.go_on = go_on
        self.wait = wait


Rest = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Awaits what is left of a call; given a function that does it."""

Conversions = tuple[Callable[[Any], Any], ...]


class Plan(msgspec.Struct, Generic[ResultT], frozen=True, eq=False):
    """What to send for one call, and how to read the reply.

    Behaviour:
        Without a task the steps run where replies of the connection are read, so they are quick. They run
        also if nobody waits for the result, because the domain takes note of what happened.

    Attributes:
        write: A command, or a script with its operands; also of one that only reads.
        stream: The stream that the call is about: it decides the server, and errors name it.
        decode: The first step: makes something of the reply.
        conversions: The other steps: each converts what the one before returned.
        group: The consumer group that errors name, if any.
        retry_safe: Whether it may be sent again if its reply is lost.
        role: Which connection.
        reword: Makes the error that the caller gets of one that came instead of a reply. Where it raises
            `UnfinishedError`, the call goes on to a result like that of the first step.
        rest: Awaits what is left where the call is not done; None: nothing is to be done beside it.

    A step raises `BusError` where the reply means a failure, `UnfinishedError` where the call is not done.
    `raise_meaning` says what other errors mean.
    """

    write: Write
    stream: str
    decode: Callable[[Any], Any]
    conversions: Conversions = ()
    group: str | None = None
    retry_safe: bool = False
    role: Role = Role.COMMAND
    reword: Callable[[BusError], BusError] | None = None
    rest: Rest | None = None

    def then(self, convert: Callable[[ResultT], OtherT]) -> Plan[OtherT]:
        """Return the same plan with another result, made of its own."""
        conversions = (*self.conversions, convert)
        return msgspec.structs.replace(self, conversions=conversions)  # type: ignore[arg-type]

    def with_rest(self, rest: Rest) -> Plan[ResultT]:
        """Return the same plan, of which ``rest`` awaits what is left where the call is not done."""
        return msgspec.structs.replace(self, rest=rest)

    def read(self, reply: Any) -> ResultT:
        """Return the result.

        Raises:
            BusError: What the reply means; `UnexpectedReply` if it has another type or form.
            UnfinishedError: The call is not done; its `go_on` does the rest and returns the result.
        """
        left = iter(self.conversions)
        try:
            result = self.decode(reply)
            for convert in left:
                result = convert(result)
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self.raise_meaning(error, left)
        return result  # type: ignore[no-any-return]

    def raise_meaning(self, error: Exception, left: Iterable[Callable[[Any], Any]]) -> NoReturn:
        """Raise what the error of a step means; see `read`. For those who run the steps themselves.

        Args:
            error: The error.
            left: The conversions after that step.
        """
        after = tuple(left)
        if isinstance(error, UnfinishedError):
            raise self._unfinished(error, after) from None
        # The conversions are our own work on what the first step made of the reply.
        is_first = len(after) == len(self.conversions)
        if isinstance(error, UnexpectedReply) or (is_first and isinstance(error, UNREADABLE)):
            raise unexpected_reply(error, outcome_known=self.retry_safe) from error
        try:
            raise error
        finally:
            # Its traceback has this frame, so they would be a cycle.
            del error

    def reworded(self, error: BusError) -> BusError:
        """Return the error that the caller gets of one that came instead of a reply.

        Raises:
            UnfinishedError: As `read`.
        """
        if self.reword is None:
            return error
        try:
            return self.reword(error)
        except UnfinishedError as unfinished:
            raise self._unfinished(unfinished, self.conversions) from None

    def _unfinished(self, by: UnfinishedError, left: Conversions) -> UnfinishedError:
        """Return how to go on, with the conversions that are left."""
        wait = by.wait
        if wait is not None:
            for convert in left:
                wait = wait.then(convert)
        return UnfinishedError(partial(self._finish, by.go_on, left), wait)

    async def _finish(self, go_on: Callable[[], Awaitable[Any]], left: Conversions) -> Any:
        """Do the rest of a call, and the conversions that are left, which may have more to do."""
        to_end = partial(_go_on, go_on, left)
        return await (to_end() if self.rest is None else self.rest(to_end))


async def _go_on(go_on: Callable[[], Awaitable[Any]], left: Conversions) -> Any:
    result = await go_on()
    for convert in left:
        try:
            result = convert(result)
        except UnfinishedError as unfinished:
            result = await unfinished.go_on()
    return result


async def complete_plan(redis: Redis, plan: Plan[ResultT], after: Exception, deadline: float) -> ResultT:
    """Go on with a plan that got no reply, or an error in its place, and return its result.

    What was not sent or not executed is sent again until the deadline, unless Redis is known to be down or
    too much is queued; so is what may have been executed, if it is retry-safe, else it is OUTCOME_UNKNOWN. A
    server that does not know a script gets its text; one that names another is asked no more. Any other error
    of the server is raised.

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
            raise plan.reworded(error) from error
        return plan.read(reply)
    except UnfinishedError as unfinished:
        go_on: Callable[[], Awaitable[ResultT]] = unfinished.go_on
    return await go_on()


async def run_plan(redis: Redis, plan: Plan[ResultT]) -> ResultT:
    """Send a plan, wait for the reply, do the rest if there is one, and return the result.

    Raises:
        BusError: As `Redis.execute`, about the stream and the group of the plan; and what its steps raise.

    Cancellation: what was sent may take effect.
    """
    deadline = trio.current_time() + redis.command_timeout
    try:
        request = redis.queues[plan.role].submit(plan.write, None, plan.stream)
        reply = await request.reply()
    except Exception as error:  # noqa: BLE001 - `complete` raises what is no matter of it
        return await complete_plan(redis, plan, error, deadline)
    try:
        return plan.read(reply)
    except UnfinishedError as unfinished:
        go_on: Callable[[], Awaitable[ResultT]] = unfinished.go_on
    return await go_on()


class StartedPlan:
    """A plan that was submitted, or that a task goes on with, until it is taken back."""

    __slots__ = ("_is_taken_back", "_scope", "request")

    def __init__(self) -> None:
        """Made by `start_plan`."""
        self.request: Request | None = None
        self._scope: trio.CancelScope | None = None
        self._is_taken_back = False

    def take_back(self) -> None:
        """Let nothing more be sent for it. What was sent may take effect, and its reply may still be told."""
        self._is_taken_back = True
        if self.request is not None:
            self.request.take_back()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, go_on: Callable[[], Awaitable[Any]], done: Callable[[Any], None]) -> None:
        """Go on with it until it is taken back, and tell its result or its error."""
        # Another one each time: a task that was cancelled with the daemon's part that ran it is begun again.
        with trio.CancelScope() as self._scope:
            if self._is_taken_back:
                return
            try:
                result = await go_on()
            except Exception as error:  # noqa: BLE001 - the boundary: who waits must be told
                done(error)
            else:
                done(result)


def start_plan(
    redis: Redis,
    background: Background,
    plan: Plan[ResultT],
    account: Account | None,
    done: Callable[[ResultT | Exception], None],
) -> StartedPlan:
    """Submit a plan, and tell its result or its error; without a task, unless it is more than a round trip.

    Args:
        redis: Where.
        background: Runs the task.
        plan: What.
        account: On whose behalf the task runs.
        done: Is told once, or at most once after `take_back`, and not before this returns; it must neither
            block nor raise.
    """
    started = StartedPlan()

    async def go_on_in_task(go_on: Callable[[], Awaitable[ResultT]]) -> None:
        ACCOUNT.set(account)
        await started.run(go_on, done)

    def complete(after: Exception, deadline: float) -> None:
        background.start(partial(go_on_in_task, partial(complete_plan, redis, plan, after, deadline)))

    def on_reply(reply: Any) -> None:
        if isinstance(reply, Exception):
            # A request that was sent has had its time since then.
            soon = trio.current_time() + redis.command_timeout
            request = started.request
            complete(reply, request.deadline if request is not None and request.sent else soon)
            return
        try:
            result = plan.read(reply)
        except UnfinishedError as unfinished:
            background.start(partial(go_on_in_task, unfinished.go_on))
        except Exception as error:  # noqa: BLE001 - as above
            done(error)
        else:
            done(result)

    try:
        started.request = redis.queues[plan.role].submit(plan.write, on_reply, plan.stream)
    except Exception as error:  # noqa: BLE001 - `complete_plan` knows what to do about it
        complete(error, trio.current_time() + redis.command_timeout)
    return started

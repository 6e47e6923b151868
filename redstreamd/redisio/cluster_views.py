"""Asks the nodes of a Redis Cluster what they know of it.

Owns which nodes are asked at the same time, for how long, and why one could not tell. What their answers mean
together is decided in ``slot_map``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import trio
from redis.exceptions import RedisError

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.redisio.announced_address import Address
from redstreamd.redisio.connect_errors import unanswered
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.error_replies import reply_text, row_of
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, ProblemKind
from redstreamd.redisio.slot_map import QUESTIONS, NoSlotsError, View
from redstreamd.redisio.target import Target
from redstreamd.redisio.unexpected_replies import UNREADABLE

#: Seconds for the others once one node has answered. A node that hangs must not keep the map of those that
#: do not, and whoever promoted itself tells all at once.
_OTHERS_SECONDS: Final = 0.2
#: Seconds for an answer over a connection that is there.
_ANSWER_SECONDS: Final = 1.0

_DISABLED: Final = "cluster support disabled"


@attrs.frozen
class Source:
    """A node to ask.

    Attributes:
        target: Where it is.
        connection: The connection to use; None to make one for the questions alone.
    """

    target: Target
    connection: Connection | None = None

    @property
    def reached(self) -> Address:
        """Its host and port."""
        return self.target.host, self.target.port


@attrs.define
class Answers:
    """What came of it.

    Attributes:
        views: Of those that told.
        problems: Label -> why that node could not.
    """

    views: list[View] = attrs.field(factory=list)
    problems: dict[str, Problem] = attrs.field(factory=dict)


async def ask_all(sources: Sequence[Source]) -> Answers:
    """Ask nodes at the same time, and return what came of it once all answered, or soon after the first."""
    answers = Answers()
    async with trio.open_nursery() as nursery:

        async def ask(source: Source) -> None:
            told = await ask_one(source)
            if isinstance(told, View):
                answers.views.append(told)
                nursery.cancel_scope.deadline = min(
                    nursery.cancel_scope.deadline, trio.current_time() + _OTHERS_SECONDS
                )
            else:
                answers.problems[source.target.label] = told

        for source in sources:
            nursery.start_soon(ask, source)
    return answers


async def ask_one(source: Source) -> View | Problem:
    """Return what a node tells of its cluster, or why it does not."""
    target, connection = source.target, source.connection
    try:
        if connection is not None:
            replies = await _replies(connection)
        else:
            replies = await _over_a_new_connection(target)
        return View.read(source.reached, replies)
    except ConnectionEnded as ended:
        return ended.problem
    except BusError as failed:
        return Problem(ProblemKind.NOT_SERVING, failed.cause, failed.next_step)
    except RedisError as error:
        return _refused(error)
    except NoSlotsError:
        return Problem(
            ProblemKind.NOT_SERVING,
            "it belongs to no cluster that serves slots",
            "Create the cluster, or have the node join it (`redis-cli --cluster create`, or `add-node`).",
        )
    except UNREADABLE:
        return Problem(
            ProblemKind.UNREACHABLE,
            "it gave a reply that no node of a cluster gives",
            f"Check that a node of the cluster listens there: {setting('redis.nodes')}.",
        )


async def _replies(connection: Connection) -> list[Any]:
    if not connection.is_open:
        raise ConnectionEnded(unanswered("CLUSTER", 0))
    deadline = trio.current_time() + _ANSWER_SECONDS
    # As the daemon's own, whoever has something else queued.
    requests = [connection.pipeline.enqueue(question, is_own=True) for question in QUESTIONS]
    try:
        return [await request.reply_by(deadline) for request in requests]
    except trio.TooSlowError:
        raise ConnectionEnded(unanswered("CLUSTER", _ANSWER_SECONDS)) from None


class _Opened(trio.TaskStatus[None]):
    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def started(self, value: None = None) -> None:
        self._then()


async def _over_a_new_connection(target: Target) -> list[Any]:
    connection = Connection(target, role="topology")
    opened = trio.Event()
    ended: list[ConnectionEnded] = []
    replies: list[Any] = []
    refusals: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            try:
                await connection.run(task_status=_Opened(opened.set))
            except ConnectionEnded as end:
                ended.append(end)
                nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        await opened.wait()
        try:
            replies = await _replies(connection)
        except (ConnectionEnded, RedisError, BusError) as refusal:
            refusals.append(refusal)
        nursery.cancel_scope.cancel()
    for error in (*refusals, *ended):
        raise error
    return replies


def _refused(error: RedisError) -> Problem:
    text = reply_text(error)
    if _DISABLED in text:
        return Problem(
            ProblemKind.SETTINGS,
            "it is no node of a cluster",
            "Name nodes of the cluster, or use it as one server: "
            f"{setting('redis.nodes', 'redis.topology')}.",
        )
    row = row_of(error)
    if row.code is Code.PERMISSION_DENIED:
        return Problem(
            ProblemKind.SETTINGS,
            f"it does not tell who serves what ({text})",
            "Allow the user +cluster|slots, +cluster|info, +cluster|myid and +asking on every node: "
            "`redstreamd policy redis-acl` prints what it needs.",
        )
    return Problem(ProblemKind.NOT_SERVING, f"it replied: {text}", row.next_step)

"""The connection that the checks of a server share, and how it is opened."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs
import trio
from redis.exceptions import RedisError

from redstreamd.errors import Code
from redstreamd.redisio import Arg, reply_parsing
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.error_replies import reply_text, row_of
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem
from redstreamd.redisio.target import Target

_T = TypeVar("_T")


def is_permission_error(reply: object) -> bool:
    """Whether `reply` is the error that the user lacks a permission."""
    return isinstance(reply, RedisError) and row_of(reply).code is Code.PERMISSION_DENIED


@attrs.define
class Probe:
    """The connection to the server that is being checked.

    Attributes:
        connection: The connection, logged in.
        target: The address and login.
        invalidated: Set when the server pushes an invalidation.
        tag: A hash tag whose slot the server serves; empty if it serves every key.
        token: A random part for names of keys that do not exist.
        sample_key: The name of a stream that does not exist and that the user may be allowed to use.
    """

    connection: Connection
    target: Target
    invalidated: trio.Event
    tag: str = ""
    token: str = attrs.field(factory=lambda: secrets.token_hex(6))
    sample_key: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Choose a key with redstreamd's own prefix."""
        self.prefix_sample("")

    def prefix_sample(self, prefix: str) -> None:
        """Choose a key that begins with `prefix`."""
        self.sample_key = f"{prefix}redstreamd:doctor:{self.tag}{self.token}"

    async def execute(self, *args: Arg) -> Any:
        """Return the reply to a command, an error reply as a value.

        Raises:
            ConnectionEnded: The connection ended.
        """
        try:
            return await self.connection.execute(*args)
        except RedisError as refusal:
            return refusal

    async def execute_all(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Return the replies to several commands, sent together; see `execute`."""
        requests = [self.connection.submit(*command) for command in commands]
        replies: list[Any] = []
        for request in requests:
            try:
                replies.append(await request.reply())
            except RedisError as refusal:
                replies.append(refusal)
        return replies

    async def info(self, *sections: str) -> dict[str, str]:
        """Return the fields of some sections of INFO; empty if the user may not read them."""
        lines: dict[str, str] = {}
        for raw in await self.execute_all([("INFO", section) for section in sections]):
            if isinstance(raw, bytes):
                lines |= reply_parsing.info(raw)
        return lines


async def with_probe(target: Target, use: Callable[[Probe], Awaitable[_T]], *, tag: str = "") -> _T | Problem:
    """Log in, and return what `use` returns; or why there is no connection, or none any more.

    Args:
        target: The server and the login.
        use: What to do with the connection, which is closed after it.
        tag: See `Probe`.
    """
    invalidated, settled = trio.Event(), trio.Event()
    connection = Connection(target, role="doctor", on_push=lambda _message: invalidated.set())
    problems: list[Problem] = []
    results: list[_T] = []

    async def run() -> None:
        try:
            await connection.run(task_status=_Opened(settled))
        except ConnectionEnded as ended:
            problems.append(ended.problem)
            settled.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settled.wait()
        if not problems:
            try:
                results.append(await use(Probe(connection, target, invalidated, tag)))
            except ConnectionEnded as ended:
                problems.append(ended.problem)
        nursery.cancel_scope.cancel()
    return results[0] if results else problems[0]


class _Opened(trio.TaskStatus[None]):
    def __init__(self, event: trio.Event) -> None:
        self._event = event

    def started(self, value: None = None) -> None:
        self._event.set()


def why_refused(reply: object, command: str) -> str:
    """Return why the server refused a command."""
    return f"this user may not run {command}" if is_permission_error(reply) else error_text(reply)


def error_text(reply: object) -> str:
    """Return the text of an error reply."""
    return reply_text(reply) if isinstance(reply, RedisError) else repr(reply)

"""The connection that the checks of a server share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from redis.exceptions import RedisError

from redstreamd.errors import Code
from redstreamd.redisio import Arg, reply_parsing
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.error_replies import reply_text, row_of
from redstreamd.redisio.target import Target


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
        token: A random part for names of keys that do not exist.
        sample_key: The name of a stream that does not exist and that the user may be allowed to use.
    """

    connection: Connection
    target: Target
    invalidated: trio.Event
    token: str = attrs.field(factory=lambda: secrets.token_hex(6))
    sample_key: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Choose a key with redstreamd's own prefix."""
        self.sample_key = f"redstreamd:doctor:{self.token}"

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


def why_refused(reply: object, command: str) -> str:
    """Return why the server refused a command."""
    return f"this user may not run {command}" if is_permission_error(reply) else error_text(reply)


def error_text(reply: object) -> str:
    """Return the text of an error reply."""
    return reply_text(reply) if isinstance(reply, RedisError) else repr(reply)

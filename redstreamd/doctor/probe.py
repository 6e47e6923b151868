"""The connection that the checks of a server share, and what they have found out so far."""

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


def denied(reply: object) -> bool:
    """Whether `reply` says that the user may not do that."""
    return isinstance(reply, RedisError) and row_of(reply).code is Code.PERMISSION_DENIED


@attrs.define
class Probe:
    """One server while it is examined.

    Attributes:
        connection: Logged in.
        target: What it was logged in with.
        token: Makes the names of keys that do not exist.
        sample: The name of a stream that does not exist and that the user may be allowed to use.
        pushed: Set when the server pushes an invalidation.
    """

    connection: Connection
    target: Target
    pushed: trio.Event
    token: str = attrs.field(factory=lambda: secrets.token_hex(6))
    sample: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin with a name under a prefix of our own."""
        self.sample = f"redstreamd:doctor:{self.token}"

    async def ask(self, *args: Arg) -> Any:
        """Return the reply to a command, an error reply as a value.

        Raises:
            ConnectionEnded: The connection is gone.
        """
        try:
            return await self.connection.execute(*args)
        except RedisError as refusal:
            return refusal

    async def ask_all(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Return the replies to several commands, sent together."""
        requests = [self.connection.submit(*command) for command in commands]
        found: list[Any] = []
        for request in requests:
            try:
                found.append(await request.reply())
            except RedisError as refusal:
                found.append(refusal)
        return found

    async def info(self, *sections: str) -> dict[str, str]:
        """Return the lines of some sections of INFO; empty if the user may not read them."""
        lines: dict[str, str] = {}
        for raw in await self.ask_all([("INFO", section) for section in sections]):
            if isinstance(raw, bytes):
                lines |= reply_parsing.info(raw)
        return lines


def words(refusal: object) -> str:
    """Return an error reply's own text."""
    return reply_text(refusal) if isinstance(refusal, RedisError) else repr(refusal)

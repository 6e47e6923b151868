"""The commands that redstreamd uses, each wrapped once and typed.

redis-py's mixins build the commands, ``reply_parsing`` reads the answers. Names are ``str`` and go out as
UTF-8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any, Final

from redstreamd.redisio import Arg, Role, reply_parsing
from redstreamd.redisio.every_node import ScanCursor, ask_any, ask_every, scan_step
from redstreamd.redisio.node import Node
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo, PendingEntry, PendingSummary, RawEntry
from redstreamd.redisio.topology import Topology
from redstreamd.redisio.unexpected_replies import readable


def _text(reply: Any) -> str:
    """Read a reply that is ASCII by definition: an entry ID, a type."""
    return str(reply, "ascii")


def _number(reply: Any) -> int:
    return int(reply)


class TypedCommands(ABC):
    """What `Redis` is beside its ways to send any command.

    Attributes:
        topology: Knows the nodes.
    """

    def __init__(self, topology: Topology) -> None:
        """Send to the nodes of `topology`."""
        self.topology: Final = topology

    @abstractmethod
    def execute(
        self, *command: Arg, key: str | bytes | None, role: Role = Role.COMMAND, retry_safe: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send one command and return its reply; see `Redis.execute`."""

    # Any, because redis-py's annotations describe replies that its own client has parsed.
    @cached_property
    def _write(self) -> Any:
        return self._builder(Role.COMMAND, retry_safe=False)

    @cached_property
    def _read(self) -> dict[Role, Any]:
        return {role: self._builder(role, retry_safe=True) for role in Role}

    def _builder(self, role: Role, *, retry_safe: bool) -> Any:
        # Not at the start: a plain call needs none of them, and they take a tenth of its imports.
        from redstreamd.redisio.command_builders import Builder

        return Builder(partial(self.execute, role=role, retry_safe=retry_safe))

    # Entries

    async def xadd(self, stream: str, fields: Sequence[tuple[bytes, bytes]]) -> str:
        """Add one entry and return its ID. Never sent twice.

        Args:
            stream: The stream; created if it does not exist.
            fields: At least one pair; fields may repeat.
        """
        if not fields:
            raise ValueError("the fields of an entry are a non-empty sequence")
        # Not by redis-py's builder, which takes a dict, and so each field once.
        return _text(await self.execute("XADD", stream, "*", *chain.from_iterable(fields), key=stream))

    @readable
    async def xrange(self, stream: str, start: str, end: str, count: int) -> list[RawEntry]:
        """Return up to `count` entries from `start` up to `end`, inclusive unless prefixed with ``(``.

        Whole entries may be large, so no other read waits behind them.
        """
        return reply_parsing.entries(await self._read[Role.LARGE].xrange(stream, start, end, count))

    @readable
    async def xlen(self, stream: str) -> int:
        """Return the number of entries; 0 if there is no such stream."""
        return _number(await self._read[Role.COMMAND].xlen(stream))

    # Keys

    @readable
    async def key_type(self, key: str) -> str:
        """Return the type of the value at `key` ("stream"), "none" if there is none."""
        return _text(await self._read[Role.COMMAND].type(key))

    async def scan_streams(
        self, cursor: ScanCursor | None, pattern: str, count: int
    ) -> tuple[ScanCursor | None, list[str]]:
        """Take one step of a SCAN over the streams of all nodes whose name matches the glob `pattern`.

        What a step promises is what SCAN promises (https://redis.io/commands/scan) of a key that stays where
        it is. One that moves to another node meanwhile (see `moves`) may come twice or not at all. Where
        another server takes a node's place meanwhile, that node is scanned from the beginning.

        Args:
            cursor: None to begin, else what the step before returned.
            pattern: As KEYS takes it.
            count: How many keys a server looks at; any number of streams may come back, also none.

        Returns:
            The next cursor, None at the end, and names, without those that are not UTF-8; a name can come
            more than once.

        Raises: as `Node.execute`; a node that cannot be reached is an error.
        """

        async def step(node: Node, position: int) -> tuple[int, list[str]]:
            return await self.scan_node(node, position, pattern, count)

        return await scan_step(self.topology, cursor, step)

    @readable
    async def scan_node(self, node: Node, position: int, pattern: str, count: int) -> tuple[int, list[str]]:
        """Take one step of a SCAN over the streams of one node; as `scan_streams`, and 0 begins and ends."""
        following, names = await node.execute(
            *("SCAN", position, "MATCH", pattern, "COUNT", count, "TYPE", "stream"), retry_safe=True
        )
        return int(following), reply_parsing.key_names(names)

    # Health

    @readable
    async def xinfo_groups(self, stream: str, *, role: Role = Role.COMMAND) -> list[GroupInfo]:
        """Describe the consumer groups of a stream, in the server's order."""
        return [reply_parsing.group_info(raw) for raw in await self._read[role].xinfo_groups(stream)]

    @readable
    async def xinfo_consumers(self, stream: str, group: str) -> list[ConsumerInfo]:
        """Describe the consumers of a group, in the server's order."""
        raw = await self._read[Role.COMMAND].xinfo_consumers(stream, group)
        return [reply_parsing.consumer_info(each) for each in raw]

    @readable
    async def xpending_summary(self, stream: str, group: str) -> PendingSummary:
        """Sum up a group's pending entries list."""
        return reply_parsing.pending_summary(await self._read[Role.COMMAND].xpending(stream, group))

    @readable
    async def xpending_range(
        self,
        stream: str,
        group: str,
        *,
        start: str,
        end: str,
        count: int,
        consumer: str | None = None,
        min_idle_ms: int | None = None,
    ) -> list[PendingEntry]:
        """Return up to `count` pending entries between two IDs, lowest first.

        Args:
            stream: The stream.
            group: Its consumer group.
            start: Lowest ID, "-" for the beginning.
            end: Greatest ID, "+" for the end.
            count: At most this many.
            consumer: Only what this consumer holds.
            min_idle_ms: Only entries that were not delivered for so many milliseconds.
        """
        raw = await self._read[Role.COMMAND].xpending_range(
            stream, group, start, end, count, consumername=consumer, idle=min_idle_ms
        )
        return [reply_parsing.pending_entry(each) for each in raw]

    # Groups

    async def xgroup_create(self, stream: str, group: str, id: str, mkstream: bool) -> None:  # noqa: A002
        """Create a group that has read up to `id`; `ServerReplied` with GROUP_EXISTS if it is there."""
        await self._write.xgroup_create(stream, group, id, mkstream)

    async def xgroup_setid(self, stream: str, group: str, id: str) -> None:  # noqa: A002
        """Let a group go on after `id`; ServerReplied with GROUP_NOT_FOUND if there is none."""
        await self._write.xgroup_setid(stream, group, id)

    # Server

    async def ping(self, *, role: Role = Role.COMMAND) -> None:
        """Return once every node has answered on `role`. The error of one that does not names it."""
        await ask_every(self.topology, lambda node: node.execute("PING", role=role, retry_safe=True))

    async def ping_any(self) -> None:
        """Return once one node has answered: some streams are served. Raises as `ping` if none does."""
        await ask_any(self.topology, lambda node: node.execute("PING", retry_safe=True))

    @readable
    async def info(self, section: str, *, key: str | bytes | None) -> dict[str, str]:
        """Return one section of INFO, such as "memory", of the server for `key`: its own keys and texts."""
        return reply_parsing.info(await self.execute("INFO", section, key=key, retry_safe=True))

    @readable
    async def config_get(self, name: str, *, key: str | bytes | None) -> str | None:
        """Return a setting of the server for `key` as text; None if it has none of this name."""
        reply = await self.execute("CONFIG", "GET", name, key=key, retry_safe=True)
        return reply_parsing.config_value(reply, name)

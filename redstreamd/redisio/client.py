"""Redis as the rest of the daemon holds it: one value, whatever servers are behind it.

Owns the commands that redstreamd uses, each wrapped once and typed. Which node a command goes to, by its
key, is known to the `Topology`, and what becomes of a lost one in ``delivery``; which commands belong
together, and what their results mean to an agent, is not known here. redis-py's mixins build the commands,
``reply_parsing`` reads the answers.

Behaviour common to all: names are ``str`` and go out as UTF-8; errors are those of `Node.execute`; a
cancelled call may or may not have taken effect.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any, Final, TypeVar

import trio
from redis.exceptions import RedisError

from redstreamd.redisio import Arg, Role, reply_parsing
from redstreamd.redisio.connect_errors import STILL_CONNECTING
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.delivery import Write, deliver, deliver_confirmed
from redstreamd.redisio.every_node import ScanCursor, ask_any, ask_every, scan_step
from redstreamd.redisio.joint_calls import JointCalls
from redstreamd.redisio.lost_replies import send_with_retries
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import NotSent
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo, PendingEntry, PendingSummary, RawEntry
from redstreamd.redisio.script import JoinableCall, PackedCommand, Script, ScriptCall
from redstreamd.redisio.topology import Topology, TopologyStatus
from redstreamd.redisio.traffic import Traffic
from redstreamd.redisio.unexpected_replies import readable
from redstreamd.redisio.write_confirmation import ConfirmedWrite

T = TypeVar("T")


def _text(reply: Any) -> str:
    """Read a reply that is ASCII by definition: an entry ID, a type."""
    return str(reply, "ascii")


def _number(reply: Any) -> int:
    return int(reply)


class Redis:
    """Typed Redis commands, and any others, sent to the server that holds their key."""

    def __init__(self, topology: Topology) -> None:
        """Send everything to the nodes of `topology`."""
        self.topology: Final = topology
        #: The node that serves a key, or any for None; None if that is not known at the moment.
        self.node_for: Final = topology.node_for
        self._shared: dict[Any, Any] = {}
        self._joint: Final = JointCalls()
        #: How often keys may have got other nodes so far.
        self.moves = 0
        self._on_moved: Callable[[], None] = lambda: None
        topology.on_moved = self._moved

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

    def shared(self, kind: Callable[[Redis], T]) -> T:
        """Return the one object of class `kind` that all who use this Redis share; made at first."""
        found: T | None = self._shared.get(kind)
        if found is None:
            found = self._shared[kind] = kind(self)
        return found

    @property
    def command_timeout(self) -> float:
        """Seconds for one command, everything included."""
        return self.topology.command_timeout

    def nodes(self) -> tuple[Node, ...]:
        """Return every node that holds streams now, in a stable order."""
        return self.topology.nodes()

    def status(self) -> TopologyStatus:
        """Return a snapshot of the connections and of the servers."""
        return self.topology.status()

    def traffic(self) -> Mapping[Role, Traffic]:
        """Return the counters of each role, of all nodes together, which go on counting."""
        return self.topology.traffic

    async def wait_connected(self, role: Role = Role.COMMAND) -> None:
        """Return once `role` is connected, opening it if need be; waits as long as that takes."""
        await self.topology.wait_connected(role)

    def set_watch_hooks(
        self,
        *,
        on_push: Callable[[Node, list[Any]], None],
        on_connected: Callable[[Node], None],
        on_moved: Callable[[], None],
    ) -> None:
        """Install the hooks of the watch connections, each in the place of the one before.

        See `NodeHooks` for the first two, and `Topology.on_moved`.
        """
        self.topology.hooks.on_push = on_push
        self.topology.hooks.on_connected = on_connected
        self._on_moved = on_moved

    def _moved(self) -> None:
        self.moves += 1
        self._on_moved()

    def asked_for(self, node: Node, key: str | bytes, reply: object) -> Node | None:
        """Return the node that a reply of `node` says is to be asked for `key` (ASK); else None."""
        error = reply if isinstance(reply, RedisError) else None
        redirection = None if error is None else self.topology.follow(node, key, error)
        return redirection.node if redirection is not None and redirection.asking else None

    def is_connected(self, role: Role, *, key: str | bytes) -> bool:
        """Return whether `submit` would send a command for `key` now."""
        node = self.node_for(key)
        return node is not None and node.roles[role].connection is not None

    # Any command

    # The first two are not async themselves: that would be one coroutine more in the way of every call.

    def execute(
        self,
        *command: Arg,
        key: str | bytes | None,
        role: Role = Role.COMMAND,
        retry_safe: bool = False,
        answered_by: Callable[[Node, Connection], None] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Send one command and return its reply; to be awaited at once.

        Args:
            command: As for `Node.execute`.
            key: Decides which node gets the command: a key that it names, or whose node it asks about
                itself, as INFO does. None if any node will do, as for PING.
            role: Which connection.
            retry_safe: Whether it may be sent again if its reply is lost.
            answered_by: Told which node gave the reply, and on which connection.

        Raises: as `Node.execute`, which says what a cancellation does.
        """
        topology = self.topology
        deadline = trio.current_time() + topology.command_timeout
        return send_with_retries(
            topology,
            key,
            role,
            command,
            retry_safe=retry_safe,
            deadline=deadline,
            answered_by=answered_by,
        )

    def run_script(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        args: Sequence[Arg],
        *,
        retry_safe: bool,
        role: Role = Role.COMMAND,
    ) -> Coroutine[Any, Any, Any]:
        """Run a script on the node of the first of its KEYS.

        Args:
            script: The script.
            keys: Its KEYS, all of one slot.
            args: Its ARGV.
            retry_safe: As in `execute`.
            role: As in `execute`.

        Raises: as `execute`; the deadline covers both forms of the script together.
        """
        deadline = trio.current_time() + self.topology.command_timeout
        key = keys[0] if keys else None
        call = ScriptCall(script, keys, args)
        return deliver(self.topology, call, key, role, retry_safe=retry_safe, deadline=deadline)

    def submit(
        self,
        write: Write,
        then: Callable[[Any], None] | None,
        key: str | bytes,
        role: Role = Role.COMMAND,
    ) -> Request:
        """Send a command or a script if there is a connection, and return at once.

        Args:
            write: What to send; a `JoinableCall` together with others, at the end of the pass at the latest.
            then: See `Pipeline.enqueue`. Whoever wants more than an exception goes on with `complete`.
            key: As for `execute`.
            role: Which connection.

        Raises:
            NotSent: There is no connection now.
            QueueFull: Too much is queued for it already.
        """
        node = self.topology.only_node or self.node_for(key)
        if node is None:
            raise NotSent(STILL_CONNECTING)
        pipeline = node.roles[role].pipeline
        if type(write) is JoinableCall:
            return self._joint.add(pipeline, write, then)
        if type(write) is not PackedCommand and self._joint:
            self._joint.queue_all()
        return pipeline.enqueue(
            write.by_digest if type(write) is ScriptCall else write,  # type: ignore[arg-type]
            then,
        )

    def complete(
        self,
        write: Write,
        after: Exception,
        *,
        key: str | bytes,
        retry_safe: bool,
        deadline: float,
        role: Role = Role.COMMAND,
    ) -> Coroutine[Any, Any, Any]:
        """Go on with what `submit` began, and return the reply.

        Args:
            write: What was sent.
            after: What `submit` raised or gave to `then`.
            key: As for `execute`.
            retry_safe: As in `execute`.
            deadline: When to give up: `command_timeout` seconds after it was submitted.
            role: As in `execute`.

        Raises: as `execute`.
        """
        return deliver(self.topology, write, key, role, retry_safe=retry_safe, deadline=deadline, after=after)

    async def execute_confirmed(
        self,
        write: Write,
        confirm_by: tuple[Arg, ...],
        *,
        key: str | bytes,
        retry_safe: bool = False,
        wrote: Callable[[Any], bool] = lambda _reply: True,
    ) -> ConfirmedWrite:
        """Send a write, and then ask on the connection that answered it whether it is safe.

        Args:
            write: A command or a script.
            confirm_by: WAIT or WAITAOF, with a timeout of its own, well below `command_timeout`.
            key: As for `execute`, of the write.
            retry_safe: Whether the write may be sent again if its reply is lost.
            wrote: Given the reply, whether anything was written; else nothing is asked.

        Raises: as `execute`, for the write only. The error of the question is a part of the result.
        """
        return await deliver_confirmed(
            self.topology, write, confirm_by, key, retry_safe=retry_safe, wrote=wrote
        )

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

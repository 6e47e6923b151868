"""Redis as the rest of the daemon holds it: one value, whatever servers are behind it.

Owns how any command is sent, and its reply awaited; its `queues` send without waiting, and call back. Which
node a command goes to, by its key, is known to the `Topology`, and what becomes of a lost one in
``delivery``; which commands belong together, and what their results mean to an agent, is not known here.

Behaviour common to all: errors are those of `Node.execute`; a cancelled call may or may not have taken
effect.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import trio
from redis.exceptions import RedisError

from redstreamd.redisio import Arg, Role
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.delivery import deliver, deliver_confirmed
from redstreamd.redisio.lost_replies import send_with_retries
from redstreamd.redisio.node import Node
from redstreamd.redisio.script import Script, ScriptCall, Write
from redstreamd.redisio.topology import Topology, TopologyStatus
from redstreamd.redisio.traffic import Traffic
from redstreamd.redisio.typed_commands import TypedCommands
from redstreamd.redisio.write_confirmation import ConfirmedWrite

T = TypeVar("T")


class Redis(TypedCommands):
    """Typed Redis commands, and any others, sent to the server that holds their key."""

    def __init__(self, topology: Topology) -> None:
        """Send everything to the nodes of `topology`."""
        super().__init__(topology)
        #: The node that serves a key, or any for None; None if that is not known at the moment.
        self.node_for: Final = topology.node_for
        #: What sends commands without waiting, by role.
        self.queues: Final = topology.queues
        self._shared: dict[Any, Any] = {}
        #: How often keys may have got other nodes so far.
        self.moves = 0
        self._on_moved: Callable[[], None] = lambda: None
        topology.on_moved = self._moved

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
        """Return whether its queue would send a command for `key` now."""
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
        """Go on with what `CommandQueue.submit` began, and return the reply.

        Args:
            write: What was sent.
            after: What that raised or gave to `then`.
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

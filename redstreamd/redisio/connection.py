"""One multiplexed RESP3 connection to Redis.

Owns a socket from connecting to closing, and its tasks, of which `Liveness` has two. It does not
reconnect, retry or know what a command means.

Behaviour:
- Every caller's command goes into one pipeline. What is queued is sent at the end of the scheduler's pass
  (see ``stream_io``), or once it is much and the server has nothing to do; a reader task hands each reply to
  the oldest request that has none. So any number of callers share one socket, and one packet carries many
  commands.
- A request counts as sent from the moment its bytes are handed to the socket. If the connection
  ends, requests not sent fail with `NotSent`, the others with `ReplyLost`.
- A caller that is cancelled before its request was sent takes it back. Later its request keeps
  its place, so that the reply is dropped instead of reaching another caller.
- Anything unexpected ends the connection; it is never used again. A new one is cheap, an
  alignment that may be off is not.

Commands with other than exactly one reply (MONITOR, CLIENT REPLY, SUBSCRIBE but by `Connection.subscribe`)
must not be sent, and blocking ones hold up everybody behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, NoReturn

import hiredis
import msgspec
import trio
from redis.exceptions import RedisError

from redstreamd.admission.turns import turns
from redstreamd.protection.certificate_files import TlsFileError
from redstreamd.redisio import Arg, connect_errors
from redstreamd.redisio.decoder import MAX_REPLY_BYTES
from redstreamd.redisio.dialing import open_stream, secure
from redstreamd.redisio.joint_calls import joint_calls
from redstreamd.redisio.liveness import Liveness
from redstreamd.redisio.login import log_in, login_timed_out, refused
from redstreamd.redisio.observed_costs import input_polls
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.redis_errors import ConnectionEnded, NotSent, Problem
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.reply_reader import Broken, Ending, Oversized, ReplyReader, Unasked, Unreadable
from redstreamd.redisio.script import PackedCommand
from redstreamd.redisio.target import Target
from redstreamd.redisio.traffic import Traffic
from redstreamd.stream_io import Write, end_of_pass, nonblocking_write

#: Seconds between two looks whether a connection that is given up has answered everything.
_RETIRING_SECONDS: Final = 0.005

#: Seconds for the reader to find what the server sent last, after sending to it has failed.
_LAST_REPLY_SECONDS: Final = 0.5


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """A snapshot of one connection.

    Attributes:
        queued: Requests not yet sent.
        queued_bytes: Their packed size.
        in_flight: Requests sent and not answered, those of cancelled callers included.
        sent: Requests sent so far.
        pushes: Push notifications received so far.
        round_trip_seconds: Of the last PING; None before the first.
    """

    queued: int
    queued_bytes: int
    in_flight: int
    sent: int
    pushes: int
    round_trip_seconds: float | None


def _ignore(_reply: Any) -> None: ...


class Connection:
    """A connection that runs once and is then discarded.

    Attributes:
        is_open: Whether requests are accepted: logged in and not ended.
        pipeline: Its requests. Commands may be queued here without `submit` once it is open: when it has
            ended, they are refused.
    """

    def __init__(
        self,
        target: Target,
        *,
        role: str,
        on_push: Callable[[list[Any]], None] | None = None,
        on_ping_refused: Callable[[RedisError], None] | None = None,
        reply_timeout: float = 5.0,
        ping_interval: float = 10.0,
        ping_timeout: float = 2.0,
        one_at_a_time: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        """Prepare a connection; nothing happens before `run`.

        Args:
            target: Server and login.
            role: Appended to the client's name at the server.
            on_push: Called with each push notification, in order with the replies. If it raises,
                that is logged and the connection goes on.
            on_ping_refused: Called with each error reply to a PING, which ends nothing; must not raise.
            reply_timeout: Seconds after which a server that owes a reply is given up.
            ping_interval: Seconds between PINGs.
            ping_timeout: Seconds for a PING's reply while nothing else is under way.
            one_at_a_time: See `Pipeline`.
            traffic: Where it counts what it sends and receives; None for a new one.
        """
        self._target = target
        self._role = role
        self._reply_timeout = reply_timeout
        self._traffic = traffic or Traffic()
        # As `trio.current_time`, in fewer steps.
        self._now: Final = trio.lowlevel.current_clock().current_time

        self.pipeline = Pipeline(
            # Not a method, which would be one more in the way of every call.
            partial(end_of_pass(), self._send_now),
            turns(),
            polls=input_polls(),
            joint=joint_calls(),
            send_now=self._send_now,
            one_at_a_time=one_at_a_time,
            traffic=self._traffic,
        )
        self._replies = ReplyReader(
            self.pipeline.awaited,
            self._traffic,
            reply_timeout=reply_timeout,
            on_push=on_push,
            send_now=self._send_now,
            on_end=self._end_reading,
        )
        self._liveness = Liveness(
            self.pipeline,
            self._end_unanswered,
            reply_timeout=reply_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            on_ping_refused=on_ping_refused,
        )
        # Set once connected. The first is None for TLS; a task sends what it cannot.
        self._write: Write | None = None
        self._stream: trio.abc.SendStream
        self._nursery: trio.Nursery
        # That of its own tasks: whoever happens to be served when one is started is not its client.
        self._context: Context
        self._is_sending = False
        self._scope = trio.CancelScope()
        self.is_open = False
        # Set once, by what ended the connection first; later problems are its consequences.
        self._problem: Problem | None = None
        self._server = ""

    @property
    def server(self) -> str:
        """What the server calls itself, such as "redis 7.0.15"; empty before the login."""
        return self._server

    def retire(self, problem: Problem, seconds: float) -> None:
        """Take no more requests, and end because of `problem` when all are answered, or after `seconds`.

        What is not answered by then fails as when a connection is lost. Nothing if it is ending already.
        """
        if self._problem is not None:
            return
        self.is_open = False
        self.pipeline.close(problem)
        self._start(self._end_when_answered, problem, seconds)

    async def _end_when_answered(self, problem: Problem, seconds: float) -> None:
        with trio.move_on_after(seconds):
            # For milliseconds, once in a life; an event would be set with each reply.
            while self.pipeline.in_flight or self.pipeline.queued:  # noqa: ASYNC110
                await trio.sleep(_RETIRING_SECONDS)
        self._end(problem)

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot."""
        return ConnectionStatistics(
            queued=self.pipeline.queued,
            queued_bytes=self.pipeline.queued_bytes,
            in_flight=self.pipeline.in_flight,
            sent=self.pipeline.sent,
            pushes=self._replies.pushes,
            round_trip_seconds=self._liveness.round_trip_seconds,
        )

    async def execute(self, *args: Arg) -> Any:
        """Send one command and return its reply; see `submit` and `Request.reply` for the errors."""
        return await self.submit(*args).reply()

    def submit(self, *args: Arg, then: Callable[[Any], None] | None = None, asking: bool = False) -> Request:
        """Queue one command for sending, and return at once.

        Args:
            args: The command and its arguments.
            then: See `Pipeline.enqueue`.
            asking: Whether a cluster node is to execute it although it does not own the slot yet, because the
                slot's owner says so (https://redis.io/docs/latest/commands/asking/).

        Raises:
            NotSent: The connection is not open.
            QueueFull: Too much is queued already.
            TypeError: An argument is of a type that `Arg` excludes.
            ValueError: There are no arguments; the server would not reply.
        """
        if not self.is_open:
            raise NotSent(self._problem or connect_errors.STILL_CONNECTING)
        if asking:
            # It counts for the next command on the connection, so nothing may come between.
            self.pipeline.enqueue(("ASKING",), _ignore, is_own=True)
        return self.pipeline.enqueue(args, then, is_own=asking)

    async def subscribe(self, channel: str) -> None:
        """Have the messages of a channel pushed. Only as the first request, with none beside it.

        The confirmation is a push and no reply (https://redis.io/docs/latest/develop/pubsub/), so the command
        goes together with a PING, which is replied to. A refusal makes that two replies, and ends the
        connection.

        Raises:
            RedisError: The server refused it.
            ConnectionEnded: As `execute`.
        """
        # hiredis's annotation means a tuple of one element; it takes any number.
        both = hiredis.pack_command(("SUBSCRIBE", channel)) + hiredis.pack_command(("PING",))  # type: ignore[arg-type]
        await self.pipeline.enqueue(PackedCommand("SUBSCRIBE", both)).reply()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Connect, log in, and serve requests until the connection breaks or this is cancelled.

        ``task_status.started()`` is called once requests are accepted. To be called once.

        Raises:
            ConnectionEnded: Always, unless cancelled: connecting failed or the connection broke.
        """
        try:
            with self._scope:
                await self._serve(task_status)
        finally:
            self.is_open = False
            self._problem = self._problem or connect_errors.SHUTTING_DOWN
            self.pipeline.abandon(self._problem)
        raise ConnectionEnded(self._problem)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        login_deadline = trio.current_time() + self._target.connect_timeout
        stream = await self._dial(login_deadline)
        if stream is None:
            return
        async with stream, trio.open_nursery() as nursery:
            try:
                self._stream, self._nursery, self._write = stream, nursery, nonblocking_write(stream)
                self._context = copy_context()
                await self._use(stream, nursery, login_deadline, task_status)
                await trio.sleep_forever()
            finally:
                # Before the nursery can close, which takes no task then. What is still queued is not sent.
                self._end(connect_errors.SHUTTING_DOWN)

    async def _use(
        self,
        stream: trio.abc.Stream,
        nursery: trio.Nursery,
        login_deadline: float,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Log in, and start what serves requests."""
        nursery.start_soon(self._replies.run, stream)
        with trio.CancelScope(deadline=login_deadline) as login:
            try:
                self._server = await log_in(self._log_in_step, self._target, self._role)
            except ConnectionEnded as refusal:
                # Servers that refuse a client hang up as well, and that may be noticed first.
                self._problem = None
                self._end(refusal.problem)
                return
        if login.cancelled_caught:
            # With nothing sent, it was not the server that did not answer, but the credential provider.
            asked = bool(self.pipeline.sent or self.pipeline.queued)
            self._end(login_timed_out(self._target, asked=asked))
            return
        if self._problem is not None:
            # It broke in the very step in which the last reply arrived.
            return
        nursery.start_soon(self._liveness.watch_deadlines)
        nursery.start_soon(self._liveness.ping)
        self.is_open = True
        self._traffic.connections += 1
        task_status.started()

    async def _dial(self, deadline: float) -> trio.abc.Stream | None:
        """Connect and, if so configured, speak TLS; None if that failed."""
        target = self._target
        transport: trio.SocketStream | None = None
        with trio.CancelScope(deadline=deadline):
            try:
                transport = await open_stream(target)
                if target.path is None and target.tls is not None:
                    return await secure(transport, target.tls, target.host)
                return transport
            except (OSError, ValueError, trio.BrokenResourceError, TlsFileError) as error:
                self._end(connect_errors.not_connected(target, error))
                return None
        self._end((connect_errors.timed_out if transport is None else connect_errors.tls_timed_out)(target))
        return None

    async def _log_in_step(self, *args: Arg) -> Any:
        return await self.pipeline.enqueue(args).reply()

    def _end(self, problem: Problem) -> None:
        self.is_open = False
        if self._problem is None:
            operator = self._target.operator
            self._problem = problem if operator is None else operator.adapted(problem)
            self.pipeline.close(self._problem)
            self._scope.cancel()

    def _end_reading(self, ending: Ending) -> None:
        match ending:
            case Broken():
                self._end(self._broken(ending.error))
            case Unreadable():
                self._end(connect_errors.unreadable(self._target, ending.data, ending.why))
            case Oversized():
                self._end(connect_errors.oversized(MAX_REPLY_BYTES))
            case Unasked():
                self._end(self._unasked(ending.reply))

    def _end_unanswered(self, what: str, seconds: float) -> None:
        self._end(connect_errors.unanswered(what, seconds))

    def _start(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task of the connection; only while it has no problem."""
        self._context.run(self._nursery.start_soon, task, *args)

    def _send_now(self) -> bool:
        """Send what the socket accepts; leave the rest to a task, and return whether there is one."""
        write, pipeline = self._write, self.pipeline
        while pipeline.sendable and not self._is_sending and self._problem is None:
            rest = b""
            if write is not None:
                data = pipeline.take(self._now() + self._reply_timeout)
                try:
                    rest = data[write(data) :]
                except OSError:
                    rest = data
            if rest or write is None:
                self._is_sending = True
                self._start(self._send, rest)
                return True
        return False

    async def _send(self, data: bytes) -> None:
        """Send `data`, and what is queued meanwhile."""
        pipeline = self.pipeline
        while data or pipeline.sendable:
            data = data or pipeline.take(self._now() + self._reply_timeout)
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError as error:
                # The server may have said why it hung up, or answered what came before: let the
                # reader find that first.
                await trio.sleep(_LAST_REPLY_SECONDS)
                self._end(self._broken(error))
                return
            data = b""
        self._is_sending = False

    def _broken(self, error: Exception | None) -> Problem:
        """Read how the connection ended: with `error`, or by the server's closing it."""
        return connect_errors.broken(self._target, error, logged_in=bool(self._server))

    def _unasked(self, reply: Any) -> Problem:
        # A server that turns a client away (maxclients, protected mode) says so before the client
        # has said anything, and hangs up.
        if isinstance(reply, RedisError):
            return refused(self._target, "connecting", reply, username=self._target.username)
        return connect_errors.unreadable(self._target, b"", "it is a reply to no command")

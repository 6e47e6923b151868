"""The connections to the sentinels: each is asked every second, and tells of a failover by itself.

Owns when they are asked and what each said last. What follows from that is decided in ``sentinel``.

A message of the channel +switch-master only makes us ask all at once: messages may be lost, and another
program may publish there. Where a user may not subscribe, the question of every second has to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

import attrs
import msgspec
import trio
from redis.exceptions import RedisError

from redstreamd.errors import BusError
from redstreamd.redisio.announced_address import Address
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.reconnecting import reconnect_backoff, reconnect_pause
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem
from redstreamd.redisio.sentinel_answers import (
    MAX_SENTINELS,
    KnownSentinel,
    NamedPrimary,
    UnreadableAnswerError,
    is_switch,
    known_sentinels,
    named_primary,
)
from redstreamd.redisio.sentinel_events import SentinelEvent, SentinelUnusable, SentinelUsable
from redstreamd.redisio.sentinel_problems import (
    disagrees,
    refused_question,
    unreadable_answer,
)
from redstreamd.redisio.setting_names import SENTINELS
from redstreamd.redisio.target import Deployment, Target

#: Seconds between two questions to a sentinel. A failover whose message is lost is noticed so much later.
ASK_SECONDS: Final = 0.5
#: Seconds for the answer. A sentinel does nothing that takes long.
_ANSWER_SECONDS: Final = 3.0
#: Every so many questions it is asked for the other sentinels, too.
_LIST_EVERY: Final = 10
#: Seconds that a sentinel may name another primary than the one used, as during each failover.
_DISAGREE_SECONDS: Final = 5.0

SUBSCRIPTION: Final = "+switch-master"


class OnceUsable(trio.TaskStatus[None]):
    """Calls a function when a connection is usable, for `Connection.run`."""

    def __init__(self, call: Callable[[], None]) -> None:
        """Keep the function."""
        self._call = call

    def started(self, value: None = None) -> None:
        """Call it."""
        self._call()


class SentinelWatch:
    """One sentinel.

    Attributes:
        label: Its address.
        is_configured: Whether the settings name it, or else another sentinel did.
        answer: What it says of the primary; None while it says nothing.
        problem: Why it is of no use; None if it is, or that is not known yet.
        known: The other sentinels that it knows.
        run_id: Which sentinel it is, whatever its address; empty while that is not known.
        has_answered: Whether it ever named a primary.
    """

    def __init__(
        self,
        target: Target,
        primary: str,
        *,
        is_configured: bool,
        run_id: str = "",
        on_news: Callable[[], None],
        on_switch: Callable[[], None],
        on_event: Callable[[SentinelEvent], None],
    ) -> None:
        """Prepare; nothing is connected before `run`.

        Args:
            target: The sentinel and the login there.
            primary: What sentinels call the primary.
            is_configured: See above.
            run_id: If it is known already.
            on_news: Called after each answer, and when there is none.
            on_switch: Called when it tells of a failover.
            on_event: Told of the sentinel's problems.
        """
        self.label = target.label
        self.is_configured = is_configured
        self.answer: NamedPrimary | None = None
        self.problem: Problem | None = None
        self.known: list[KnownSentinel] = []
        self.run_id = run_id
        self.has_answered = False
        self._target = attrs.evolve(target, settings=SENTINELS)
        self._primary = primary
        self._on_news = on_news
        self._on_switch = on_switch
        self._tell = on_event
        self._may_subscribe = True
        self._asked = trio.Event()
        self._told: Problem | None = None
        # When it was of use last.
        self._since = trio.current_time()
        # Since when it names another primary than the one used.
        self._differs_since: float | None = None

    def ask(self) -> None:
        """Ask at once."""
        self._asked.set()

    def compare(self, used: Address | None, epoch: int) -> None:
        """Find out whether it disagrees with which primary is used, and for long."""
        now = trio.current_time()
        if self.answer is None or used in (None, self.answer.address):
            self._differs_since = None
            return
        if self._differs_since is None:
            self._differs_since = now
        elif now - self._differs_since >= _DISAGREE_SECONDS:
            named = _label(self.answer.address)
            self._note(disagrees(named, self.answer.epoch, _label(used), epoch, self._primary))

    async def run(self) -> None:
        """Stay connected, and ask, until cancelled."""
        backoff, failures = reconnect_backoff(), 0
        while True:
            could_subscribe = self._may_subscribe
            was_usable, problem = await self._connect()
            if could_subscribe and not self._may_subscribe:
                continue  # at once, without the message
            failures = 0 if was_usable else failures + 1
            self.answer = None
            if not was_usable:
                # Connections may end for any reason; that the next one cannot be made is worth telling.
                self._note(problem)
            self._on_news()
            await trio.sleep(reconnect_pause(backoff, problem, failures))

    async def _connect(self) -> tuple[bool, Problem]:
        """Use one connection until it ends; return whether it was answered anything, and why it ended."""
        connection = Connection(
            self._target,
            role="sentinel",
            on_push=self._on_push,
            reply_timeout=_ANSWER_SECONDS,
        )
        async with trio.open_nursery() as nursery:
            asking = partial(nursery.start_soon, self._ask_forever, connection)
            try:
                await connection.run(task_status=OnceUsable(asking))
            except ConnectionEnded as ended:
                problem = ended.problem
            nursery.cancel_scope.cancel()
        return self.answer is not None, problem

    async def _ask_forever(self, connection: Connection) -> None:
        try:
            if self._may_subscribe:
                try:
                    await connection.subscribe(SUBSCRIPTION)
                except RedisError:
                    self._may_subscribe = False
                    return
            count = 0
            while True:
                self._asked = trio.Event()
                await self._ask(connection, all_of_it=count % _LIST_EVERY == 0)
                count += 1
                with trio.move_on_after(ASK_SECONDS):
                    await self._asked.wait()
        except (ConnectionEnded, BusError):
            return  # the connection says why

    async def _ask(self, connection: Connection, *, all_of_it: bool) -> None:
        # In this order: see `named_primary`.
        master = connection.submit("SENTINEL", "MASTER", self._primary)
        address = connection.submit("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._primary)
        try:
            answer = named_primary(await master.reply(), await address.reply())
        except RedisError as error:
            self.answer = None
            self._note(refused_question(error, self._primary))
        except UnreadableAnswerError as error:
            self.answer = None
            self._note(unreadable_answer(str(error)))
        else:
            if all_of_it:
                await self._ask_who(connection)
            self.answer, self.has_answered = answer, True
            if self._differs_since is None:
                self._note(None)
        self._on_news()

    async def _ask_who(self, connection: Connection) -> None:
        """Ask which sentinel this is, and for the others; without an answer we do with those we know."""
        myself = connection.submit("SENTINEL", "MYID")
        others = connection.submit("SENTINEL", "SENTINELS", self._primary)
        try:
            found = await myself.reply()
            self.run_id = found.decode("ascii", "replace") if isinstance(found, bytes) else ""
            self.known = known_sentinels(await others.reply())
        except (RedisError, UnreadableAnswerError):
            self.known = []

    def _on_push(self, message: list[Any]) -> None:
        if is_switch(message, self._primary):
            self._on_switch()

    def _note(self, problem: Problem | None) -> None:
        """Take note of a problem, or that there is none; each is told once."""
        now = trio.current_time()
        self.problem = problem
        if problem is None:
            if self._told is not None:
                self._tell(SentinelUsable(self.label, now - self._since))
            self._told, self._since = None, now
        elif problem != self._told and (self.is_configured or self.has_answered):
            self._told = problem
            self._tell(SentinelUnusable(self.label, problem))


class SentinelWatches:
    """All sentinels: those of the settings, and those that they name."""

    def __init__(self, *, on_news: Callable[[], None], on_event: Callable[[SentinelEvent], None]) -> None:
        """Begin without any; see `use`. The arguments are those of `SentinelWatch`."""
        self._on_news = on_news
        self._on_event = on_event
        self._deployment: Deployment | None = None
        self._watches: dict[Address, tuple[SentinelWatch, trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None

    def use(self, deployment: Deployment) -> None:
        """Ask the sentinels of `deployment` from now on, and no others."""
        for address in list(self._watches):
            self._drop(address)
        self._deployment = deployment
        if self._nursery is not None:
            for address in deployment.nodes[:MAX_SENTINELS]:
                self._add(self._nursery, address, is_configured=True)

    async def run(self) -> None:
        """Stay connected to all until cancelled; may be run again after that."""
        try:
            async with trio.open_nursery() as self._nursery:
                if self._deployment is not None:
                    self.use(self._deployment)
                await trio.sleep_forever()
        finally:
            self._nursery = None

    @property
    def all(self) -> tuple[SentinelWatch, ...]:
        """Those that count: a sentinel that another one named, and that never answered, does not."""
        watches = (watch for watch, _scope in self._watches.values())
        return tuple(watch for watch in watches if watch.is_configured or watch.has_answered)

    @property
    def answers(self) -> list[NamedPrimary]:
        """What each sentinel says of the primary that says anything."""
        return [watch.answer for watch in self.all if watch.answer is not None]

    @property
    def are_all_tried(self) -> bool:
        """Whether each has answered something, or could not be reached."""
        watches = self.all
        return bool(watches) and all(watch.answer or watch.problem for watch in watches)

    def problems(self) -> tuple[Problem, ...]:
        """Return what is the matter with each sentinel that is of no use, with its address."""
        return tuple(
            msgspec.structs.replace(
                watch.problem, cause=f"the sentinel at {watch.label}: {watch.problem.cause}"
            )
            for watch in self.all
            if watch.problem is not None
        )

    def ask(self) -> None:
        """Ask all at once."""
        for watch, _scope in self._watches.values():
            watch.ask()

    def compare(self, used: Address | None, epoch: int) -> None:
        """Find out who disagrees with the primary that is used; take in the sentinels that they name."""
        for watch in self.all:
            watch.compare(used, epoch)
        self._take_in([each for watch in self.all for each in watch.known])

    def _take_in(self, known: Collection[KnownSentinel]) -> None:
        if self._nursery is None or not self.are_all_tried:
            return
        listed = {each.run_id for each in known}
        own = {watch.run_id for watch, _scope in self._watches.values() if watch.is_configured}
        for address, (watch, _scope) in list(self._watches.items()):
            is_gone = watch.answer is None and watch.problem is not None and watch.run_id not in listed
            # Or it is another address of one that the settings name.
            if not watch.is_configured and (is_gone or watch.run_id in own):
                self._drop(address)
        ids = {watch.run_id for watch, _scope in self._watches.values()}
        for each in known:
            if each.run_id not in ids and len(self._watches) < MAX_SENTINELS:
                ids.add(each.run_id)
                self._add(self._nursery, each.address, is_configured=False, run_id=each.run_id)

    def _add(self, nursery: trio.Nursery, address: Address, *, is_configured: bool, run_id: str = "") -> None:
        deployment = self._deployment
        if deployment is None or address in self._watches:
            return
        watch = SentinelWatch(
            deployment.sentinel_at(*address),
            deployment.primary_name,
            is_configured=is_configured,
            run_id=run_id,
            on_news=self._on_news,
            on_switch=self.ask,
            on_event=self._on_event,
        )
        scope = trio.CancelScope()
        self._watches[address] = (watch, scope)
        nursery.start_soon(_run_in, scope, watch)

    def _drop(self, address: Address) -> None:
        _watch, scope = self._watches.pop(address)
        scope.cancel()


async def _run_in(scope: trio.CancelScope, watch: SentinelWatch) -> None:
    with scope:
        await watch.run()


def _label(address: Address) -> str:
    return Target(host=address[0], port=address[1]).label

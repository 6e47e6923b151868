"""Calls of a client that one script serves are one request, and each has its own reply, or its own error."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import turns
from redstreamd.errors.defects import Defect
from redstreamd.policy import Principal
from redstreamd.redisio import Role, pipeline
from redstreamd.redisio.client import Redis
from redstreamd.redisio.joint_calls import MAX_CALLS, MAX_WEIGHT
from redstreamd.redisio.redis_errors import QueueFull, ReplyLost
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import JoinableCall, PackedCommand, Script, ScriptCall, Write
from redstreamd.redisio.target import Target
from redstreamd.redisio.topologies import Deployment, topology_for
from redstreamd.redisio.work_window import COMMAND_SECONDS
from tests.redisio.running import running_topology, through
from tests.support.proxy import proxy_to
from tests.support.servers import Server
from tests.support.waiting import until

pytestmark = pytest.mark.limit(60)

#: Appends what it gets to a list, and returns it with its place there.
_APPEND = Script(
    "local places = {} "
    "for index = 1, #ARGV do places[index] = {ARGV[index], redis.call('RPUSH', KEYS[1], ARGV[index])} end "
    "return places"
)


def _join(terms: tuple[Any, ...], parts: Sequence[str]) -> ScriptCall:
    return ScriptCall(_APPEND, [terms[0]], list(parts))


def _call(key: str, part: str, *, weight: int = 1, term: str = "") -> JoinableCall:
    return JoinableCall((key,), (key, term), part, weight, _join, lambda _parts, reply: reply)


def _written(server: Server, key: str = "l") -> list[bytes]:
    reply: list[bytes] = server.command("LRANGE", key, "0", "-1")
    return reply


def _scripts(server: Server) -> int:
    stats = server.command("INFO", "commandstats").decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


def _account(number: int = 1) -> Account:
    return Accounts().open(Principal("me", "unix"), Peer(1000, number), str(number))


class _Asked:
    """Calls of one pass, and what they were told."""

    def __init__(self, redis: Redis, account: Account | None = None) -> None:
        self.told: dict[str, Any] = {}
        self._redis = redis
        self.account = account

    def ask(self, part: str, key: str = "l", **options: Any) -> Request:
        turns().work_for(self.account)
        try:
            return self._redis.queues[Role.COMMAND].submit(
                _call(key, part, **options), lambda reply: self.told.update({part: reply}), key
            )
        finally:
            turns().work_for(None)

    async def answers(self, count: int) -> dict[str, Any]:
        await until(lambda: len(self.told) >= count, every=0.001)
        return self.told


@contextlib.asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[Redis]:
    async with running_topology(topology_for(Deployment(target))) as redis:
        # Known by its digest from here on.
        await redis.run_script(_APPEND, ["known"], [], retry_safe=True)
        yield redis


async def test_calls_of_a_pass_are_one_request_in_their_order_and_each_has_its_reply(redis: Server) -> None:
    async with _connected(Target(path=redis.path)) as client:
        before, asked = _scripts(redis), _Asked(client, _account())
        requests = [asked.ask(str(number)) for number in range(2 * MAX_CALLS)]
        told = await asked.answers(len(requests))
        assert all(request.sent for request in requests)
        assert told == {str(number): [str(number).encode(), number + 1] for number in range(2 * MAX_CALLS)}
        assert _scripts(redis) == before + 2
        # Also for tasks, which wait for the reply.
        first, second = (
            client.queues[Role.COMMAND].submit(_call("l", part), None, "l") for part in ("a", "b")
        )
        assert [await first.reply(), await second.reply()] == [[b"a", 33], [b"b", 34]]
        assert _scripts(redis) == before + 3


async def test_what_differs_is_not_joined_and_one_place_keeps_its_order(redis: Server) -> None:
    async with _connected(Target(path=redis.path)) as client:
        before = _scripts(redis)
        mine, others = _Asked(client, _account(1)), _Asked(client, _account(2))
        mine.ask("a")
        others.ask("x", key="m")
        mine.ask("b", term="other")
        mine.ask("c")
        mine.ask("d", key="m")
        await mine.answers(4)
        await others.answers(1)
        assert [_written(redis), _written(redis, "m")] == [[b"a", b"b", b"c"], [b"x", b"d"]]
        assert _scripts(redis) == before + 5
        # No request is about more entries than one call may be.
        mine.ask("e", weight=MAX_WEIGHT // 2 + 1)
        mine.ask("f", weight=MAX_WEIGHT // 2 + 1)
        await mine.answers(6)
        assert _scripts(redis) == before + 7


async def test_a_command_of_another_kind_follows_what_was_asked_before_it(redis: Server) -> None:
    async with _connected(Target(path=redis.path)) as client:
        before, asked, read = _scripts(redis), _Asked(client), list[Any]()
        others = _Asked(client, _account())
        asked.ask("a")
        others.ask("x", key="m")
        client.queues[Role.COMMAND].submit(("LRANGE", "l", "0", "-1"), read.append, "l")
        # Somebody else's command is no matter of theirs.
        others.ask("y", key="m")
        asked.ask("b")
        # An entry that is added does not keep calls from being joined.
        added = PackedCommand("XADD", b"*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\nf\r\n$1\r\nv\r\n")
        client.queues[Role.COMMAND].submit(added, read.append, "s")
        asked.ask("c")
        await asked.answers(3)
        await others.answers(2)
        assert (read[0], len(read)) == ([b"a"], 2)
        assert [_written(redis), _written(redis, "m")] == [[b"a", b"b", b"c"], [b"x", b"y"]]
        assert _scripts(redis) == before + 3


async def test_a_call_that_is_taken_back_before_it_is_sent_leaves_no_trace(redis: Server) -> None:
    async with _connected(Target(path=redis.path)) as client:
        before, asked = _scripts(redis), _Asked(client)
        first, _, third = (asked.ask(part) for part in "abc")
        assert first.take_back()
        assert third.take_back()
        lone = asked.ask("z", key="m")
        assert lone.take_back()
        told = await asked.answers(1)
        assert told == {"b": [b"b", 1]}
        assert [_written(redis), _written(redis, "m")] == [[b"b"], []]
        assert _scripts(redis) == before + 1
        # Also a task that is cancelled.
        with trio.move_on_after(0):
            await client.queues[Role.COMMAND].submit(_call("l", "t"), None, "l").reply()
        sent = asked.ask("d")
        await asked.answers(2)
        assert not sent.take_back()
        assert _written(redis) == [b"b", b"d"]


async def test_a_call_that_waits_for_its_turn_leaves_those_that_it_was_joined_with(redis: Server) -> None:
    async with _connected(Target(path=redis.path)) as client:
        asked = _Asked(client, _account())
        # More work than may be at the server: what follows is deferred.
        behind = [asked.ask("x" * 40_000 + str(number)) for number in range(4 * MAX_CALLS)]
        kept, left = asked.ask("kept"), asked.ask("left")
        await trio.lowlevel.checkpoint()
        assert not left.sent
        assert left.take_back()
        told = await asked.answers(len(behind) + 1)
        assert told["kept"][0] == b"kept"
        assert kept.sent
        assert b"left" not in _written(redis)


@pytest.mark.parametrize("is_deferred", [True, False], ids=["deferred", "queued"])
async def test_those_whose_partner_is_taken_back_keep_their_place(redis: Server, is_deferred: bool) -> None:
    async with _connected(Target(path=redis.path)) as client:
        # What is the daemon's own is not deferred.
        asked = _Asked(client, _account() if is_deferred else None)
        for _ in range(60):
            asked.ask("x" * 40_000, key="big")
        parts = ["left" * 20_000, "kept", "also left", "kept, too"]
        requests = [asked.ask(part) for part in parts]
        turns().work_for(asked.account)
        client.queues[Role.COMMAND].submit(
            ScriptCall(_APPEND, ["l"], ["later"]), lambda _: asked.told.update(later=None), "l"
        )
        turns().work_for(None)
        queue = requests[0].pipeline
        assert bool(queue.deferred) == is_deferred
        before = queue.queued, queue.queued_bytes
        waiting = 0 if asked.account is None else asked.account.queued
        assert requests[2].take_back()
        assert requests[0].take_back()
        assert queue.queued == before[0]
        assert 80_000 < before[1] - queue.queued_bytes < 80_100
        if asked.account is not None:
            # Each call counts, and so does each 64 KiB.
            assert waiting - asked.account.queued == 3
        lone = asked.ask("lone")
        client.queues[Role.COMMAND].submit(("PING",), lambda _: None, "l")
        assert lone.take_back()
        assert {*await asked.answers(4)} >= {"kept", "kept, too", "later"}
        assert _written(redis) == [b"kept", b"kept, too", b"later"]
        assert (queue.queued, queue.queued_bytes) == (0, 0)
        if asked.account is not None:
            assert (asked.account.queued, asked.account.running) == (0, 0)


async def test_calls_that_cannot_be_queued_are_told_when_nobody_submits(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _connected(Target(path=redis.path)) as client:
        told, submitting = list[tuple[bool, Any]](), False

        def submit(write: Write, key: str = "l") -> None:
            nonlocal submitting
            submitting = True
            client.queues[Role.COMMAND].submit(write, lambda reply: told.append((submitting, reply)), key)
            submitting = False

        # One by itself, those that make a request full, and some that another kind of command has queued.
        monkeypatch.setattr(pipeline, "MAX_REQUESTS", 0)
        submit(_call("l", "first", term="other"))
        for number in range(MAX_CALLS + 2):
            submit(_call("l", str(number)))
        gone = client.queues[Role.COMMAND].submit(
            _call("l", "gone"), lambda reply: told.append((False, reply)), "l"
        )
        with pytest.raises(QueueFull):
            submit(("PING",))
        submitting = False
        assert not told
        assert gone.take_back()
        await until(lambda: len(told) == MAX_CALLS + 3, every=0.001)
        assert all(not during and isinstance(reply, QueueFull) for during, reply in told)
        await trio.testing.wait_all_tasks_blocked()
        assert len(told) == MAX_CALLS + 3


def _raise(*_args: object) -> Any:
    raise ValueError("a defect")


def _join_two(terms: tuple[Any, ...], parts: Sequence[str]) -> ScriptCall:
    return _join(terms, parts) if len(parts) == 2 else _raise()


_DEFECTS: dict[str, dict[str, Any]] = {
    "join": {"join": _raise},
    "split": {"split": _raise},
    "too few": {"split": lambda _parts, reply: reply[1:]},
    "divided": {"join": _join_two},
}


@pytest.mark.parametrize("where", list(_DEFECTS))
async def test_a_defect_of_calls_that_are_joined_is_told_to_each_and_touches_no_others(
    redis: Server, defects: list[Defect], where: str
) -> None:
    async with _connected(Target(path=redis.path)) as client:
        told = dict[str, Any]()

        def submit(call: JoinableCall) -> Request:
            return client.queues[Role.COMMAND].submit(
                call, lambda reply: told.update({call.part: reply}), "l"
            )

        for part in "ab":
            first = submit(msgspec.structs.replace(_call("l", part), **_DEFECTS[where]))
        submit(_call("m", "other"))
        told_of = 3
        if where == "divided":
            client.queues[Role.COMMAND].submit(("PING",), lambda _reply: None, "l")
            assert first.take_back()
            told_of = 2
        await until(lambda: len(told) == told_of, every=0.001)
        assert told.pop("other") == [b"other", 1]
        assert {type(reply) for reply in told.values()} == {ValueError}
        assert [type(defect.error) for defect in defects] == [ValueError]
        executed = [b"a", b"b"] if where in ("split", "too few") else []
        assert _written(redis) == executed
        defects.clear()


async def test_what_serves_many_calls_is_taken_for_more_work(redis: Server) -> None:
    async with _connected(Target(path=redis.path)) as client:
        parts, told, served = [f"{number:02}" for number in range(MAX_CALLS)], list[Any](), turns()
        served.work_for(_account())
        begin = served.redis_seconds
        client.queues[Role.COMMAND].submit(ScriptCall(_APPEND, ["l"], parts), told.append, "l")
        as_one = served.redis_seconds - begin
        # The last one makes the request full.
        for part in parts:
            client.queues[Role.COMMAND].submit(_call("l", part), told.append, "l")
        joined = served.redis_seconds - begin - as_one
        served.work_for(None)
        assert joined - as_one == pytest.approx((MAX_CALLS - 1) * COMMAND_SECONDS)
        await until(lambda: len(told) == 1 + MAX_CALLS, every=0.001)


async def test_an_error_and_a_lost_reply_are_told_to_each_call(redis: Server) -> None:
    async with proxy_to(redis.path) as proxy, _connected(through(proxy)) as client:
        redis.command("SET", "l", "no list")
        asked = _Asked(client)
        for part in "ab":
            asked.ask(part)
        told = await asked.answers(2)
        assert all("WRONGTYPE" in str(error) for error in told.values())
        proxy.to_client.hold()
        lost = [asked.ask(part, key="m") for part in "cd"]
        await until(lambda: len(_written(redis, "m")) == 2, every=0.001)
        proxy.cut()
        told = await asked.answers(4)
        assert all(isinstance(told[part], ReplyLost) for part in "cd")
        assert all(request.sent for request in lost)

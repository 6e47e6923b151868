"""Subscriptions end to end: clients of both eras on a daemon's socket, changes made by others in Redis."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from typing import Any

import pytest
import trio
from mcp.client.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import ResourceUpdatedNotification

from redstreamd.presentation.uris import entry_uri, group_uri, stream_uri
from tests.daemon.test_many_waiters import connections, watched
from tests.support.counts import counts
from tests.support.daemon import Daemon, hasty, running_daemon
from tests.support.mcp_client import EraName, RawClient, connected, raw_client
from tests.support.servers import Server
from tests.support.waiting import until

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
ID = "io.modelcontextprotocol/subscriptionId"
UPDATED = "notifications/resources/updated"

#: A daemon that finds soon what nobody announces.
SOON = hasty("redstreamd.streams.subscriptions.topics", "poll_seconds", "GroupTopic.pace", "ListTopic.pace")

# The SDK's client warns that the handshake era's requests are going to go; they are what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")


async def listen(raw: RawClient, request_id: str = "l", **wanted: Any) -> dict[str, Any]:
    """Open a listen and return its first message."""
    await raw.send(raw.request("subscriptions/listen", {"notifications": wanted}, request_id=request_id))
    return await raw.receive()


async def subscribe(raw: RawClient, *uris: str) -> None:
    """Subscribe in the client's era."""
    if raw.era == "modern":
        assert (await listen(raw, resourceSubscriptions=list(uris)))["params"]["notifications"]
    else:
        for uri in uris:
            assert "result" in await raw.call("resources/subscribe", {"uri": uri})


async def health(daemon: Daemon) -> dict[str, Any]:
    """Return what the daemon says of itself, over a connection of its own."""
    async with raw_client(daemon.path, era="modern") as raw:
        answer = await raw.call("resources/read", {"uri": "redstream://health"})
    report: dict[str, Any] = json.loads(answer["result"]["contents"][0]["text"])
    return report


async def test_a_client_of_the_handshake_era_is_told_of_an_entry(redis: Server) -> None:
    told_of, listened = trio.open_memory_channel[str](100)

    async def note(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            await told_of.send(message.params.uri)

    # Addresses come back as they were given, however they were escaped.
    uris = [stream_uri("a:b"), "redstream://streams/a:b", "redstream://streams/%61%3ab"]
    with running_daemon(redis) as daemon:
        async with told_of, connected(daemon.path, era="handshake", message_handler=note) as client:
            for uri in uris:
                await client.subscribe_resource(uri)
            redis.cli("XADD", "a:b", "*", "f", "v")
            assert {await listened.receive() for _ in uris} == set(uris)
            for uri in uris[1:]:
                await client.unsubscribe_resource(uri)
            redis.cli("XADD", "a:b", "*", "f", "v")
            assert await listened.receive() == uris[0]


async def test_a_client_of_2026_07_28_is_told_of_an_entry_and_of_a_new_stream(redis: Server) -> None:
    with running_daemon(redis, program=SOON) as daemon:
        async with connected(daemon.path, era="modern") as client:
            uri = stream_uri("a:b")
            async with client.listen(resources_list_changed=True, resource_subscriptions=[uri]) as told:
                assert told.honored.resource_subscriptions == [uri]
                assert told.honored.resources_list_changed
                redis.cli("XADD", "a:b", "*", "f", "v")
                # The name is found by the next look through all names.
                events = [await anext(told), await anext(told)]
                assert ResourceUpdated(uri) in events
                assert ResourcesListChanged() in events


async def test_a_listen_is_acknowledged_first_and_with_what_it_will_be_told_of(redis: Server) -> None:
    """2026-07-28, basic/patterns/subscriptions, "Acknowledgment" and "Receiving Notifications"."""
    honored = [stream_uri("s"), group_uri("s", "g"), "redstream://streams"]
    others = ["redstream://health", entry_uri("s", "1-1"), "redstream://streams/", "file:///x", ""]
    with running_daemon(redis) as daemon:
        async with raw_client(daemon.path, era="modern") as raw:
            first = await listen(
                raw,
                toolsListChanged=True,
                promptsListChanged=True,
                resourcesListChanged=True,
                resourceSubscriptions=[*others, *honored, *honored],
            )
            assert first == {
                "jsonrpc": "2.0",
                "method": "notifications/subscriptions/acknowledged",
                "params": {
                    "_meta": {ID: "l"},
                    "notifications": {
                        "toolsListChanged": True,
                        "promptsListChanged": True,
                        "resourcesListChanged": True,
                        "resourceSubscriptions": honored,
                    },
                },
            }
            second = await listen(raw, "empty")
            assert second["params"] == {"_meta": {ID: "empty"}, "notifications": {}}


async def test_nobody_is_told_what_he_did_not_ask_for(redis: Server) -> None:
    """2026-07-28, "Opening a Stream": MUST NOT send types that were not requested; each carries its id."""
    with running_daemon(redis) as daemon:
        async with raw_client(daemon.path, era="modern") as raw:
            await listen(raw, "one", resourceSubscriptions=[stream_uri("a")])
            await listen(raw, "two", resourceSubscriptions=[stream_uri("b")])
            async with raw_client(daemon.path, initialize=True) as bystander:
                redis.command("XADD", "other", "*", "f", "v")
                for name, request_id in (("b", "two"), ("a", "one")):
                    redis.command("XADD", name, "*", "f", "v")
                    message = await raw.receive()
                    assert message["method"] == UPDATED
                    assert message["params"] == {"uri": stream_uri(name), "_meta": {ID: request_id}}
                await bystander.call("ping")
                assert bystander.passed_over == []
            # No era has the other's requests.
            answer = await raw.call("resources/subscribe", {"uri": stream_uri("a")})
            assert answer["error"]["code"] == -32601
        async with raw_client(daemon.path, initialize=True) as raw:
            answer = await raw.call("subscriptions/listen", {"notifications": {}})
            assert answer["error"]["code"] == -32601


@pytest.mark.limit(120)
async def test_a_thousand_subscribers_cost_no_redis_connection_and_only_the_right_ones_are_told(
    redis: Server,
) -> None:
    count, streams = 1_000, 100
    told: Counter[str] = Counter()
    with running_daemon(redis, "--set", "limits.max_connections=2000") as daemon:
        async with trio.open_nursery() as nursery:

            async def follow(number: int, *, task_status: trio.TaskStatus[None]) -> None:
                era: EraName = "modern" if number % 2 else "handshake"
                uri = stream_uri(f"s{number % streams}")
                async with raw_client(daemon.path, era=era, initialize=era == "handshake") as raw:
                    await subscribe(raw, uri)
                    task_status.started()
                    while True:
                        message = await raw.receive()
                        assert message["params"]["uri"] == uri
                        told[uri] += 1

            await nursery.start(follow, 0)
            await watched(redis, 1)
            alone = len(connections(redis))
            for number in range(1, count):
                await nursery.start(follow, number)
            await watched(redis, streams)
            assert len(connections(redis)) == alone <= 3
            report = (await health(daemon))["subscriptions"]
            assert (report["topics"], report["subscriptions"]) == (streams, count)
            looks = report["looks"]
            began = trio.current_time()

            for number in (7, 8):
                redis.cli("XADD", f"s{number}", "*", "f", "v")
            await until(lambda: told.total() >= 20)
            # One more, so that whoever was told by mistake has been heard of by then.
            redis.cli("XADD", "s9", "*", "f", "v")
            await until(lambda: told.total() >= 30)
            assert told == {stream_uri(f"s{number}"): 10 for number in (7, 8, 9)}
            # One look for each change, not one for each subscriber. Each stream is also looked at every 5 s
            # without any, and whenever the hub sweeps.
            rounds = 2 + (trio.current_time() - began) / 5
            assert (await health(daemon))["subscriptions"]["looks"] - looks <= 3 * 3 + rounds * streams
            nursery.cancel_scope.cancel()
        await until_nothing_is_kept(daemon)


async def until_nothing_is_kept(daemon: Daemon) -> None:
    while True:
        report = await health(daemon)
        if report["subscriptions"]["topics"] == report["waiting"]["watches"] == 0:
            return


class Reader:
    """Reads from a cursor of its own whenever it is told, and counts."""

    def __init__(self, raw: RawClient, stream: str) -> None:
        self.raw = raw
        self.stream = stream
        self.cursor = "0-0"
        self.ids: list[str] = []
        self.updates = 0

    async def follow(self, last: list[str]) -> None:
        """Read on after each update until the last entry, once it is known, was read."""
        while not last or self.ids[-1:] != last:
            if self.raw.passed_over:
                self.raw.passed_over.clear()
            else:
                assert (await self.raw.receive())["method"] == UPDATED
            self.updates += 1
            await self.read()

    async def read(self) -> None:
        more = True
        while more:
            arguments = {"stream": self.stream, "cursor": self.cursor, "count": 100}
            answer = (await self.raw.call_tool("stream_read", arguments))["result"]["structuredContent"]
            self.ids += [entry["id"] for entry in answer["entries"]]
            self.cursor, more = answer["next_cursor"], answer["has_more"]


@ERAS
@pytest.mark.limit(60)
async def test_a_burst_is_few_updates_and_the_last_entry_is_followed_by_one(
    redis: Server, era: EraName
) -> None:
    added: list[str] = []
    last: list[str] = []
    with running_daemon(redis) as daemon:
        async with raw_client(daemon.path, era=era, initialize=era == "handshake") as raw:
            redis.command("XADD", "s", "1-1", "f", "v")
            added.append("1-1")
            await subscribe(raw, stream_uri("s"))
            reader = Reader(raw, "s")
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.follow, last)
                for _ in range(100):
                    batch = redis.commands(*[["XADD", "s", "*", "f", "v"]] * 20)
                    added += [entry_id.decode() for entry_id in batch]
                    await trio.lowlevel.checkpoint()
                last.append(added[-1])
                # If the last update had come before the mark was set: one more, for which all the same holds.
                added.append(redis.command("XADD", "s", "*", "f", "v").decode())
                last[:] = added[-1:]
            took = trio.current_time() - began
    assert reader.ids == added
    # At most ten a second, the first at once; 2,001 entries would be as many updates.
    assert 1 <= reader.updates <= 2 + took / 0.1


@ERAS
@pytest.mark.parametrize("kills", counts(3, ci=25, full=100))
@pytest.mark.limit(150, kills=3)
async def test_nothing_is_missed_while_the_watch_connection_is_killed_again_and_again(
    redis: Server, era: EraName, kills: int
) -> None:
    rng = random.Random(11)
    added: list[str] = []
    last: list[str] = []
    killed = 0
    with running_daemon(redis) as daemon:
        async with raw_client(daemon.path, era=era, initialize=era == "handshake") as raw:
            await subscribe(raw, stream_uri("s"))
            reader = Reader(raw, "s")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.follow, last)
                while killed < kills or len(added) < 10 * kills:
                    added.append(redis.command("XADD", "s", "*", "n", len(added)).decode())
                    if rng.random() < 0.2:
                        for client in connections(redis, "redstreamd:watch"):
                            killed += redis.command("CLIENT", "KILL", "ID", client["id"]) == 1
                    await trio.sleep(rng.uniform(0, 0.02))
                # The last one is added with the connection killed, and nothing follows it.
                for client in connections(redis, "redstreamd:watch"):
                    redis.command("CLIENT", "KILL", "ID", client["id"])
                added.append(redis.command("XADD", "s", "*", "n", "last").decode())
                last.append(added[-1])
    assert killed >= kills
    assert reader.ids == added


@ERAS
async def test_a_group_is_told_of_what_other_programs_do(redis: Server, era: EraName) -> None:
    redis.commands(["XADD", "s", "*", "f", "v"], ["XGROUP", "CREATE", "s", "g", "0"])
    uri = group_uri("s", "g")
    with running_daemon(redis, program=SOON) as daemon:
        async with raw_client(daemon.path, era=era, initialize=era == "handshake") as raw:
            await subscribe(raw, uri)
            ((_, ((entry_id, _),)),) = redis.command("XREADGROUP", "GROUP", "g", "w", "STREAMS", "s", ">")
            assert (await raw.receive())["params"]["uri"] == uri
            redis.command("XACK", "s", "g", entry_id)
            assert (await raw.receive())["params"]["uri"] == uri


async def test_a_daemon_that_stops_ends_listens_gracefully(redis: Server) -> None:
    """2026-07-28, schema, SubscriptionsListenResult: the result says that the end was on purpose."""
    # Whoever waited for the deadline of the drain would wait for longer than this test does.
    with running_daemon(redis, "--set", "daemon.drain_seconds=60") as daemon:
        async with (
            raw_client(daemon.path, era="modern") as raw,
            raw_client(daemon.path, initialize=True) as session,
            connected(daemon.path, era="modern") as client,
        ):
            await listen(raw, resourceSubscriptions=[stream_uri("s")])
            await listen(raw, "nothing")
            await subscribe(session, stream_uri("s"))
            async with client.listen(resource_subscriptions=[stream_uri("s")]) as told:
                daemon.process.send_signal(signal.SIGTERM)
                answers = {message["id"]: message["result"] for message in await raw.receive_rest()}
                # The SDK's client takes it for a graceful end, where it would raise otherwise.
                assert [event async for event in told] == []
            assert set(answers) == {"l", "nothing"}
            for request_id, result in answers.items():
                assert result["_meta"][ID] == request_id
                assert result["resultType"] == "complete"
            assert await session.receive_rest() == []

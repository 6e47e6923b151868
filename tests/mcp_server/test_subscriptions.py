"""Subscriptions in the test's own process, where the state kept for a subscriber can be inspected."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcp_server.update_lines import CURSORS_KEY
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.presentation.uris import entry_uri, group_uri, stream_uri
from redstreamd.streams.bus import Bus
from redstreamd.streams.subscriptions.topics import GroupTopic, ListTopic, Pace, StreamTopic
from tests.mcpio.serving import socket_pair
from tests.resources.serving import Surface, running_surface
from tests.support.limits import Deferred
from tests.support.mcp_client import EraName, RawClient
from tests.support.servers import Server
from tests.support.waiting import until

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
ID = "io.modelcontextprotocol/subscriptionId"
URI = stream_uri("s")


class Following:
    """A client that subscribes, in either era, and reads notifications."""

    def __init__(self, raw: RawClient, connection: ClientConnection, stream: trio.SocketStream) -> None:
        self.raw = raw
        self.connection = connection
        self.stream = stream

    async def subscribe(self, *uris: str, listing: bool = False) -> None:
        """Subscribe and return once it is acknowledged."""
        if self.raw.era == "modern":
            wanted: dict[str, Any] = {"resourceSubscriptions": list(uris)}
            if listing:
                wanted["resourcesListChanged"] = True
            await self.raw.send(
                self.raw.request("subscriptions/listen", {"notifications": wanted}, request_id="listen")
            )
            message = await self.raw.receive()
            assert message["method"] == "notifications/subscriptions/acknowledged"
            return
        for uri in uris:
            assert "result" in await self.raw.call("resources/subscribe", {"uri": uri})
        if listing:
            assert "result" in await self.raw.call("resources/list")

    async def told(self) -> str:
        """Return the URI of the next update, or the method of another notification."""
        message = await self.raw.receive()
        if self.raw.era == "modern":
            assert message["params"]["_meta"][ID] == "listen"
        return str((message.get("params") or {}).get("uri", message["method"]))


@asynccontextmanager
async def following(surface: Surface, era: EraName) -> AsyncIterator[Following]:
    ours, theirs = socket_pair()
    async with theirs:
        connection = await surface.serve(ours)
        raw = RawClient(theirs, era=era)
        if era == "handshake":
            await raw.initialize()
        yield Following(raw, connection, ours)


@pytest.fixture
def surface(request: pytest.FixtureRequest, redis: Server) -> Deferred[Surface]:
    """All that a daemon serves, on an empty Redis. A read that took long does not delay the next poll."""
    marker = request.node.get_closest_marker("paces")
    return Deferred(running_surface(redis, paces=marker.args[0] if marker else None, poll_share=0))


#: The list is polled often.
LISTED_OFTEN = pytest.mark.paces({ListTopic: Pace(pause_seconds=0.0, poll_seconds=0.05)})


async def until_nothing_is_kept(surface: Surface) -> None:
    updates, hub = surface.updates, surface.bus.hub
    await until(lambda: updates.statistics().subscriptions == hub.statistics().watches == 0)


@ERAS
@LISTED_OFTEN
async def test_nothing_is_left_behind_however_a_subscription_ends(
    surface: Surface, redis: Server, era: EraName
) -> None:
    async with following(surface, era) as client:
        await client.subscribe(URI, group_uri("s", "g"), listing=True)
        assert surface.updates.statistics().topics == 3
        assert surface.bus.hub.statistics().watches == 3
        if era == "modern":
            await client.raw.cancel("listen")
        else:
            await client.raw.call("resources/unsubscribe", {"uri": URI})
            assert surface.updates.statistics().topics == 2
            await client.raw.call("resources/unsubscribe", {"uri": group_uri("s", "g")})
            redis.command("XADD", "s", "*", "f", "v")
            assert await client.told() == "notifications/resources/list_changed"
        await until_nothing_is_kept(surface)
        # The connection stays open, and can subscribe again.
        await client.subscribe(URI)
        redis.command("XADD", "s", "*", "f", "v")
        assert await client.told() == URI
    # It disconnected without unsubscribing.
    await until_nothing_is_kept(surface)
    assert surface.updates.subscribers == 0


async def test_subscribing_and_unsubscribing_take_effect_in_the_order_in_which_they_were_sent(
    surface: Surface,
) -> None:
    """However close they follow one another."""
    async with following(surface, "handshake") as client:
        raw = client.raw
        for number in range(20):
            uri = stream_uri(f"s{number}")
            methods = ["subscribe", "unsubscribe", "subscribe", "unsubscribe"]
            if number % 2:
                methods.append("subscribe")
            lines = [raw.request(f"resources/{method}", {"uri": uri}) for method in methods]
            await raw.send(*lines)
            answered = [(await raw.receive())["id"] for _ in lines]
            assert answered == [line["id"] for line in lines]
            stated = client.connection.state().subscriptions
            assert (uri in stated) is bool(number % 2)
            assert surface.updates.statistics().subscriptions == len(stated)
        # What waits for its turn can be cancelled, and the next one does not wait for it.
        await raw.send(raw.request("resources/subscribe", {"uri": URI}, request_id="a"))
        await raw.send(raw.request("resources/unsubscribe", {"uri": URI}, request_id="b"))
        await raw.cancel("b")
        assert "result" in await raw.call("resources/subscribe", {"uri": URI})


@ERAS
@pytest.mark.limit(60)
async def test_a_subscriber_that_does_not_read_costs_no_more_than_one_that_does(
    surface: Surface, redis: Server, era: EraName
) -> None:
    uris = [stream_uri(f"s{number}") for number in range(50)]
    end = stream_uri("end")
    async with following(surface, era) as slow, following(surface, era) as quick:
        await slow.subscribe(*uris, end)
        await quick.subscribe(*uris)
        await surface.settled(51)
        # So that the connection's own outbox has to take what the peer does not.
        slow.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        most = 0
        for _ in range(15):
            redis.commands(*[["XADD", f"s{number}", "*", "f", "v"] for number in range(50)])
            seen = {await quick.told() for _ in uris}
            assert seen == set(uris)
            most = max(most, slow.connection.statistics().outbox_bytes)
        # Shown: what waits for it is one round of updates at most, not fifteen.
        assert 0 < most < 50 * 200
        redis.command("XADD", "end", "*", "f", "v")
        told = set()
        while (uri := await slow.told()) != end:
            told.add(uri)
        assert told == set(uris)
        # And then it hears of what happens next.
        redis.command("XADD", "s7", "*", "f", "v")
        assert await slow.told() == uris[7]


@ERAS
async def test_a_successor_tells_what_happened_while_nobody_served(redis: Server, era: EraName) -> None:
    redis.command("XADD", "s", "1-1", "f", "v")
    other = stream_uri("other")
    ours, theirs = socket_pair()
    async with theirs:
        raw = RawClient(theirs, era=era)
        async with running_surface(redis) as surface:
            connection = await surface.serve(ours)
            if era == "handshake":
                await raw.initialize()
            client = Following(raw, connection, ours)
            await client.subscribe(URI, other)
            redis.command("XADD", "s", "*", "f", "v")
            assert await client.told() == URI
            state = await connection.hand_over(0.05)
        assert state is not None
        state = ConnectionState.from_json(state.to_json())
        redis.command("XADD", "s", "*", "f", "v")
        async with running_surface(redis) as surface:
            connection = await surface.serve(ours, state)
            # Not acknowledged again, and not notified of what had not changed.
            assert await client.told() == URI
            redis.command("XADD", "other", "*", "f", "v")
            assert await client.told() == other
            if era == "handshake":
                assert set(connection.state().subscriptions) == {URI, other}
            else:
                (listen,) = connection.state().listens
                assert set(listen.cursors) == {URI, other}


@ERAS
async def test_one_who_asks_for_cursors_goes_on_from_them_over_another_connection(
    surface: Surface, redis: Server, era: EraName
) -> None:
    def asking(cursors: object) -> tuple[str, dict[str, Any]]:
        meta = {CURSORS_KEY: cursors}
        if era == "modern":
            return "subscriptions/listen", {"notifications": {"resourceSubscriptions": [URI]}, "_meta": meta}
        return "resources/subscribe", {"uri": URI, "_meta": meta}

    def told(message: dict[str, Any]) -> dict[str, str]:
        cursors: dict[str, str] = (message.get("params") or message["result"])["_meta"][CURSORS_KEY]
        return cursors

    async with following(surface, era) as client:
        method, params = asking({})
        await client.raw.send(client.raw.request(method, params))
        cursors = told(await client.raw.receive())
        assert cursors.keys() == {URI}
        redis.command("XADD", "s", "*", "f", "v")
        update = told(await client.raw.receive())
        assert update.keys() == {URI}
        assert update != cursors
    redis.command("XADD", "s", "*", "f", "v")
    async with following(surface, era) as client:
        method, params = asking(update)
        await client.raw.send(client.raw.request(method, params))
        # It is told at once, and of no other change.
        messages = [await client.raw.receive(), await client.raw.receive()]
        (change,) = (each for each in messages if each.get("method") == "notifications/resources/updated")
        update = told(change)
    async with following(surface, era) as client:
        method, params = asking(update)
        await client.raw.send(client.raw.request(method, params))
        assert told(await client.raw.receive()) == update
        redis.command("XADD", "s", "*", "f", "v")
        assert told(await client.raw.receive()) != update
        # Malformed, they are refused; without them nothing is told.
        for wrong in ([], {URI: 1}):
            method, params = asking(wrong)
            refusal = await client.raw.call(method, params)
            assert refusal["error"]["code"] == -32602
            assert CURSORS_KEY in refusal["error"]["message"]
    if era == "handshake":
        async with following(surface, era) as client:
            assert (await client.raw.call("resources/subscribe", {"uri": URI}))["result"] == {}
            redis.command("XADD", "s", "*", "f", "v")
            assert (await client.raw.receive())["params"] == {"uri": URI}
            # One that is subscribed already, and knows less.
            await client.raw.send(client.raw.request(*asking({URI: "0-1/1/0"})))
            # The answer and the update, in either order.
            both = [await client.raw.receive(), await client.raw.receive()]
            assert [told(each).keys() for each in both] == [{URI}, {URI}]
            assert sum("method" in each for each in both) == 1


async def test_a_listen_is_acknowledged_before_it_is_told_of_what_came_since_its_cursors(
    surface: Surface, redis: Server
) -> None:
    redis.command("XADD", "s", "*", "f", "v")
    known = {URI: "0-1/1/0"}
    params = {"notifications": {"resourceSubscriptions": [URI]}, "_meta": {CURSORS_KEY: known}}
    async with following(surface, "modern") as client:
        # The second finds the version known already.
        for name in ("first", "second"):
            await client.raw.send(client.raw.request("subscriptions/listen", params, request_id=name))
            acknowledged, update = await client.raw.receive(), await client.raw.receive()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            # Until it is told of the change, it knows nothing of that.
            assert acknowledged["params"]["_meta"][CURSORS_KEY] == known
            assert update["params"]["_meta"][CURSORS_KEY].keys() == {URI}
            assert update["params"]["_meta"] != acknowledged["params"]["_meta"]


@ERAS
@pytest.mark.limit(40)
async def test_one_who_subscribes_while_redis_is_away_is_told_when_it_is_back(
    surface: Surface, redis: Server, era: EraName
) -> None:
    async with following(surface, era) as client:
        await surface.bus.redis.ping()
        redis.kill()
        await client.subscribe(URI)
        redis.start()
        redis.command("XADD", "s", "*", "f", "v")
        assert await client.told() == URI


async def test_subscriptions_have_a_limit_that_says_what_to_do(redis: Server) -> None:
    async with (
        running_surface(redis, max_subscriptions=3) as surface,
        following(surface, "handshake") as client,
        following(surface, "modern") as other,
    ):
        await client.subscribe(*[stream_uri(f"s{number}") for number in range(3)])
        refusal = await client.raw.call("resources/subscribe", {"uri": URI})
        assert refusal["error"]["data"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
        assert "limits.max_subscriptions" in refusal["error"]["data"]["next_step"]
        params = {"notifications": {"resourceSubscriptions": [URI]}}
        refusal = await other.raw.call("subscriptions/listen", params)
        assert refusal["error"]["data"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
        # Listing does not fail for it.
        assert "result" in await client.raw.call("resources/list")
        assert surface.updates.statistics().subscriptions == 3


async def test_one_connection_has_a_limit_of_its_own(redis: Server) -> None:
    uris = [stream_uri(f"s{number}") for number in range(3)]
    async with running_surface(redis, max_uris=2) as surface, following(surface, "handshake") as client:
        await client.subscribe(*uris[:2])
        await client.subscribe(uris[0])
        refusal = await client.raw.call("resources/subscribe", {"uri": uris[2]})
        assert refusal["error"]["data"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
        async with following(surface, "modern") as other:
            # As a whole: a client might not look at the acknowledgement for what is left out.
            params = {"notifications": {"resourceSubscriptions": uris}}
            refusal = await other.raw.call("subscriptions/listen", params)
            assert refusal["error"]["data"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
            assert all(refusal["error"]["data"][part] for part in ("cause", "next_step"))
            # What is named twice or cannot be watched counts for nothing.
            await other.subscribe(uris[0], uris[0], "redstream://nothing", uris[1], listing=True)


@pytest.mark.parametrize(
    ("uri", "version", "code"),
    [
        ("redstream://nothing", "2025-11-25", -32002),
        ("redstream://streams/", "2025-06-18", -32002),
        ("redstream://health", "2025-11-25", -32602),
        (entry_uri("s", "1-1"), "2025-11-25", -32602),
    ],
)
async def test_what_does_not_change_cannot_be_subscribed_to(
    surface: Surface, uri: str, version: str, code: int
) -> None:
    ours, theirs = socket_pair()
    async with theirs:
        await surface.serve(ours)
        raw = RawClient(theirs)
        await raw.initialize(version)
        refusal = await raw.call("resources/subscribe", {"uri": uri})
        assert refusal["error"]["code"] == code
        assert refusal["error"]["data"]["uri"] == uri


@ERAS
@LISTED_OFTEN
async def test_the_list_changes_when_a_stream_appears_or_disappears(
    surface: Surface, redis: Server, era: EraName
) -> None:
    changed = "notifications/resources/list_changed"
    async with following(surface, era) as client:
        await client.subscribe(listing=True)
        for command in (["XADD", "s", "*", "f", "v"], ["DEL", "s"]):
            redis.command(*command)
            assert await client.told() == changed
            if era == "handshake":
                # Told once: until it lists again it knows that its list is out of date.
                redis.command("XADD", "more", "*", "f", "v")
                redis.command("DEL", "more")
                assert "result" in await client.raw.call("resources/list")
                assert client.raw.passed_over == []
        # Entries change no list.
        redis.command("XADD", "t", "*", "f", "v")
        assert await client.told() == changed


@ERAS
@pytest.mark.parametrize("learns", ["by subscribing", "by listing"])
@pytest.mark.paces({ListTopic: Pace(pause_seconds=0.0, poll_seconds=0.5)})
async def test_a_stream_that_comes_and_goes_between_two_looks_is_told_to_who_saw_it(
    surface: Surface, redis: Server, era: EraName, learns: str
) -> None:
    changed = "notifications/resources/list_changed"
    async with following(surface, "modern") as earlier, following(surface, era) as late:
        await earlier.subscribe(listing=True)
        if learns == "by listing":
            await late.subscribe(listing=True)
        redis.command("XADD", "ghost", "*", "f", "v")
        if learns == "by subscribing":
            await late.subscribe(listing=True)
        else:
            answer = await late.raw.call("resources/list")
            assert "ghost" in [each["name"] for each in answer["result"]["resources"]]
        # The next look finds what the last one found.
        redis.command("DEL", "ghost")
        assert await late.told() == changed
        assert await earlier.told() == changed


@LISTED_OFTEN
async def test_the_list_is_looked_through_once_however_many_listen(surface: Surface, redis: Server) -> None:
    async with trio.open_nursery() as nursery:
        told = 0

        async def follow(*, task_status: trio.TaskStatus[None]) -> None:
            nonlocal told
            async with following(surface, "modern") as client:
                await client.subscribe(listing=True)
                task_status.started()
                assert await client.told() == "notifications/resources/list_changed"
                told += 1

        for _ in range(50):
            await nursery.start(follow)
        looks = surface.updates.statistics().looks
        began = trio.current_time()
        redis.command("XADD", "s", "*", "f", "v")
        await until(lambda: told >= 50)
        taken = surface.updates.statistics().looks - looks
        assert taken <= 2 + (trio.current_time() - began) / 0.05


@ERAS
@pytest.mark.paces({StreamTopic: Pace(pause_seconds=0.1, poll_seconds=0.3)})
async def test_a_stream_tells_within_five_seconds_of_groups_that_other_programs_make(
    surface: Surface, redis: Server, era: EraName
) -> None:
    assert StreamTopic.pace.poll_seconds == 5.0
    redis.command("XADD", "s", "*", "f", "v")
    async with following(surface, era) as client:
        await client.subscribe(URI)
        for command in ("CREATE", "DESTROY"):
            redis.command("XGROUP", command, "s", "g", *(["0"] if command == "CREATE" else []))
            assert await client.told() == URI


@pytest.mark.paces({StreamTopic: Pace(pause_seconds=0.5, poll_seconds=0.5)})
async def test_the_pause_after_a_look_is_part_of_the_time_until_the_next_one(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = StreamTopic.read_version

    async def noted(topic: StreamTopic, bus: Bus) -> str:
        looks.append(trio.current_time())
        return await look(topic, bus)

    monkeypatch.setattr(StreamTopic, "read_version", noted)
    async with following(surface, "modern") as client:
        await client.subscribe(URI)
        # If they added up it would be a second each time. The first two looks come with subscribing.
        await until(lambda: any((later - look < 1 for look, later in pairwise(looks[1:]))))


async def test_one_look_that_is_held_up_puts_off_no_other(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    paces = {StreamTopic: Pace(pause_seconds=0.1, poll_seconds=0.1)}
    look = StreamTopic.read_version
    to_hold_up = False

    async def held_up(topic: StreamTopic, bus: Bus) -> str:
        nonlocal to_hold_up
        version = await look(topic, bus)
        if to_hold_up:
            await trio.sleep(1)
            to_hold_up = False
        return version

    monkeypatch.setattr(StreamTopic, "read_version", held_up)
    redis.command("XADD", "s", "*", "f", "v")
    async with (
        running_surface(redis, paces=paces, poll_share=100) as surface,
        following(surface, "modern") as client,
    ):
        await client.subscribe(URI)
        to_hold_up = True
        await until(lambda: not to_hold_up)
        # No notification of Redis, so a poll has to find it.
        redis.command("XGROUP", "CREATE", "s", "g", "0")
        assert await client.told() == URI


@pytest.mark.parametrize("tool", ["group_create", "work_take", "create_consumer_group"])
@pytest.mark.paces({StreamTopic: Pace(pause_seconds=0.1, poll_seconds=60.0)})
async def test_a_stream_tells_at_once_of_a_group_that_redstreamd_makes(
    surface: Surface, redis: Server, tool: str
) -> None:
    redis.command("XADD", "s", "*", "f", "v")
    async with following(surface, "modern") as client, following(surface, "modern") as worker:
        await client.subscribe(URI)
        # Until the looks that come with subscribing are over.
        await trio.testing.wait_all_tasks_blocked(0.3)
        arguments = {"stream": "s", "group": "g", **({"consumer": "w"} if tool == "work_take" else {})}
        assert "result" in await worker.raw.call_tool(tool, arguments)
        assert await client.told() == URI


@ERAS
@pytest.mark.parametrize("due", ["by another program", "by redstreamd"])
async def test_a_group_that_works_is_told_of_at_most_once_in_its_pause(
    redis: Server, era: EraName, due: str
) -> None:
    paces = {GroupTopic: Pace(pause_seconds=0.3, poll_seconds=0.2 if due == "by another program" else 60.0)}
    uri = group_uri("s", "g")
    redis.commands(*[["XADD", "s", "*", "f", "v"] for _ in range(10)], ["XGROUP", "CREATE", "s", "g", "0"])
    async with (
        running_surface(redis, paces=paces, poll_share=0) as surface,
        following(surface, era) as client,
    ):
        await client.subscribe(uri)
        began = trio.current_time()
        if due == "by another program":
            for _ in range(3):
                redis.command("XREADGROUP", "GROUP", "g", "w", "COUNT", "1", "STREAMS", "s", ">")
                assert await client.told() == uri
        else:
            async with following(surface, era) as worker:
                arguments = {"stream": "s", "group": "g", "consumer": "w", "count": 1}
                answer: dict[str, Any] = {}
                for _ in range(3):
                    answer = await worker.raw.call_tool("work_take", arguments)
                    assert answer["result"]["structuredContent"]["entries"]
                    assert await client.told() == uri
                # Settling moves no position and adds no entry, and is still an update.
                lease = answer["result"]["structuredContent"]["lease"]
                await worker.raw.call_tool("work_done", {"lease": lease})
                assert await client.told() == uri
        assert trio.current_time() - began > 0.3


@ERAS
async def test_a_group_is_told_of_when_its_limit_is_set(
    surface: Surface, redis: Server, era: EraName
) -> None:
    redis.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    async with following(surface, era) as client:
        await client.subscribe(group_uri("s", "g"))
        await surface.bus.groups.set_max_deliveries("s", "g", 3)
        assert await client.told() == group_uri("s", "g")


async def test_the_listens_of_a_connection_share_its_room_and_give_it_back(redis: Server) -> None:
    async def listen(to: Following, request_id: str, *names: str) -> list[str] | str:
        wanted = {"resourceSubscriptions": [stream_uri(name) for name in names]}
        await to.raw.send(
            to.raw.request("subscriptions/listen", {"notifications": wanted}, request_id=request_id)
        )
        answer = await to.raw.receive()
        if "error" in answer:
            return str(answer["error"]["data"]["code"])
        honored: list[str] = answer["params"]["notifications"]["resourceSubscriptions"]
        return honored

    async with (
        running_surface(redis, max_uris=3) as surface,
        following(surface, "modern") as one,
        following(surface, "modern") as other,
    ):
        assert await listen(one, "first", "a", "b") == [stream_uri("a"), stream_uri("b")]
        assert await listen(one, "second", "c", "d") == "TOO_MANY_SUBSCRIPTIONS"
        assert await listen(one, "third", "e") == [stream_uri("e")]
        assert await listen(one, "fourth", "f") == "TOO_MANY_SUBSCRIPTIONS"
        assert await listen(other, "first", "e") == [stream_uri("e")]
        await one.raw.cancel("first")
        await one.raw.call("tools/list")
        assert await listen(one, "fifth", "f", "g") == [stream_uri("f"), stream_uri("g")]

"""Sessions that outlive connections: whose they are, how many there may be, and how they end."""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from functools import partial

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Held, Peer
from redstreamd.admission.turns import turns
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.limits import Limits
from redstreamd.policy import Principal
from redstreamd.presentation.uris import stream_uri
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streams.bus import Bus
from tests.streamable_http.mcp_peer import PRINCIPAL, HttpPeer, ServedSite, running_site
from tests.support.buses import ON_REDIS, asleep
from tests.support.mcp_client import HANDSHAKE
from tests.support.measured import measured

pytestmark = ON_REDIS

LATEST = "2025-11-25"
ANN, BOB = (Principal(f"http/token:{name}", "http") for name in ("ann", "bob"))
WAIT = {"name": "stream_wait", "arguments": {"streams": ["s"], "timeout_seconds": 20}}


async def begun(served: ServedSite, principal: Principal = ANN) -> str:
    """Begin a session, and return its name; its connection has ended then."""
    async with served.connected(LATEST, principal=principal) as client:
        await client.initialize()
        assert client.session is not None
        return client.session


async def ping(served: ServedSite, session: str, principal: Principal = ANN) -> int:
    """Return the status of a request in a session."""
    async with served.connected(LATEST, session=session, principal=principal) as client:
        return (await client.talk("ping")).status


async def test_a_session_is_its_principals(bus: Bus) -> None:
    async with running_site(bus) as served:
        session = await begun(served)
        assert await ping(served, session, BOB) == 404
        assert await ping(served, session) == 200
        async with served.connected(LATEST, session=session, principal=BOB) as client:
            assert (await client.ask("DELETE")).status == 404
            assert (await client.ask("GET")).status == 404
        narrowed = Principal(ANN.name, ANN.transport, permissions=frozenset())
        assert await ping(served, session, narrowed) == 404
        assert await ping(served, session) == 200


async def test_names_of_sessions_cannot_be_guessed(bus: Bus) -> None:
    async with running_site(bus) as served:
        names = {await begun(served) for _ in range(20)}
        assert len(names) == 20
        assert all(len(each) == 32 and each.isascii() and each.isprintable() for each in names)
        # They are in no event and in no account.
        seen = repr(served.events) + repr([each.name for each in served.accounts.processes()])
        assert not any(each in seen for each in names)


async def test_the_idlest_session_gives_way(bus: Bus) -> None:
    async with running_site(bus, http_limits=HttpLimits(max_sessions=3)) as served:
        busy = await begun(served)
        async with served.connected(LATEST, session=busy, principal=ANN) as listener:
            await listener.send("GET")
            await listener.head()
            first, second = await begun(served), await begun(served)
            assert await ping(served, first) == 200
            third = await begun(served)
            # The second was used least recently; the first of all listens.
            assert await ping(served, second) == 404
            assert [await ping(served, each) for each in (busy, first, third)] == [200, 200, 200]
            # Of several principals the one that has most gives way.
            other = await begun(served, BOB)
            assert await ping(served, first) == 404
            assert await ping(served, other, BOB) == 200


async def test_beyond_the_limit_new_sessions_are_refused(bus: Bus) -> None:
    async with running_site(bus, http_limits=HttpLimits(max_sessions=1)) as served:
        session = await begun(served)
        async with served.connected(LATEST, session=session, principal=ANN) as client:
            await client.post("tools/call", WAIT)
            await asleep(bus)
            async with served.connected(LATEST) as other:
                refused = await other.talk("initialize", HANDSHAKE)
            assert (refused.status, refused.error, refused.fields["retry-after"]) == (503, -32000, "5")
            assert "mcp-session-id" not in refused.fields
        assert await ping(served, session) == 200


#: Sessions that were ended, each with a body that comes on in pieces.
ENDED = 8
PIECE = b"10\r\n" + b" " * 16 + b"\r\n"
PIECE *= 65_536 // len(PIECE)
#: What the other client does in a turn.
STEP_SECONDS = 0.001
PEER = Peer(address="192.0.2.1")


async def test_bodies_for_sessions_that_have_ended_get_the_share_of_one_client(bus: Bus) -> None:
    length = 5 << 20
    head = (
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n"
        "content-type: application/json\r\ntransfer-encoding: chunked\r\nauthorization: ann\r\n"
    )
    async with (
        running_site(bus) as served,
        trio.open_nursery() as nursery,
        contextlib.AsyncExitStack() as stack,
    ):
        served.access.principals = {"ann": ANN}
        clients = []
        for _ in range(ENDED):
            # The connections are those of the listener's principal, the sessions those of the token's.
            client = await stack.enter_async_context(served.connected(LATEST))
            session = await begun(served)
            await client.stream.send_all(f"{head}mcp-session-id: {session}\r\n\r\n".encode())
            await trio.testing.wait_all_tasks_blocked()
            async with served.connected(LATEST, session=session, principal=ANN) as other:
                assert (await other.ask("DELETE")).status == 204
            clients.append(client.stream)
            # The next session would have other accounts above it than this one had.
            while ANN.name in served.accounts.all.members:  # noqa: ASYNC110 - nobody announces it
                await trio.sleep(0.01)
        honest, all_together, turn = served.accounts.open(BOB, PEER, "honest"), served.accounts.all, turns()
        sent = [0] * ENDED

        async def work() -> None:
            while True:
                await turn.turn(honest, STEP_SECONDS)
                turn.work_for(honest)
                until = time.thread_time() + STEP_SECONDS
                while time.thread_time() < until:
                    pass

        async def send(number: int) -> None:
            while sent[number] < length:
                await clients[number].send_all(PIECE)
                sent[number] += len(PIECE)
                await trio.lowlevel.checkpoint()

        nursery.start_soon(work)
        for number in range(ENDED):
            nursery.start_soon(send, number)
        before = honest.rank, all_together.rank
        while max(sent) < length:
            await trio.lowlevel.checkpoint()
        share = (honest.rank - before[0]) / (all_together.rank - before[1])
        print(f"{share:.2f} of the time for one of two clients")
        # What was read counts for the client whose sessions these were, and who is there.
        ann = served.accounts.all.members[ANN.name]
        (process,) = next(iter(ann.members.values())).members.values()
        assert len(process.members) == ENDED
        others = all_together.rank - before[1] - (honest.rank - before[0])
        assert sum(each.rank for each in process.members.values()) > others / 2
        with measured:
            # About 0.4: in so short a time the credit of a client that comes anew shows. One of nine got 0.2.
            assert share > 0.3
        nursery.cancel_scope.cancel()
        served.accounts.close(honest)


async def test_an_idle_session_ends(bus: Bus) -> None:
    # As long as nothing comes between the requests below, also on a busy machine.
    limits = HttpLimits(session_idle_seconds=1.0)
    async with running_site(bus, http_limits=limits) as served:
        async with served.connected(LATEST) as client:
            await client.initialize()
            await client.send("GET")
            await client.head()
            # An open stream keeps it for longer than that.
            await trio.sleep(1.5)
            assert served.site.sessions.statistics().sessions == 1
        while served.site.sessions.statistics().sessions:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.01)


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/event-stream"])
async def test_what_is_in_flight_when_a_session_ends_is_answered(bus: Bus, accept: str) -> None:
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        async with (
            served.connected(LATEST, session=client.session) as direct,
            served.connected(LATEST, session=client.session) as other,
            served.connected(LATEST, session=client.session) as listener,
        ):
            await direct.post("tools/call", WAIT, accept=accept)
            progress = {**WAIT, "_meta": {"progressToken": 1}}
            await other.post("tools/call", progress, accept=accept)
            await listener.send("GET")
            await listener.head()
            await asleep(bus, 2)
            assert (await client.ask("DELETE")).status == 204
            for waiting in (direct, other):
                reply = await waiting.reply()
                assert (reply.status, reply.error) == (200, -32000)
            messages = [await listener.message(), await listener.message()]
            assert messages[-1] is None
            assert (await other.talk("ping")).status == 404


async def test_a_daemon_that_stops_ends_streams_and_answers_what_is_in_flight(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        async with (
            served.connected(LATEST, session=client.session) as other,
            served.connected(LATEST, session=client.session) as listener,
        ):
            await listener.send("GET")
            await listener.head()
            await other.post("tools/call", WAIT)
            await asleep(bus)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(listener.connection.drain, 20))
                nursery.start_soon(partial(other.connection.drain, 20))
                assert (await listener.message()) is not None
                assert (await listener.message()) is None
                # Requests are refused, and what waits is answered as the domain says.
                refused = await client.talk("tools/call", WAIT)
                assert refused.json["error"]["data"]["stopping"]
                assert (await client.ask("GET")).status == 503
                async with served.connected(LATEST) as late:
                    refused = await late.talk("initialize", HANDSHAKE)
                    assert (refused.status, refused.json["error"]["data"]["stopping"]) == (503, True)
                bus.hub.drain()
                assert "result" in (await other.reply()).json


async def test_what_a_session_holds_is_counted(bus: Bus) -> None:
    limits = HttpLimits(replay_bytes=20_000)
    async with running_site(bus, http_limits=limits) as served, served.connected(LATEST) as client:
        await client.initialize()
        held = served.accounts.all.held
        before = held[Held.BYTES]
        await updates(client, bus, 200)
        kept = served.site.sessions.statistics().kept_bytes
        assert 0.8 * 20_000 < kept <= 20_000
        assert abs(held[Held.BYTES] - before - kept) < 4_096 * 2
        # Two connections' worth: a session is none itself.
        assert held[Held.CONNECTIONS] == 1
        await client.ask("DELETE")
        while held[Held.BYTES] >= before:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)


async def updates(client: HttpPeer, bus: Bus, count: int) -> None:
    """Cause so many notifications of a change."""
    names = [f"s{each}" for each in range(count)]
    for name in names:
        await client.call("stream_add", stream=name, entries=[{}])
        await client.talk("resources/subscribe", {"uri": stream_uri(name)})
    for name in names:
        await client.call("stream_add", stream=name, entries=[{}])


async def test_what_is_kept_goes_first_when_memory_is_short(bus: Bus) -> None:
    limits = Limits(max_memory_bytes=40_000)
    async with running_site(bus, limits=limits) as served, served.connected(LATEST) as client:
        await client.initialize()
        for _ in range(3):
            await updates(client, bus, 60)
        assert served.accounts.all.held[Held.BYTES] <= 44_096
        assert (await client.talk("ping")).status == 200


async def test_nothing_is_left_of_a_session(bus: Bus) -> None:
    async with running_site(bus) as served:
        async with served.connected(LATEST) as client:
            await client.initialize()
            await client.talk("tools/list")
            await client.call("stream_list")
            sessions = served.site.sessions
            assert client.session is not None
            session = sessions.find(client.session, PRINCIPAL)
            assert session is not None
            kept = [weakref.ref(each) for each in (session.session, session)]
            gc.collect()
            gc.disable()
            try:
                del session
                await client.ask("DELETE")
                while len(served.accounts.all.members) > 1 or any(each() for each in kept):  # noqa: ASYNC110
                    await trio.sleep(0.001)
            finally:
                gc.enable()
        while served.accounts.all.members:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)


async def test_who_waits_until_a_client_has_read_does_not_wait_for_one_that_is_gone(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        assert client.session is not None
        session = served.site.sessions.find(client.session, PRINCIPAL)
        assert session is not None
        async with trio.open_nursery() as nursery:
            for ending in ("disconnects", "comes back"):
                async with served.connected(LATEST, session=client.session) as listener:
                    await listener.send("GET")
                    await listener.head()
                    session.send(jsonrpc.notification("n", {"text": "x" * 4_000_000}))
                    while not session.size:  # noqa: ASYNC110 - nobody announces it
                        await trio.sleep(0.001)
                    nursery.start_soon(session.session.flushed)
                    await trio.testing.wait_all_tasks_blocked()
                    assert nursery.child_tasks
                    if ending == "comes back":
                        await client.send("GET")
                        await client.head()
                while nursery.child_tasks:  # noqa: ASYNC110 - nobody announces it
                    await trio.sleep(0.001)

"""The revisions with a handshake over HTTP: a session that each request names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from redstreamd.presentation.uris import stream_uri
from redstreamd.streams.bus import Bus
from tests.streamable_http.mcp_peer import HttpPeer, Message, running_site
from tests.support.buses import ON_REDIS, asleep
from tests.support.mcp_client import enveloped

pytestmark = ON_REDIS

REVISIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
every_revision = pytest.mark.parametrize("revision", REVISIONS)
LATEST = REVISIONS[-1]
WAIT = {"name": "stream_wait", "arguments": {"streams": ["s"], "timeout_seconds": 20}}


def encoded(*messages: Any) -> bytes:
    return json.dumps(list(messages) if len(messages) > 1 else messages[0]).encode()


def request(request_id: Any, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


async def next_message(client: HttpPeer) -> Message:
    """Return the next event that is no comment."""
    while True:
        message = await client.message()
        assert message is not None
        if message.comment is None:
            return message


@every_revision
async def test_a_session_is_begun_used_and_ended(bus: Bus, revision: str) -> None:
    async with running_site(bus) as served, served.connected(revision) as client:
        await client.initialize()
        added = await client.call("stream_add", stream="s", entries=[{"n": 1}])
        async with served.connected(revision, session=client.session) as other:
            read = await other.call("stream_read", stream="s")
            assert [each["id"] for each in read["entries"]] == added["ids"]
        assert (await client.talk("ping")).json["result"] == {}
        tools = (await client.talk("tools/list")).json["result"]["tools"]
        assert not any(
            "x-mcp-header" in each["inputSchema"]["properties"].get("stream", {}) for each in tools
        )
        ended = await client.ask("DELETE")
        assert (ended.status, ended.body) == (204, b"")
        assert (await client.talk("ping")).status == 404
        assert (await client.ask("DELETE")).status == 404
        assert (await client.ask("GET")).status == 404
        assert served.site.sessions.statistics().sessions == 0


async def test_every_request_has_its_status(bus: Bus) -> None:
    hello = request(
        7, "initialize", protocolVersion=LATEST, capabilities={}, clientInfo={"name": "n", "version": "v"}
    )
    ping = request(7, "ping")
    async with running_site(bus) as served, served.connected(LATEST) as client:
        # Without a session.
        for body, status, code in (
            (encoded(ping), 400, -32600),
            (encoded(ping, ping), 400, -32600),
            (encoded({"jsonrpc": "2.0", "method": "notifications/initialized"}), 400, -32600),
            (b"{", 400, -32700),
            (b"", 400, -32700),
            (encoded(request(7, "initialize")), 200, -32602),
            (encoded(request(7, "tools/list", **enveloped())), 400, -32020),
        ):
            reply = await client.ask("POST", body)
            assert (reply.status, reply.error) == (status, code), body
            assert "mcp-session-id" not in reply.fields
        assert (await client.ask("GET")).status == 400
        assert (await client.ask("DELETE")).status == 400
        assert (await client.ask("POST", encoded(ping), mcp_session_id="unknown")).status == 404
        assert served.site.sessions.statistics().sessions == 0
        assert (await client.ask("POST", encoded(hello), accept="text/event-stream")).status == 406
        assert (await client.ask("POST", encoded(hello), content_type="text/plain")).status == 415
        # With one.
        await client.initialize()
        for body, status, code in (
            (encoded(ping), 200, None),
            (encoded(hello), 400, -32600),
            (encoded(request(7, "no/such")), 200, -32601),
            (encoded(request(7, "tools/call", name="no_such")), 200, -32602),
            (encoded(request(7, "tools/list", **enveloped())), 400, -32600),
            (encoded(ping, ping), 400, -32600),
            (b"{", 400, -32700),
            (encoded(7), 400, -32600),
            (encoded({"jsonrpc": "2.0", "method": "notifications/x"}), 202, None),
            (encoded({"jsonrpc": "2.0", "id": 1, "result": {}}), 202, None),
        ):
            reply = await client.ask("POST", body)
            assert (reply.status, reply.error) == (status, code), body
        assert (await client.ask("PUT")).fields["allow"] == "GET, POST, DELETE, OPTIONS"
        assert (await client.ask("GET", accept="application/json")).status == 406
        wrong = await client.ask("POST", encoded(ping), mcp_protocol_version="2024-01-01")
        assert (wrong.status, wrong.error) == (400, -32022)
        # Revision 2025-03-26 has no such header.
        assert (await client.ask("POST", encoded(ping), mcp_protocol_version=None)).status == 200
        # None of them ended the connection.
        assert served.site.surroundings.counts.connections == 1


async def test_batches_are_of_the_first_revision(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected(REVISIONS[0]) as client:
        await client.initialize()
        listing = request(1, "tools/call", name="stream_list", arguments={})
        note = {"jsonrpc": "2.0", "method": "notifications/x"}
        reply = await client.ask(
            "POST", encoded(listing, note, request("b", "ping"), {"jsonrpc": "2.0", "id": 3})
        )
        assert reply.status == 200
        answers = {each["id"]: each for each in reply.json}
        assert answers.keys() == {1, "b", 3}
        assert answers["b"]["result"] == {}
        assert answers[3]["error"]["code"] == -32600
        assert (await client.ask("POST", encoded(note, note))).status == 202
        # One of them takes long.
        waiting = request(
            9, "tools/call", name="stream_wait", arguments={"streams": ["s"], "timeout_seconds": 1.6}
        )
        messages = (await client.ask("POST", encoded(request(8, "ping"), waiting))).messages
        assert [each.json["id"] for each in messages if each.data] == [8, 9]


@every_revision
async def test_who_disconnects_has_not_cancelled(bus: Bus, revision: str) -> None:
    async with running_site(bus) as served, served.connected(revision) as client:
        await client.initialize()
        async with served.connected(revision, session=client.session) as other:
            await other.post("tools/call", WAIT, "w")
            await asleep(bus)
            duplicate = await client.talk("ping", None, "w")
            assert (duplicate.status, duplicate.error) == (400, -32600)
        await trio.testing.wait_all_tasks_blocked()
        assert served.site.sessions.statistics().requests_in_flight == 1
        await client.call("stream_add", stream="s", entries=[{}])
        while served.site.sessions.statistics().requests_in_flight:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        assert [each.outcome for each in served.surface.ended if each.tool == "stream_wait"] == ["ok"]


async def test_a_cancelled_request_has_a_response_all_the_same(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        for accept in ("application/json", "application/json, text/event-stream"):
            async with served.connected(LATEST, session=client.session) as other:
                await other.post("tools/call", WAIT, "w", accept=accept)
                await asleep(bus)
                assert (await client.notify("notifications/cancelled", {"requestId": "w"})).status == 202
                reply = await other.reply()
                assert (reply.status, reply.error, reply.json["id"]) == (200, -32800, "w")


async def test_a_lost_stream_goes_on_where_it_was(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        async with served.connected(LATEST, session=client.session) as other:
            await other.post("tools/call", WAIT, "w")
            assert (await other.head()).fields["content-type"] == "text/event-stream"
            primed = await next_message(other)
            assert (primed.data, primed.retry) == ("", 1000)
        added = await client.call("stream_add", stream="s", entries=[{"n": 1}])
        while served.site.sessions.statistics().requests_in_flight:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        last: list[str | None] = [primed.id]
        for _ in range(2):
            reply = await client.ask("GET", last_event_id=last[0])
            again, answer = reply.messages
            assert (again.id, again.data) == (last[0], "")
            assert answer.json["id"] == "w"
            assert [each["id"] for each in answer.json["result"]["structuredContent"]["entries"]] == added[
                "ids"
            ]
        # All of it was received.
        assert [each.data for each in (await client.ask("GET", last_event_id=answer.id)).messages] == [""]
        for unknown in ("99-1", "x", "1-", f"{answer.id}0", "1" * 50):
            assert (await client.ask("GET", last_event_id=unknown)).status == 404


async def test_a_stream_in_progress_is_taken_up(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        async with served.connected(LATEST, session=client.session) as other:
            await other.post("tools/call", WAIT, "w")
            await other.head()
            primed = await next_message(other)
            async with served.connected(LATEST, session=client.session) as third:
                await third.send("GET", last_event_id=primed.id)
                await third.head()
                await next_message(third)
                # The newest response is the one that goes on.
                while (left := await other.message()) is not None:
                    assert left.comment is not None
                await client.call("stream_add", stream="s", entries=[{"n": 1}])
                assert (await next_message(third)).json["id"] == "w"
                assert await third.message() is None


async def test_what_belongs_to_no_request_comes_by_get(bus: Bus) -> None:
    uri = stream_uri("s")
    async with running_site(bus) as served, served.connected(LATEST) as client:
        await client.initialize()
        await client.call("stream_add", stream="s", entries=[{"n": 1}])
        assert (await client.talk("resources/subscribe", {"uri": uri})).json["result"] == {}
        async with served.connected(LATEST, session=client.session) as listener:
            await listener.send("GET")
            assert (await listener.head()).status == 200
            primed = await next_message(listener)
            await client.call("stream_add", stream="s", entries=[{"n": 2}])
            update = await next_message(listener)
            assert update.json["params"]["uri"] == uri
            # The newest listener gets what comes.
            async with served.connected(LATEST, session=client.session) as newest:
                await newest.send("GET")
                await newest.head()
                again = await next_message(newest)
                assert again.id == update.id
                assert await listener.message() is None
                await client.call("stream_add", stream="s", entries=[{"n": 3}])
                third = await next_message(newest)
        kept = served.site.sessions.statistics().kept_bytes
        await client.call("stream_add", stream="s", entries=[{"n": 4}])
        while served.site.sessions.statistics().kept_bytes == kept:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        async with served.connected(LATEST, session=client.session) as late:
            await late.send("GET", last_event_id=update.id)
            await late.head()
            messages = [await next_message(late) for _ in range(3)]
            assert [each.id for each in messages][:2] == [update.id, third.id]
            assert primed.id == "0-0"

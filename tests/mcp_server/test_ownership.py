"""What belongs to one principal does not exist for another, in both eras and on both ways of a call.

Ann owns a request and its reply stream, a consumer with a lease, and idempotency keys; Bob tries to use them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest

from redstreamd.policy import Policy, Principal
from redstreamd.policy.rules import Rule
from redstreamd.presentation.uris import stream_uri
from redstreamd.settings import Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile, StreamNeeds
from redstreamd.tools.toolbox import toolbox_over
from tests.support.buses import ON_REDIS, running_bus
from tests.support.calls import call, no_progress, refusal
from tests.support.mcp_client import enveloped
from tests.support.servers import Server
from tests.support.two_ways import HANDSHAKES, MODERN, Way, request, running_way, surface_over

ANN, BOB = Principal("ann", "unix"), Principal("bob", "unix")
#: The name of a reply stream says whose it is; nobody needs to have made it.
HERS, NONE = companion_key("s", Kind.REPLY, "ann"), companion_key("s", Kind.REPLY, "nobody")
GROUP = {"stream": "s", "group": "g"}
WAYS = pytest.mark.parametrize("direct", [True, False], ids=["direct path", "ordinary driver"])
ERAS = pytest.mark.parametrize("revision", [HANDSHAKES[-1], MODERN])


@attrs.define
class Client:
    """A client on one of the ways of a call."""

    way: Way

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        if self.way.revision == MODERN:
            params = enveloped(params)
        (line,) = await self.way.talk(request(1, method, params))
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured content of the answer to a call."""
        answer = await self.ask("tools/call", name=tool, arguments=arguments)
        content: dict[str, Any] = answer["result"]["structuredContent"]
        return content


@asynccontextmanager
async def two_clients(
    bus: Bus, *, direct: bool, revision: str, policy: Policy | None = None
) -> AsyncIterator[tuple[Client, Client]]:
    """Serve a client of each principal."""
    surface = surface_over(bus, policy=policy)
    async with AsyncExitStack() as stack:
        ways = [
            await stack.enter_async_context(
                running_way(surface, direct=direct, revision=revision, principal=principal)
            )
            for principal in (ANN, BOB)
        ]
        yield Client(ways[0]), Client(ways[1])
        # The way that was meant was taken.
        assert all((way.connection.statistics().direct > 0) == direct for way in ways)


def contents(server: Server) -> dict[bytes, bytes | None]:
    """Return the whole content of Redis."""
    keys = sorted(server.command("KEYS", "*"))
    return dict(zip(keys, server.commands(*[("DUMP", key) for key in keys]), strict=True))


#: Every way to name another's reply stream. A tool with a stream that is missing here fails a test.
FOREIGN: dict[str, Callable[[str], dict[str, Any]]] = {
    "stream_add": lambda stream: {"stream": stream, "entries": [{"forged": 1}], "max_length": 1},
    "stream_add reply_to": lambda stream: {"stream": "s", "entries": [{}], "reply_to": stream},
    "add_stream_message": lambda stream: {"stream": stream, "message": {"forged": 1}},
    "stream_read": lambda stream: {"stream": stream},
    "get_stream_messages": lambda stream: {"stream": stream},
    "stream_wait": lambda stream: {"streams": ["s", stream], "timeout_seconds": 0},
    "stream_health": lambda stream: {"stream": stream},
    "stream_manage": lambda stream: {
        "stream": stream,
        "action": "trim",
        "max_length": 0,
        "force": True,
        "dry_run": False,
    },
    "stream_manage delete": lambda stream: {"stream": stream, "action": "delete", "dry_run": False},
    "group_create": lambda stream: {"stream": stream, "group": "g"},
    "create_consumer_group": lambda stream: {"stream": stream, "group": "g"},
    "list_groups": lambda stream: {"stream": stream},
    "group_manage": lambda stream: {"stream": stream, "group": "g", "action": "destroy", "dry_run": False},
    "pending_list": lambda stream: {"stream": stream, "group": "g"},
    "quarantine_release": lambda stream: {"stream": stream},
    "dead_letter_replay": lambda stream: {"stream": stream, "group": "g"},
    "work_take": lambda stream: {"stream": stream, "group": "g", "consumer": "c"},
    "read_group": lambda stream: {"stream": stream, "group": "g", "consumer": "c"},
    "request_reply": lambda stream: {"stream": stream, "entry": {}, "timeout_seconds": 0},
    "request_reply reply_to": lambda stream: {
        "stream": "s",
        "entry": {},
        "timeout_seconds": 0,
        "reply_to": stream,
    },
}


def test_every_tool_with_a_stream_is_tried() -> None:
    named = {each.name for each in REGISTRY if isinstance(each.needs, StreamNeeds) and each.needs.terms}
    assert named == {case.split()[0] for case in FOREIGN}


@ON_REDIS
@ERAS
@WAYS
async def test_the_reply_stream_of_another_does_not_exist(
    bus: Bus, server: Server, direct: bool, revision: str
) -> None:
    async with two_clients(bus, direct=direct, revision=revision) as (ann, bob):
        asked = await ann("request_reply", stream="s", entry={"q": 1}, timeout_seconds=0, correlation_id="c")
        assert asked["reply_to"] == HERS
        await ann("stream_add", stream=HERS, entries=[{"own": 1}], correlation_id="other")
        before = contents(server)
        for case, arguments in FOREIGN.items():
            tool = case.split()[0]
            refused, absent = [await bob(tool, **arguments(stream)) for stream in (HERS, NONE)]
            assert refused["code"] == "STREAM_NOT_FOUND", case
            assert refused == {
                part: value.replace(NONE, HERS) if isinstance(value, str) else value
                for part, value in absent.items()
            }, case
        uri, none = stream_uri(HERS), stream_uri(NONE)
        for target in (uri, f"{uri}/groups/g", f"{uri}/entries/0-1", f"{uri}/entries/0-1/fields/own"):
            answers = [
                await bob.ask("resources/read", uri=each) for each in (target, target.replace(uri, none))
            ]
            assert "Resource not found" in answers[0]["error"]["message"]
            assert json.dumps(answers[1]).replace(none, uri).replace(NONE, HERS) == json.dumps(answers[0])
        prompt = await bob.ask("prompts/get", name="diagnose-stream", arguments={"stream": HERS})
        assert "STREAM_NOT_FOUND" in json.dumps(prompt)
        assert "own" not in json.dumps(prompt)
        completed = await bob.ask(
            "completion/complete",
            ref={"type": "ref/resource", "uri": "redstream://streams/{stream}/entries/{entry_id}"},
            argument={"name": "entry_id", "value": ""},
            context={"arguments": {"stream": HERS}},
        )
        assert completed["result"]["completion"]["values"] == []
        if revision != MODERN:
            subscribed = await bob.ask("resources/subscribe", uri=uri)
            assert "Resource not found" in subscribed["error"]["message"]
        assert contents(server) == before
        # Its owner has it as before.
        (entry,) = (await ann("stream_read", stream=HERS))["entries"]
        assert entry["fields"] == {"own": 1}
        assert "error" not in await ann.ask("resources/read", uri=uri)


@ON_REDIS
@ERAS
@WAYS
async def test_a_consumer_of_another_neither_gives_nor_gets_anything(
    bus: Bus, server: Server, direct: bool, revision: str
) -> None:
    async with two_clients(bus, direct=direct, revision=revision) as (ann, bob):
        ids = (await ann("stream_add", stream="s", entries=[{"n": n} for n in range(3)]))["ids"]
        held = await ann("work_take", **GROUP, consumer="worker")
        resumed = await bob("work_take", **GROUP, consumer="worker", resume=True)
        unknown = await bob("work_take", **GROUP, consumer="nobody", resume=True)
        assert resumed == unknown
        assert resumed["entries"] == []
        for arguments in ({"entry_ids": [ids[0]]}, {}):
            refused = await bob("work_done", lease=held["lease"], **arguments)
            forged = await bob("work_done", lease=held["lease"][:-4] + "AAAA", **arguments)
            assert refused == forged
            assert refused["code"] == "INVALID_ARGUMENT"
        # Both may have a consumer of that name, and keep apart.
        other = await bob("work_take", **GROUP, consumer="worker")
        assert [each["id"] for each in other["entries"]] == [ids[1]]
        delivered = await bob.ask(
            "tools/call", name="read_group", arguments={**GROUP, "consumer": "worker", "count": 1}
        )
        assert ids[2] in json.dumps(delivered)
        again = await ann("work_take", **GROUP, consumer="worker", resume=True)
        assert [(each["id"], each["attempt"]) for each in again["entries"]] == [(ids[0], 2)]
        assert (await ann("work_done", lease=again["lease"]))["done"] == [ids[0]]
        assert (await bob("work_extend", lease=other["lease"]))["extended"] == [ids[1]]
        his = await bob("work_take", **GROUP, consumer="worker", resume=True)
        assert [each["id"] for each in his["entries"]] == ids[1:]
        listed = await bob("pending_list", **GROUP)
        (name,) = {each["consumer"] for each in listed["entries"]}
        # The name by which Redis calls it is his alone, too.
        assert (await ann("work_take", **GROUP, consumer=name, resume=True))["entries"] == []
        assert (await bob("work_take", **GROUP, consumer=name, resume=True))["entries"]


@ON_REDIS
@ERAS
@WAYS
async def test_a_key_of_another_is_neither_answered_nor_refused(
    bus: Bus, server: Server, direct: bool, revision: str
) -> None:
    async with two_clients(bus, direct=direct, revision=revision) as (ann, bob):
        added: list[str] = []
        for body in ({"n": 1}, {"secret": "of Ann"}):
            how = {"stream": "s", "idempotency_key": "k"}
            hers = await ann("stream_add", **how, entries=[{"n": 1}])
            his = await bob("stream_add", **how, entries=[body]) if not added else None
            added = added or [*hers["ids"], *(his or {})["ids"]]
            assert hers["ids"] == added[:1]
        assert len(set(added)) == 2
        assert server.command("XLEN", "s") == 2
        for client, (mine, *_) in ((ann, added), (bob, added[1:])):
            again = await client("stream_add", **how, entries=[{"n": 1}])
            assert (again["ids"], again["duplicate"]) == ([mine], True)
            assert (await client("stream_add", **how, entries=[{"n": 2}]))["code"] == "INVALID_ARGUMENT"
        # Requests of both with one correlation ID, and takes with one key.
        ask = {"stream": "q", "entry": {"q": 1}, "timeout_seconds": 0, "correlation_id": "c"}
        first, second = [await client("request_reply", **ask) for client in (ann, bob)]
        assert first["request_id"] != second["request_id"]
        assert "resumed" not in second
        assert (await ann("request_reply", **ask))["request_id"] == first["request_id"]
        take = {**GROUP, "consumer": "w", "idempotency_key": "k"}
        taken = [(await client("work_take", **take))["entries"][0]["id"] for client in (ann, bob, ann, bob)]
        assert taken == [added[0], added[1]] * 2


async def ids_of(bus: Bus, principal: Principal, **arguments: Any) -> list[str]:
    """Return the entry IDs of a call of stream_add."""
    ids: list[str] = (await call(bus, "stream_add", principal, **arguments))["ids"]
    return ids


@ON_REDIS
async def test_what_was_made_before_users_were_told_apart_is_each_ones(bus: Bus, server: Server) -> None:
    user, other = ANN.proved("uid:1000"), ANN.proved("uid:1001")
    ids = await ids_of(bus, ANN, stream="s", entries=[{"n": 1}], idempotency_key="k")
    await ids_of(bus, ANN, stream="s", entries=[{"n": 2}])
    keyed = {**GROUP, "consumer": "keyed", "idempotency_key": "t"}
    first = await call(bus, "work_take", ANN, **keyed)
    held = await call(bus, "work_take", ANN, **GROUP, consumer="w")
    ask = {"stream": "q", "entry": {"q": 1}, "timeout_seconds": 0, "correlation_id": "c"}
    asked = await call(bus, "request_reply", ANN, **ask)
    # What was used by the socket is known to its users, and the same key is free for something else.
    again = await call(bus, "stream_add", user, stream="s", entries=[{"n": 1}], idempotency_key="k")
    assert (again["ids"], again["duplicate"]) == (ids, True)
    assert ids != await ids_of(bus, other, stream="s", entries=[{"n": 9}], idempotency_key="k")
    assert (await call(bus, "work_take", user, **keyed))["entries"] == first["entries"]
    assert (await call(bus, "work_done", user, lease=first["lease"]))["done"] == ids
    resumed = await call(bus, "request_reply", user, **ask)
    assert (resumed["resumed"], resumed["request_id"]) == (True, asked["request_id"])
    late = resumed["next_call"]
    await call(bus, late["tool"], user, **late["arguments"], timeout_seconds=0)
    # Whoever goes on with a consumer has it from then on.
    mine = await call(bus, "work_take", user, **GROUP, consumer="w", resume=True)
    assert [each["id"] for each in mine["entries"]] == [each["id"] for each in held["entries"]]
    for principal in (other, ANN):
        assert not (await call(bus, "work_take", principal, **GROUP, consumer="w", resume=True))["entries"]
    # What a user makes belongs to nobody else.
    asked = await call(bus, "request_reply", user, stream="q", entry={"q": 2}, timeout_seconds=0)
    for principal in (other, ANN):
        assert (await refusal(bus, "stream_read", principal, stream=asked["reply_to"]))["code"]
    assert server.command("XLEN", "q") == 2


@ON_REDIS
async def test_a_worker_publishes_a_reply_only_where_it_may(bus: Bus, server: Server) -> None:
    # The requester may publish there; the worker may not.
    await bus.publisher.add("s", [{"q": 1}], Stamp(sender="ann", reply_to="private", correlation_id="c"))
    taken = await call(bus, "work_take", BOB, **GROUP, consumer="w")
    policy = Policy([Rule.parse("bob may consume on *"), Rule.parse("ann may publish on *")])
    toolbox = toolbox_over(bus, REGISTRY, [Profile.WORKER], policy=policy)
    done = {"lease": taken["lease"], "reply": {"a": 1}}
    result = (await toolbox.call(toolbox.find("work_done", BOB), done, BOB, no_progress)).as_values()
    assert result["structuredContent"]["code"] == "PERMISSION_DENIED"
    # The worker did not choose the stream, and cannot use another one.
    assert "work_done without reply" in result["structuredContent"]["next_step"]
    assert "Use a stream" not in result["structuredContent"]["next_step"]
    assert server.command("EXISTS", "private") == 0
    assert server.command("XPENDING", "s", "g")[0] == 1
    assert (await call(bus, "work_done", BOB, lease=taken["lease"]))["done"]


@ON_REDIS
async def test_a_worker_answers_only_the_one_who_asked(bus: Bus, server: Server) -> None:
    # Another program, or an earlier release, wrote these requests.
    await bus.publisher.add("s", [{"q": 1}], Stamp(sender="bob", reply_to=HERS, correlation_id="c"))
    await bus.publisher.add("s", [{"q": 2}], Stamp(reply_to=HERS, correlation_id="c"))
    for _ in range(2):
        taken = await call(bus, "work_take", BOB, **GROUP, consumer="w")
        refused = await refusal(bus, "work_done", BOB, lease=taken["lease"], reply={"forged": 1})
        assert refused["code"] == "INVALID_ARGUMENT"
        assert (await call(bus, "work_done", BOB, lease=taken["lease"]))["done"]
    assert server.command("EXISTS", HERS) == 0


@ON_REDIS
async def test_what_was_added_cannot_be_tried_out_from_its_record(server: Server) -> None:
    bodies: list[bytes] = []
    settings = Settings()
    for key in (b"a" * 32, b"b" * 32):
        server.flush()
        async with running_bus(server, settings, LeaseKey(key)) as bus:
            await ids_of(bus, ANN, stream="s", entries=[{"pin": 1234}], idempotency_key="k")
            (record,) = server.command("KEYS", "s:rs:idem:*")
            bodies.append(server.command("GET", record).split()[0])
            # After a restart with the same key the body is compared.
            async with running_bus(server, settings, LeaseKey(key)) as restarted:
                repeated = await call(
                    restarted, "stream_add", ANN, stream="s", entries=[{"pin": 1234}], idempotency_key="k"
                )
                other = await refusal(
                    restarted, "stream_add", ANN, stream="s", entries=[{"pin": 1}], idempotency_key="k"
                )
                assert (repeated["duplicate"], other["code"]) == (True, "INVALID_ARGUMENT")
    assert len(set(bodies)) == 2
    # A daemon with another key cannot compare it, and adds nothing.
    async with running_bus(server, settings, LeaseKey(b"c" * 32)) as stranger:
        ids = await ids_of(stranger, ANN, stream="s", entries=[{"pin": 1}], idempotency_key="k")
        assert server.command("XLEN", "s") == 1
        assert len(ids) == 1

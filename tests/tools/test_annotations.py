"""What the annotations claim is what the tools do: each claim is held against the whole of a real Redis.

The table `CASES` calls every tool of every profile in the ways in which it can do most. A claim has to be
true of all of them, and a warning has to be earned by at least one: otherwise people learn to click it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest

from redstreamd.policy import Principal
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Tool
from tests.support.buses import ON_REDIS
from tests.support.calls import ME, answer, call
from tests.support.server_clock import next_millisecond
from tests.support.servers import Server

OTHER = Principal("other", "unix")
GROUP = {"stream": "s", "group": "g"}
REPLIES = companion_key("s", Kind.REPLY, ME.name)
Arguments = dict[str, Any]


@attrs.frozen
class World:
    """What is there before a call: work and entries of others, and some of our own.

    Attributes:
        ids: The entries of the stream ``s``, with the groups ``g`` and ``late``.
        lease: Ours, on two entries of ``s``; another consumer holds one more.
        lone: Ours, on the one entry of ``solo``, which no other group needs.
        request: Ours, on a request in ``asked`` that names a reply stream.
        letter: The older of two dead letters of group ``g``.
        waiting: The older of two entries that wait for ``s`` in quarantine.
    """

    ids: list[str]
    lease: str
    lone: str
    request: str
    letter: str
    waiting: str


async def made(bus: Bus, server: Server) -> World:
    """Make a world of an empty server."""
    server.flush()

    async def take(stream: str, consumer: str, principal: Principal = ME, count: int = 1) -> str:
        taken = await call(
            bus, "work_take", principal, stream=stream, group="g", consumer=consumer, count=count
        )
        lease: str = taken["lease"]
        return lease

    added = await call(bus, "stream_add", OTHER, stream="s", entries=[{"n": n} for n in range(8)])
    await call(bus, "stream_add", OTHER, stream="log", entries=[{"n": n} for n in range(5)])
    await call(bus, "stream_add", OTHER, stream="solo", entries=[{"n": 1}])
    await call(bus, "request_reply", OTHER, stream="asked", entry={"q": 1}, timeout_seconds=0)
    await call(bus, "group_create", OTHER, stream="s", group="late")
    await call(bus, "work_fail", lease=await take("s", "me", count=2), action="dead_letter")
    lease = await take("s", "me", count=2)
    await take("s", "them", OTHER)
    letters = await call(bus, "dead_letter_replay", **GROUP)
    submitted = await bus.publisher.add("s", [{"n": 1}, {"n": 2}], Stamp(sender=OTHER.name), waits=True)
    return World(
        added["ids"],
        lease,
        await take("solo", "me"),
        await take("asked", "me"),
        letters["entries"][0]["id"],
        submitted.ids[0],
    )


async def others_work(bus: Bus, server: Server) -> None:
    """Do what others do between two calls: publish and take work."""
    for stream in ("s", "log"):
        await call(bus, "stream_add", OTHER, stream=stream, entries=[{"more": 1}])
    await call(bus, "work_take", OTHER, **GROUP, consumer="them")
    next_millisecond(server)


def lease_of_others_ran_out(server: Server) -> None:
    due = companion_key("s", Kind.DUE, "g")
    for member in server.command("ZRANGE", due, 0, -1):
        server.command("ZADD", due, "XX", 1, member)


def many_replies(server: Server) -> None:
    server.commands(*[("XADD", REPLIES, "*", "n", str(n)) for n in range(10_300)])


@attrs.frozen
class Case:
    """One way to call a tool.

    Attributes:
        arguments: Made of the world.
        before: What else has to have happened.
    """

    arguments: Callable[[World], Arguments]
    before: Callable[[Server], None] | None = None


def of(before: Callable[[Server], None] | None = None, /, **arguments: Any) -> Case:
    """Return a case; an argument that is a function is given the world."""
    return Case(
        lambda world: {name: value(world) if callable(value) else value for name, value in arguments.items()},
        before,
    )


def lease(world: World) -> str:
    return world.lease


def lone(world: World) -> str:
    return world.lone


def request(world: World) -> str:
    return world.request


ENTRIES = [{"a": 1}]
CASES: Mapping[str, list[Case]] = {
    "stream_list": [of(), of(pattern="s*", count=1)],
    "stream_read": [of(stream="s"), of(stream="s", direction="backward", filter={"n": 1})],
    "stream_wait": [of(streams=["s"], timeout_seconds=0), of(streams=["s", "absent"], timeout_seconds=0.01)],
    "pending_list": [of(**GROUP), of(**GROUP, consumer="them", min_deliveries=1)],
    "stream_health": [of(stream="s"), of(**GROUP, detail="full")],
    "stream_add": [
        of(stream="s", entries=ENTRIES),
        of(stream="new", entries=ENTRIES, idempotency_key="k"),
        of(stream="log", entries=ENTRIES, max_length=2),
        of(stream="log", entries=ENTRIES, max_age_seconds=0.001),
    ],
    "request_reply": [
        of(stream="s", entry={"q": 2}, timeout_seconds=0),
        of(stream="s", entry={"q": 2}, timeout_seconds=0, correlation_id="c"),
        of(many_replies, stream="s", entry={"q": 2}, timeout_seconds=0),
    ],
    "group_create": [
        of(stream="s", group="new"),
        of(stream="new", group="g", start="latest"),
        of(**GROUP, start="latest"),
    ],
    "work_take": [
        of(**GROUP, consumer="me"),
        of(**GROUP, consumer="me", resume=True),
        of(**GROUP, consumer="me", count=100),
        of(lease_of_others_ran_out, **GROUP, consumer="me", count=100),
        of(stream="new", group="g", consumer="me"),
        of(**GROUP, consumer="me", idempotency_key="k"),
    ],
    "work_done": [
        of(lease=lease),
        of(lease=lease, entry_ids=lambda world: world.ids[2:3]),
        of(lease=lease, delete=True),
        of(lease=lone, delete=True),
        of(lease=request, reply={"a": 1}),
    ],
    "work_extend": [of(lease=lease), of(lease=lease, lease_seconds=600)],
    "work_fail": [
        of(lease=lease),
        of(lease=lease, action="release"),
        of(lease=lease, action="dead_letter"),
        of(lease=lone, delay_seconds=60),
    ],
    "group_manage": [
        of(**GROUP, action="destroy"),
        of(**GROUP, action="destroy", delete_dead_letters=True, dry_run=False),
        of(**GROUP, action="set_position", start="latest", dry_run=False),
        of(**GROUP, action="set_position", start="earliest", dry_run=False),
        of(**GROUP, action="remove_consumer", consumer="them", pending="release", dry_run=False),
        of(**GROUP, action="remove_consumer", consumer="them", pending="lose", dry_run=False),
        of(
            **GROUP,
            action="remove_consumer",
            consumer="them",
            pending="hand_over",
            to_consumer="me",
            dry_run=False,
        ),
    ],
    "stream_manage": [
        of(stream="s", action="delete"),
        of(stream="s", action="delete", force=True, dry_run=False),
        of(stream="s", action="delete_entries", entry_ids=lambda world: world.ids, force=True, dry_run=False),
        of(stream="log", action="trim", max_length=2, dry_run=False),
        of(stream="log", action="trim", max_age_seconds=0, dry_run=False),
    ],
    "dead_letter_replay": [
        of(**GROUP),
        of(**GROUP, action="replay"),
        of(**GROUP, action="replay", count=1, dry_run=False),
        of(**GROUP, action="delete", entry_ids=lambda world: [world.letter], dry_run=False),
    ],
    "quarantine_release": [
        of(),
        of(stream="s"),
        of(stream="s", action="release", entry_ids=lambda world: [world.waiting]),
        of(stream="s", action="release", entry_ids=lambda world: [world.waiting], dry_run=False),
        of(stream="s", action="discard", entry_ids=lambda world: [world.waiting], dry_run=False),
    ],
    "add_stream_message": [of(stream="s", message={"a": 1}), of(stream="new", message={"a": 1})],
    "get_stream_messages": [of(stream="s", count=100)],
    "create_consumer_group": [
        of(stream="s", group="new", start="0"),
        of(stream="new", group="g"),
        of(**GROUP, start="0"),
    ],
    "read_group": [of(**GROUP, consumer="me", count=2)],
    "list_groups": [of(stream="s")],
    "list_streams": [of()],
}


def pairs(flat: list[Any]) -> dict[str, Any]:
    return {flat[index].decode(): flat[index + 1] for index in range(0, len(flat), 2)}


READ: Mapping[bytes, Callable[[bytes], tuple[str | bytes, ...]]] = {
    b"stream": lambda key: ("XINFO", "STREAM", key, "FULL", "COUNT", "0"),
    b"zset": lambda key: ("ZRANGE", key, "0", "-1", "WITHSCORES"),
    b"hash": lambda key: ("HGETALL", key),
    b"string": lambda key: ("GET", key),
}


def state(server: Server) -> dict[bytes, Any]:
    """Return all keys of Redis, without idle times.

    Nor with the notes by which a call recognises its own repetition: nobody else reads them, and they go by
    themselves within seconds.
    """
    keys: list[bytes] = sorted(key for key in server.command("KEYS", "*") if b":rs:call:" not in key)
    kinds = server.commands(*[("TYPE", key) for key in keys])
    values = server.commands(*[READ[kind](key) for key, kind in zip(keys, kinds, strict=True)])
    return {
        key: contents(value) if kind == b"stream" else value
        for key, kind, value in zip(keys, kinds, values, strict=True)
    }


def contents(flat: list[Any]) -> dict[str, Any]:
    stream = pairs(flat)
    groups = {}
    for group in map(pairs, stream["groups"]):
        held = {entry[0]: (entry[1], entry[3]) for entry in group["pending"]}
        consumers = {pairs(consumer)["name"] for consumer in group["consumers"]}
        groups[group["name"]] = (group["last-delivered-id"], held, consumers)
    return {"entries": stream["entries"], "last": stream["last-generated-id"], "groups": groups}


def relied_on(found: dict[bytes, Any]) -> Iterator[tuple[Any, ...]]:
    """Iterate over what others may rely on: entries, groups, pending entries and undelivered ones."""
    for key, stream in found.items():
        if not isinstance(stream, dict):
            continue
        ids = [entry[0] for entry in stream["entries"]]
        for entry_id in ids:
            yield "entry", key, entry_id
        for name, (position, held, _) in stream["groups"].items():
            yield "group", key, name
            for entry_id, (consumer, _) in held.items():
                yield "pending", key, name, entry_id, consumer
            for entry_id in ids:
                if order(entry_id) > order(position):
                    yield "to be delivered", key, name, entry_id


def order(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))


def exact(server: Server) -> list[Any]:
    """Return everything as the server would save it, times included, and whether it expires."""
    keys: list[bytes] = sorted(server.command("KEYS", "*"))
    dumps = server.commands(*[("DUMP", key) for key in keys])
    return [keys, dumps, [left > 0 for left in server.commands(*[("PTTL", key) for key in keys])]]


@attrs.define
class Seen:
    """What the calls of a tool did."""

    changed: bool = False
    removed: bool = False
    repeated: bool = False


def test_the_table_has_every_tool_of_every_profile() -> None:
    assert CASES.keys() == {tool.name for tool in REGISTRY}


@pytest.mark.parametrize("tool", REGISTRY, ids=[tool.name for tool in REGISTRY])
@pytest.mark.limit(60)
@ON_REDIS
async def test_a_tool_does_what_its_annotations_claim_and_no_claim_warns_in_vain(
    tool: Tool[Any], bus: Bus, server: Server
) -> None:
    seen = Seen()
    for case in CASES[tool.name]:
        world = await made(bus, server)
        if case.before is not None:
            case.before(server)
        arguments = case.arguments(world)
        saved = exact(server) if tool.hints.read_only.value else None
        before = state(server)
        first = await answer(bus, tool.name, **arguments)
        assert not first["isError"], (arguments, first["content"])
        after = state(server)
        assert saved is None or exact(server) == saved, arguments
        removed = set(relied_on(before)) - set(relied_on(after))
        assert tool.hints.destructive.value or not removed, (arguments, removed)
        await others_work(bus, server)
        meanwhile = state(server)
        await answer(bus, tool.name, **arguments)
        again = state(server)
        assert not tool.hints.idempotent.value or again == meanwhile, arguments
        seen.changed |= after != before
        seen.removed |= bool(removed)
        seen.repeated |= again != meanwhile
    assert seen == Seen(
        changed=not tool.hints.read_only.value,
        removed=tool.hints.destructive.value,
        repeated=not tool.hints.idempotent.value,
    )


def test_every_claim_has_a_reason_of_its_own() -> None:
    for tool in REGISTRY:
        for claim in (tool.hints.destructive, tool.hints.idempotent):
            assert len(claim.reason) > 15, tool.name

"""What work_done, work_extend and work_fail say where another program meddled with a leased entry."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from redstreamd.redisio.target import Target
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from tests.faults.calling import bus_at
from tests.support.calls import ME, answer, call
from tests.support.servers import Server

TOOLS: dict[str, dict[str, Any]] = {
    "work_done": {},
    "work_done with delete": {"delete": True},
    "work_extend": {},
    "work_fail": {"action": "retry", "delay_seconds": 60},
    "work_fail to dead letters": {"action": "dead_letter"},
}

#: What another program does, as commands of Redis and what each tool says then:
#: the member of the result that names the entry, or the code of the error.
CASES: dict[str, tuple[tuple[str, ...], tuple[str, str, str, str, str]]] = {
    "nothing": ((), ("done", "done", "extended", "retried", "dead_lettered")),
    "acknowledges it": (("XACK {s} g {id}",), ("already_done",) * 5),
    "claims it for another": (("XCLAIM {s} g other 0 {id}",), ("LEASE_LOST",) * 5),
    "claims it for the same consumer": (("XCLAIM {s} g c 0 {id}",), ("LEASE_LOST",) * 5),
    "claims it for another and finishes it": (
        ("XCLAIM {s} g other 0 {id}", "XACK {s} g {id}"),
        ("already_done",) * 5,
    ),
    # The entry is still pending, and there is nothing to put aside.
    "deletes it": (("XDEL {s} {id}",), ("done", "done", "extended", "retried", "already_done")),
    "trims the stream": (("XTRIM {s} MAXLEN 0",), ("done", "done", "extended", "retried", "already_done")),
    "removes the consumer": (("XGROUP DELCONSUMER {s} g c",), ("LEASE_LOST",) * 5),
    # It was finished, but nothing tells that from an entry that was lost with its consumer.
    "acknowledges it and removes the consumer, which has nothing pending": (
        ("XACK {s} g {id}", "XGROUP DELCONSUMER {s} g c"),
        ("LEASE_LOST",) * 5,
    ),
    # Nothing tells this from an acknowledgement.
    "removes the consumer and makes it anew": (
        ("XGROUP DELCONSUMER {s} g c", "XGROUP CREATECONSUMER {s} g c"),
        ("already_done",) * 5,
    ),
    "destroys the group": (("XGROUP DESTROY {s} g",), ("GROUP_NOT_FOUND",) * 5),
    "makes the group anew from the beginning": (
        ("XGROUP DESTROY {s} g", "XGROUP CREATE {s} g 0"),
        ("LEASE_LOST",) * 5,
    ),
    "makes the group anew from the end": (
        ("XGROUP DESTROY {s} g", "XGROUP CREATE {s} g $"),
        ("LEASE_LOST",) * 5,
    ),
    # The group has yet to deliver it. Nothing tells that at a cost that does not grow with the groups.
    "makes the group anew, which reads other entries with the same consumer": (
        ("XGROUP DESTROY {s} g", "XGROUP CREATE {s} g 0", "XREADGROUP GROUP g c COUNT 1 STREAMS {s} >"),
        ("already_done",) * 5,
    ),
    "makes the group anew, which delivers it to the same consumer": (
        ("XGROUP DESTROY {s} g", "XGROUP CREATE {s} g 0", "XREADGROUP GROUP g c COUNT 9 STREAMS {s} >"),
        ("LEASE_LOST",) * 5,
    ),
    "sets the group back": (
        ("XGROUP SETID {s} g 0",),
        ("done", "done", "extended", "retried", "dead_lettered"),
    ),
    "sets the group back, which delivers it again": (
        ("XGROUP SETID {s} g 0", "XREADGROUP GROUP g other COUNT 9 STREAMS {s} >"),
        ("LEASE_LOST",) * 5,
    ),
    "deletes the stream": (("DEL {s}",), ("STREAM_NOT_FOUND",) * 5),
    "renames the stream": (("RENAME {s} {s}-renamed",), ("STREAM_NOT_FOUND",) * 5),
    "makes the stream anew with the group": (
        ("DEL {s}", "XGROUP CREATE {s} g 0 MKSTREAM"),
        ("LEASE_LOST",) * 5,
    ),
    "loses the due times": (("DEL {due}",), ("done", "done", "extended", "retried", "dead_lettered")),
}


@pytest.mark.parametrize("did", CASES)
async def test_what_is_said_after_another_program(bus: Bus, server: Server, did: str) -> None:
    commands, expected = CASES[did]
    for number, (tool, said) in enumerate(zip(TOOLS, expected, strict=True)):
        stream = f"s{number}"
        group = {"stream": stream, "group": "g"}
        ids = (await call(bus, "stream_add", stream=stream, entries=[{"n": 1}, {"n": 2}]))["ids"]
        first, taken = [await call(bus, "work_take", **group, consumer="c", count=1) for _ in range(2)]
        assert [entry["id"] for entry in taken["entries"]] == ids[1:]
        await call(bus, "work_done", lease=first["lease"])
        due = companion_key(stream, Kind.DUE, "g")
        # A further delivery within the same millisecond looks like the first.
        await trio.sleep(0.002)
        for command in commands:
            server.command(*command.format(s=stream, id=ids[1], due=due).split())
        answers = [
            await answer(bus, tool.partition(" ")[0], **TOOLS[tool], lease=taken["lease"]) for _ in range(2)
        ]
        told = [said_of(each["structuredContent"], ids[1]) for each in answers]
        # Said again, it is settled, or what it was.
        assert (tool, told[0], told[1] in (said, "already_done")) == (tool, said, True), told
        if said == "LEASE_LOST":
            assert told[1] == said
            assert ids[1] in answers[0]["structuredContent"]["message"]
            if "DELCONSUMER" in "".join(commands):
                assert "is not known" in answers[0]["structuredContent"]["cause"]
                # Nor does the question bring the consumer back.
                assert server.command("XINFO", "CONSUMERS", stream, "g") == []


async def test_what_was_handed_over_and_acknowledged_then_is_not_said_to_be_unfinished(
    bus: Bus, server: Server
) -> None:
    """The consumer was removed with group_manage: no other program took the entry out of the group."""
    group = {"stream": "s", "group": "g"}
    for tool, arguments in TOOLS.items():
        await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
        taken = await call(bus, "work_take", **group, consumer="c", count=1)
        (entry_id,) = [entry["id"] for entry in taken["entries"]]
        await call(
            bus,
            "group_manage",
            **group,
            action="remove_consumer",
            consumer="c",
            pending="hand_over",
            to_consumer="heir",
            dry_run=False,
        )
        assert server.command("XACK", "s", "g", entry_id) == 1
        lost = await answer(bus, tool.partition(" ")[0], **arguments, lease=taken["lease"])
        told = lost["structuredContent"]
        assert (tool, told["code"], "is not known" in told["cause"]) == (tool, "LEASE_LOST", True)
        assert "nother program" not in told["message"] + told["cause"] + told["next_step"]


@pytest.mark.parametrize(("later_ms", "said"), [(0, "done"), (5, "LEASE_LOST")])
async def test_a_delivery_of_the_same_millisecond_by_a_group_made_anew_is_not_told_from_the_lease(
    bus: Bus, server: Server, later_ms: int, said: str
) -> None:
    """Redis keeps the time of a delivery in milliseconds, and the group counts deliveries from 1 again."""
    (entry_id,) = (await call(bus, "stream_add", stream="s", entries=[{"n": 1}]))["ids"]
    taken = await call(bus, "work_take", stream="s", group="g", consumer="c", count=1)
    taken_at = bus.work.read_lease(taken["lease"], ME).taken_at
    # Redis takes no time of the future.
    await trio.sleep(0.05)
    server.command("XGROUP", "DESTROY", "s", "g")
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "c", "COUNT", 9, "STREAMS", "s", ">")
    delivered_at = ("TIME", taken_at + later_ms, "RETRYCOUNT", 1)
    server.command("XCLAIM", "s", "g", "c", 0, entry_id, *delivered_at, "JUSTID")
    done = await answer(bus, "work_done", lease=taken["lease"])
    assert said_of(done["structuredContent"], entry_id) == said


@pytest.mark.parametrize(
    ("missing", "said", "then", "consumers"),
    [
        (("-xgroup|createconsumer",), "already_done", "already_done", 0),
        # A consumer without entries stays, and looks as if it had taken again.
        (("-xgroup|delconsumer",), "LEASE_LOST", "already_done", 1),
    ],
)
async def test_who_may_not_ask_for_consumers_settles_all_the_same(
    redis: Server, missing: tuple[str, ...], said: str, then: str, consumers: int
) -> None:
    rights = ("reset", "on", "nopass", "~*", "&*", "+@all", *missing)
    redis.command("ACL", "SETUSER", "narrow", *rights)
    try:
        async with bus_at(Target(path=redis.path, username="narrow")) as bus:
            for tool in TOOLS:
                stream = f"s {tool}"
                await call(bus, "stream_add", stream=stream, entries=[{"n": 1}])
                taken = await call(bus, "work_take", stream=stream, group="g", consumer="c", count=1)
                redis.command("XGROUP", "DELCONSUMER", stream, "g", "c")
                (entry_id,) = [entry["id"] for entry in taken["entries"]]
                for expected in (said, then):
                    told = await answer(bus, tool.partition(" ")[0], **TOOLS[tool], lease=taken["lease"])
                    assert said_of(told["structuredContent"], entry_id) == expected
                assert len(redis.command("XINFO", "CONSUMERS", stream, "g")) == consumers
    finally:
        redis.command("ACL", "DELUSER", "narrow")


@pytest.mark.parametrize("tool", ["work_done", "work_done with delete", "work_extend"])
async def test_with_full_memory_a_consumer_that_is_gone_is_gone(bus: Bus, server: Server, tool: str) -> None:
    """Redis refuses the others then, whatever the lease."""
    await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
    taken = await call(bus, "work_take", stream="s", group="g", consumer="c", count=1)
    server.command("XGROUP", "DELCONSUMER", "s", "g", "c")
    server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        told = await answer(bus, tool.partition(" ")[0], **TOOLS[tool], lease=taken["lease"])
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert told["structuredContent"]["code"] == "LEASE_LOST"


async def test_asking_whether_an_entry_is_kept_leaves_it_acknowledged(bus: Bus, server: Server) -> None:
    (entry_id,) = (await call(bus, "stream_add", stream="s", entries=[{"n": 1}]))["ids"]
    server.command("XGROUP", "CREATE", "s", "other", "0")
    taken = await call(bus, "work_take", stream="s", group="g", consumer="c", count=1)
    done = await call(bus, "work_done", lease=taken["lease"], delete=True)
    assert (done["done"], done["kept_for"]) == ([entry_id], "other")
    assert server.command("XPENDING", "s", "g", "-", "+", 9) == []
    assert server.command("XLEN", "s") == 1


def said_of(content: dict[str, Any], entry_id: str) -> str:
    """Return the member of a result that names the entry, or the code of an error."""
    if "code" in content:
        return str(content["code"])
    (member,) = [name for name, value in content.items() if isinstance(value, list) and entry_id in value]
    return member

"""Entries of principals that are not trusted wait for a release; nobody sees, reads or takes them before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import trio

from redstreamd.policy import Permission, Policy, Principal, Rule
from redstreamd.settings import QuarantineSettings, Settings, ToolsSettings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_ids import time_of
from redstreamd.streams.names import Kind, companion_key, judged_by
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import Toolbox, toolbox_over
from tests.support.buses import running_bus
from tests.support.calls import call, no_progress
from tests.support.servers import Server
from tests.tools.test_annotations import CASES, made

STRANGER, WORKER, OPERATOR = (Principal(name, "unix") for name in ("stranger", "worker", "operator"))
RULES = (
    "stranger may read submit consume on *",
    "worker may read publish consume on *",
    "operator may manage read on *",
)
S = {"stream": "s"}
GROUP = {"stream": "s", "group": "g", "consumer": "c"}
QUARANTINE = companion_key("s", Kind.QUARANTINE)
SETTINGS = Settings(tools=ToolsSettings(profile=("operator",)))
BOUNDED = Settings(quarantine=QuarantineSettings(max_entries=3, max_bytes=65_536, keep_seconds=60))
#: Members of answers that change with time.
CHANGING = re.compile(r"second|lease|memory|server|changes|rates|time|age")
Ask = Callable[..., Any]


def toolbox_of(bus: Bus, *rules: str) -> Toolbox[Bus]:
    policy = Policy([Rule.parse(rule) for rule in rules], judged=judged_by)
    return toolbox_over(bus, REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM], policy=policy)


def asking(bus: Bus, *rules: str) -> Ask:
    """Return what calls a tool for a principal and returns the content, which has a code if it failed."""
    toolbox = toolbox_of(bus, *(rules or RULES))

    async def ask(principal: Principal, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await toolbox.call(toolbox.find(tool, principal), arguments, principal, no_progress)
        content: dict[str, Any] = result.as_values().get("structuredContent", {})
        # Of the stream's name, as long as there is no such stream.
        content.pop("warning", None)
        return content

    return ask


async def submit(ask: Ask, *entries: dict[str, Any], **arguments: Any) -> list[str]:
    """Submit entries to s, and return the IDs under which they wait."""
    answer = await ask(STRANGER, "stream_add", **{**S, "entries": list(entries), **arguments})
    assert answer["ids"] == []
    ids: list[str] = answer["waiting"]
    assert len(ids) == len(entries)
    return ids


async def release(ask: Ask, *ids: str, **arguments: Any) -> dict[str, Any]:
    """Release entries, or what the arguments say."""
    given = {**S, "action": "release", "entry_ids": list(ids), "dry_run": False, **arguments}
    answer: dict[str, Any] = await ask(OPERATOR, "quarantine_release", **given)
    return answer


def steady(value: Any) -> Any:
    """Return an answer without what time alone changes."""
    if isinstance(value, dict):
        return {name: steady(each) for name, each in value.items() if not CHANGING.search(name)}
    return [steady(each) for each in value] if isinstance(value, list) else value


def streams_of(server: Server, sender: str) -> set[str]:
    """Return the streams that hold an entry of this sender."""
    found = set()
    for key in server.command("KEYS", "*"):
        if server.command("TYPE", key) == b"stream":
            for _, fields in server.command("XRANGE", key, "-", "+"):
                members = dict(zip(fields[::2], fields[1::2], strict=True))
                if members.get(b"_rs.sender") == sender.encode():
                    found.add(key.decode())
    return found


async def test_each_way_to_publish_leads_into_quarantine(bus: Bus, server: Server) -> None:
    """Whatever a tool adds, a new one included, is in no stream."""
    ask, ways = asking(bus), set()
    for tool in REGISTRY:
        for case in CASES[tool.name] if tool.permission in (Permission.PUBLISH, Permission.CONSUME) else ():
            world = await made(bus, server)
            arguments = case.arguments(world)
            if "lease" in arguments:
                await call(bus, "request_reply", WORKER, stream="asked", entry={}, timeout_seconds=0)
                taken = await ask(STRANGER, "work_take", stream="asked", group="g", consumer="stranger")
                arguments["lease"] = taken["lease"]
            await ask(STRANGER, tool.name, **arguments)
            where = streams_of(server, "stranger")
            assert all(":rs:quarantine" in stream for stream in where), (tool.name, arguments, where)
            if where:
                ways.add(tool.name)
    assert ways == {"stream_add", "add_stream_message", "request_reply", "work_done"}


async def test_what_waits_changes_nothing_that_others_see(bus: Bus, server: Server) -> None:
    ask = asking(bus)
    await ask(WORKER, "stream_add", **S, entries=[{"good": 1}])
    await ask(WORKER, "work_take", **GROUP)
    looks: list[tuple[str, dict[str, Any]]] = [
        ("stream_list", {}),
        ("list_streams", {}),
        ("stream_read", S),
        ("stream_wait", {"streams": ["s"], "cursor": "0-0", "timeout_seconds": 0}),
        ("get_stream_messages", {**S, "count": 10}),
        ("work_take", GROUP),
        ("read_group", GROUP),
        ("list_groups", S),
        ("pending_list", {**S, "group": "g"}),
        ("stream_health", {**S, "detail": "full"}),
    ]

    async def seen() -> list[Any]:
        answers = []
        for tool, arguments in looks:
            result = await toolbox.call(toolbox.find(tool, WORKER), arguments, WORKER, no_progress)
            answers.append(steady(json.loads(result.text)))
        return answers

    toolbox = toolbox_of(bus, *RULES)
    before = await seen()
    before = await seen()
    await submit(ask, {"bad": 1}, {"bad": 2})
    await submit(ask, {"bad": 3}, idempotency_key="k", durability="fsynced")
    assert await seen() == before
    assert streams_of(server, "stranger") == {QUARANTINE}


async def test_a_released_entry_is_as_it_was_published_and_says_who_released_it(bus: Bus) -> None:
    ask = asking(bus)
    bad, good = await submit(ask, {"n": 1}, {"n": 2, "_rs.sender": "operator"}, reply_to="answers")
    listed = await ask(OPERATOR, "quarantine_release", **S)
    assert (listed["total"], [each["id"] for each in listed["entries"]]) == (2, [bad, good])
    shown = listed["entries"][1]
    assert shown == {
        "id": good,
        "time": time_of(good),
        "stream": "s",
        "fields": {"n": 2, "_rs.sender": "operator"},
        "sender": "stranger",
        "reply_to": "answers",
    }
    tried = await release(ask, good, dry_run=True)
    assert (tried["dry_run"], tried["released"]) == (True, [{"id": good, "stream": "s"}])
    (released,) = (await release(ask, good))["released"]
    (entry,) = (await ask(WORKER, "stream_read", **S))["entries"]
    assert entry == shown | {
        "id": released["new_id"],
        "time": time_of(released["new_id"]),
        "released": {"by": "operator", "waited_as": good, "published": time_of(good)},
    }
    assert (await ask(WORKER, "work_take", **GROUP))["entries"][0]["released"] == entry["released"]
    # Again, and what was never there: nothing happens.
    assert (await release(ask, good, "1-1"))["gone"] == [good, "1-1"]
    assert (await release(ask, bad, action="discard", dry_run=True))["discarded"] == [bad]
    assert (await release(ask, bad, action="discard"))["discarded"] == [bad]
    assert (await release(ask, bad, action="discard"))["gone"] == [bad]
    assert (await release(ask, bad))["gone"] == [bad]
    assert (await ask(OPERATOR, "quarantine_release", **S))["total"] == 0
    assert len((await ask(WORKER, "stream_read", **S))["entries"]) == 1


async def test_a_key_that_is_used_again_gives_the_same_answer_whatever_became_of_the_entries(
    bus: Bus, server: Server
) -> None:
    ask = asking(bus)
    given: dict[str, Any] = {**S, "entries": [{"n": 1}, {"n": 2}], "idempotency_key": "k"}
    first = await ask(STRANGER, "stream_add", **given)
    assert first["duplicate"] is False
    again = {**first, "duplicate": True}
    assert await ask(STRANGER, "stream_add", **given) == again
    await release(ask, first["waiting"][0])
    assert await ask(STRANGER, "stream_add", **given) == again
    await release(ask, first["waiting"][1], action="discard")
    assert await ask(STRANGER, "stream_add", **given) == again
    # Also when the principal is trusted meanwhile, or the stream is gone.
    assert await asking(bus, "* may publish on *")(STRANGER, "stream_add", **given) == again
    server.command("DEL", "s")
    assert await ask(STRANGER, "stream_add", **given) == again
    other = await ask(STRANGER, "stream_add", **{**given, "entries": [{"n": 3}]})
    assert other["code"] == "INVALID_ARGUMENT"
    assert server.command("XLEN", QUARANTINE) == 0
    # Another's key of the same name is its own; what was added before it was not trusted any more stays.
    added = await ask(WORKER, "stream_add", **given)
    demoted = asking(bus, "* may submit on *")
    assert await demoted(WORKER, "stream_add", **given) == {**added, "duplicate": True}


async def test_a_request_in_quarantine_is_answered_once_it_is_released(bus: Bus) -> None:
    ask = asking(bus)
    question: dict[str, Any] = {**S, "entry": {"q": 1}, "timeout_seconds": 0, "correlation_id": "c"}
    asked = await ask(STRANGER, "request_reply", **question)
    assert asked["answered"] is False
    assert "operator" in asked["waiting"]
    await release(ask, asked["request_id"])
    taken = await ask(WORKER, "work_take", **GROUP)
    await ask(WORKER, "work_done", lease=taken["lease"], reply={"a": 1})
    answered = await ask(STRANGER, "request_reply", **question)
    assert (answered["answered"], answered["resumed"]) == (True, True)
    assert (answered["reply"]["fields"], answered["reply"]["sender"]) == ({"a": 1}, "worker")
    assert answered["request_id"] == asked["request_id"]
    assert "waiting" not in answered


@pytest.mark.parametrize("reply_to", [None, "answers"])
async def test_the_reply_of_a_worker_that_is_not_trusted_waits(
    bus: Bus, server: Server, reply_to: str | None
) -> None:
    ask = asking(bus)
    target = {} if reply_to is None else {"reply_to": reply_to}
    question: dict[str, Any] = {**S, **target, "entry": {"q": 1}, "timeout_seconds": 0, "correlation_id": "c"}
    asked = await ask(WORKER, "request_reply", **question)
    taken = await ask(STRANGER, "work_take", **GROUP)
    done = await ask(STRANGER, "work_done", lease=taken["lease"], reply={"a": 1})
    assert done["done"] == [asked["request_id"]]
    assert done["reply"]["waiting"] is True
    again = await ask(STRANGER, "work_done", lease=taken["lease"], reply={"a": 1})
    assert again["reply"] == done["reply"] | {"duplicate": True}
    assert (await ask(WORKER, "request_reply", **question))["answered"] is False
    # It waits beside the stream if the reply stream is redstreamd's own, which may expire meanwhile.
    server.command("DEL", asked["reply_to"])
    where = "s" if reply_to is None else reply_to
    (shown,) = (await ask(OPERATOR, "quarantine_release", stream=where))["entries"]
    assert (shown["stream"], shown["sender"]) == (asked["reply_to"], "stranger")
    await release(ask, shown["id"], stream=where)
    answered = await ask(WORKER, "request_reply", **question)
    assert answered["reply"]["released"]["by"] == "operator"
    assert (server.command("PTTL", asked["reply_to"]) > 0) == (reply_to is None)


async def test_an_operator_finds_all_that_waits_where_it_may_manage(bus: Bus) -> None:
    ask = asking(bus, *RULES[:2], "operator may manage on s u{x}")
    for stream in ("t", "u{x}", "s"):
        await ask(STRANGER, "stream_add", stream=stream, entries=[{}, {}])
        # The one that waits for longest comes first: they must differ by a millisecond.
        await trio.sleep(0.003)
    found = await ask(OPERATOR, "quarantine_release")
    assert [(each["stream"], each["entries"]) for each in found["streams"]] == [("u{x}", 2), ("s", 2)]
    assert (await ask(OPERATOR, "quarantine_release", stream="t"))["code"] == "PERMISSION_DENIED"
    ids = [each["id"] for each in (await ask(OPERATOR, "quarantine_release", **S, count=1))["entries"]]
    rest = await ask(OPERATOR, "quarantine_release", **S, cursor=ids[0])
    assert len(rest["entries"]) == 1
    act = {"action": "release"}
    for wrong in ({**act, "entry_ids": ids}, {**S, **act}, {**S, "entry_ids": ids}):
        assert (await ask(OPERATOR, "quarantine_release", **wrong))["code"] == "INVALID_ARGUMENT"
    assert (await ask(OPERATOR, "quarantine_release", **S))["total"] == 2


async def test_only_who_may_manage_learns_from_the_health_that_something_waits(server: Server) -> None:
    async with running_bus(server, SETTINGS) as bus:
        ask = asking(bus)
        await ask(WORKER, "stream_add", **S, entries=[{}])
        quiet = await ask(OPERATOR, "stream_health", **S)
        await submit(ask, {"n": 1}, {"n": 2})
        told, untold = [await ask(who, "stream_health", **S) for who in (OPERATOR, STRANGER)]
    assert "in_quarantine" not in str(quiet) + str(untold)
    (found,) = [each for each in told["findings"] if each["code"] == "in_quarantine"]
    assert found["evidence"]["entries"] == 2
    assert found["next_call"] == {"tool": "quarantine_release", "arguments": S, "profile": "operator"}
    assert told["stream"]["length"] == untold["stream"]["length"] == 1


async def test_a_full_quarantine_refuses_and_drops_nothing(server: Server) -> None:
    async with running_bus(server, BOUNDED) as bus:
        ask = asking(bus)
        ids = await submit(ask, {"n": 1}, {"n": 2})
        refused = await ask(STRANGER, "stream_add", **S, entries=[{"n": 3}, {"n": 4}], idempotency_key="k")
        assert refused["code"] == "QUARANTINE_FULL"
        assert "quarantine_release" not in str(refused)
        assert (await ask(OPERATOR, "quarantine_release", **S))["total"] == 2
        await release(ask, *ids)
        # The refused call was not recorded.
        assert (await submit(ask, {"n": 3}, {"n": 4}, idempotency_key="k")) != ids
        await ask(STRANGER, "stream_add", stream="t", entries=[{"n": "x" * 60_000}])
        too_much = await ask(STRANGER, "stream_add", stream="t", entries=[{"n": "x" * 60_000}])
        assert too_much["code"] == "QUARANTINE_FULL"
        # Who publishes is not concerned.
        assert len((await ask(WORKER, "stream_add", **S, entries=[{}] * 9))["ids"]) == 9


async def test_what_waits_longer_than_it_is_kept_is_removed(server: Server) -> None:
    async with running_bus(server, BOUNDED) as bus:
        ask = asking(bus)
        server.command("XADD", QUARANTINE, "1-1", "_rs.quarantine", "s", "n", "1", "_rs.v", "1")
        assert (await ask(OPERATOR, "quarantine_release", **S))["total"] == 1
        ids = await submit(ask, {"n": 2})
        assert [each["id"] for each in (await ask(OPERATOR, "quarantine_release", **S))["entries"]] == ids
        assert 0 < server.command("PTTL", QUARANTINE) <= 60_000


async def test_what_waits_trims_nothing(bus: Bus, server: Server) -> None:
    ask = asking(bus)
    await ask(WORKER, "stream_add", **S, entries=[{}, {}])
    for bound in ({"max_length": 1}, {"max_age_seconds": 0.001}):
        refused = await ask(STRANGER, "stream_add", **S, entries=[{}], **bound)
        assert refused["code"] == "INVALID_ARGUMENT"
    assert (server.command("XLEN", "s"), server.command("EXISTS", QUARANTINE)) == (2, 0)
    # Neither does a trim of the stream reach what waits.
    await submit(ask, {})
    trim = {"action": "trim", "max_length": 0, "dry_run": False}
    await ask(OPERATOR, "stream_manage", **S, **trim)
    assert (server.command("XLEN", "s"), server.command("XLEN", QUARANTINE)) == (0, 1)


async def test_a_stream_is_removed_with_its_quarantine_by_force_only(bus: Bus, server: Server) -> None:
    ask = asking(bus)
    await ask(WORKER, "stream_add", **S, entries=[{}])
    await submit(ask, {}, {})
    remove = {**S, "action": "delete"}
    tried = await ask(OPERATOR, "stream_manage", **remove)
    assert tried["effect"]["quarantined"] == 2
    assert "without force" in tried["note"]
    refused = await ask(OPERATOR, "stream_manage", **remove, dry_run=False)
    assert (refused["code"], server.command("EXISTS", "s", QUARANTINE)) == ("INVALID_ARGUMENT", 2)
    removed = await ask(OPERATOR, "stream_manage", **remove, dry_run=False, force=True)
    assert removed["effect"]["quarantined"] == 2
    assert server.command("EXISTS", "s", QUARANTINE) == 0


async def test_removing_a_reply_stream_leaves_the_quarantine_of_its_stream(bus: Bus, server: Server) -> None:
    ask = asking(bus, *RULES[:2], "operator may read publish manage on *")
    asked = await ask(OPERATOR, "request_reply", **S, entry={}, timeout_seconds=0)
    await submit(ask, {})
    await ask(
        *(OPERATOR, "stream_manage"), stream=asked["reply_to"], action="delete", dry_run=False, force=True
    )
    assert server.command("EXISTS", asked["reply_to"], QUARANTINE) == 1


async def test_a_key_that_is_no_stream_is_refused_before_anything_waits_for_it(
    bus: Bus, server: Server
) -> None:
    server.command("SET", "s", "text")
    assert (await asking(bus)(STRANGER, "stream_add", **S, entries=[{}]))["code"] == "WRONG_TYPE"
    assert server.command("EXISTS", QUARANTINE) == 0

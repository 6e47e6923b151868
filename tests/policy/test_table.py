"""Who may use what: every tool, resource, prompt, completion and subscription, for every principal and mode.

What is called is generated from the definitions, so that nothing can be added without being asked for its
permission. What is expected follows from `GRANTED`, which says it once more in other words than the rules.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote

import attrs
import pytest
import trio

from redstreamd.policy import Permission, Policy, Principal, Rule
from redstreamd.presentation.uris import entry_uri, field_uri, group_uri, stream_uri
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.resources.catalog import RESOURCES
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import judged_by
from redstreamd.tools.argument_types import NameOf, names_in
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import StreamNeeds, Tool
from redstreamd.tools.schema import arguments_schema
from tests.support.buses import ON_REDIS
from tests.support.calls import call
from tests.support.mcp_client import enveloped
from tests.support.servers import Server
from tests.support.two_ways import MODERN, Way, request, running_way, surface_over

READ, PUBLISH, CONSUME, MANAGE = Permission
OURS, THEIRS, NOWHERE = "ours:jobs:stream", "theirs:jobs:hidden", "theirs:jobs:hiddem"
#: In the names of what only others may know of.
MARKS = (b"hidden", b"unseen")
STREAMS = (OURS, THEIRS, NOWHERE)

#: What each principal may do to the streams that begin with "ours"; "elsewhere" may do all to the others.
GRANTED: Mapping[str, frozenset[Permission]] = {
    "reader": frozenset({READ}),
    "publisher": frozenset({PUBLISH}),
    "consumer": frozenset({CONSUME}),
    "manager": frozenset(Permission),
    "nobody": frozenset(),
    "elsewhere": frozenset(),
}
RULES = (
    *(f"{who} may {' '.join(granted)} on ours:*" for who, granted in GRANTED.items() if granted),
    "elsewhere may read publish consume manage on theirs:*",
)
#: Values of required arguments that name no stream and no lease, by name. A tool whose arguments are not here
#: fails the test.
VALUES: Mapping[str, Any] = {
    "group": "g",
    "consumer": "c",
    "entries": [{"n": 1}],
    "entry": {"n": 1},
    "message": {"n": 1},
    "action": None,
}
#: Further arguments, so that a call does something and does not wait.
FURTHER: Mapping[str, dict[str, Any]] = {
    "stream_wait": {"timeout_seconds": 0},
    "request_reply": {"timeout_seconds": 0},
    "group_manage": {"action": "destroy"},
    "stream_manage": {"action": "delete"},
}


@attrs.frozen
class Seat:
    """Who asks, and how.

    Attributes:
        who: The principal.
        read_only: The mode.
        revision: What its client speaks.
        way: Its connection.
    """

    who: str
    read_only: bool
    revision: str
    way: Way

    def may(self, stream: str) -> frozenset[Permission]:
        if stream.startswith("ours:"):
            granted = GRANTED[self.who]
        else:
            granted = frozenset(Permission) if self.who == "elsewhere" else frozenset()
        return granted & {READ} if self.read_only else granted

    @property
    def somewhere(self) -> frozenset[Permission]:
        return self.may(OURS) | self.may(THEIRS)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer; it names nothing that only others may know of, unless the request did."""
        line = request("q", method, enveloped(params) if self.revision == MODERN else params)
        await self.way.peer.send_all(line)
        while (found := await self.way.answer()).get("id") != "q":
            pass
        answer = json.dumps(found).encode()
        if self.who != "elsewhere":
            told = answer
            for name in (NOWHERE, THEIRS):
                forms = (name.encode(), quote(name, safe="").encode())
                if any(form in line for form in forms):
                    for form in forms:
                        told = told.replace(form, b"")
            assert not any(mark in told for mark in MARKS), (self, line, answer)
        return cast("dict[str, Any]", found)


@asynccontextmanager
async def seats(bus: Bus) -> AsyncIterator[Iterator[Seat]]:
    """Yield a seat for each principal, mode and revision, on both ways of a call."""
    async with trio.open_nursery() as nursery:

        async def seat(who: str, read_only: bool, revision: str, direct: bool) -> Seat:
            ready, found = trio.Event(), []

            async def serve() -> None:
                principal = Principal(who, "unix")
                surface = surfaces[read_only]
                async with running_way(surface, direct=direct, revision=revision, principal=principal) as way:
                    found.append(Seat(who, read_only, revision, way))
                    ready.set()
                    await trio.sleep_forever()

            nursery.start_soon(serve)
            await ready.wait()
            return found[0]

        rules = [Rule.parse(rule) for rule in RULES]
        surfaces = {}
        for read_only in (False, True):
            policy = Policy(rules, read_only=read_only, judged=judged_by)
            surfaces[read_only] = surface_over(bus, policy=policy)
            await nursery.start(surfaces[read_only].updates.run)
        ways = list(itertools.product(("2025-11-25", MODERN), (True, False)))
        normal = [(who, False, *way) for who in GRANTED for way in ways]
        # The mode changes verdicts, and no way on which they are asked for.
        read_only = [(who, True, *ways[number % 4]) for number, who in enumerate(GRANTED)]
        yield iter([await seat(*each) for each in normal + read_only])
        nursery.cancel_scope.cancel()


async def make_world(bus: Bus) -> None:
    for stream in (OURS, THEIRS):
        await call(bus, "stream_add", stream=stream, entries=[{"n": n} for n in range(9)])
        await call(bus, "group_create", stream=stream, group="g")
    await call(bus, "group_create", stream=THEIRS, group="unseen")


def arguments_of(tool: Tool[Any], stream: str, lease: str) -> dict[str, Any]:
    """Return a call's arguments: the required ones, and every stream."""
    named = names_in(tool.arguments)
    schema = arguments_schema(tool.arguments)
    given: dict[str, Any] = {}
    for name in schema["properties"]:
        if named.get(name) is NameOf.LEASE:
            given[name] = lease
        elif named.get(name) is NameOf.STREAM and name != "reply_to":
            given[name] = [stream] if name == "streams" else stream
        elif name in schema.get("required", ()):
            given[name] = VALUES[name]
    return given | FURTHER.get(tool.name, {})


def needed(tool: Tool[Any]) -> frozenset[Permission]:
    if not isinstance(tool.needs, StreamNeeds):
        # Tools of leases.
        return frozenset({CONSUME})
    return frozenset(permission for argument, permission, _ in tool.needs.terms if argument != "reply_to")


@pytest.mark.limit(240)
@ON_REDIS
async def test_every_tool_is_there_for_whom_it_is_granted_and_for_nobody_else(
    bus: Bus, server: Server
) -> None:
    await make_world(bus)
    refused = granted = hidden = 0
    leases: dict[tuple[str, str], str] = {}
    async with seats(bus) as all_seats:
        for seat in all_seats:
            listed = (await seat.ask("tools/list"))["result"]["tools"]
            expected = [tool.name for tool in REGISTRY if tool.permission in seat.somewhere]
            assert [tool["name"] for tool in listed] == expected, seat
            for tool in REGISTRY:
                takes_lease = NameOf.LEASE in names_in(tool.arguments).values()
                for stream in STREAMS if needed(tool) and tool.name in expected else (OURS,):
                    if takes_lease and stream == NOWHERE:
                        continue
                    key = (seat.who, stream)
                    if takes_lease and key not in leases:
                        leases[key] = await _lease(bus, *key)
                    lease = leases.get(key, "")
                    given = arguments_of(tool, stream, lease)
                    answer = await seat.ask("tools/call", name=tool.name, arguments=given)
                    where = (seat, tool.name, stream, answer)
                    if tool.name not in expected:
                        assert answer["error"]["code"] == -32602, where
                        text = answer["error"]["message"].partition("Nearest")[2]
                        assert not any(each.name in text for each in REGISTRY if each.name not in expected), (
                            where
                        )
                        hidden += 1
                    elif needed(tool) <= seat.may(stream):
                        assert "PERMISSION_DENIED" not in json.dumps(answer), where
                        granted += 1
                    else:
                        content = answer["result"]["structuredContent"]
                        assert content["code"] == "PERMISSION_DENIED", where
                        # The same for what exists and for what does not.
                        assert "exist" in content["cause"] or seat.read_only, where
                        refused += 1
    assert min(refused, granted, hidden) > 100, (refused, granted, hidden)


async def _lease(bus: Bus, who: str, stream: str) -> str:
    await call(bus, "stream_add", stream=stream, entries=[{"n": 0}])
    taken = await call(
        bus, "work_take", Principal(who, "unix"), stream=stream, group="leased", consumer=f"{who}-c"
    )
    lease: str = taken["lease"]
    return lease


def uris_of(stream: str) -> dict[str, str]:
    """Return a URI of each resource, by its template."""
    entry = entry_uri(stream, "1-1")
    made = (stream_uri(stream), group_uri(stream, "g"), entry, field_uri(entry, "n"))
    found = {}
    for each in RESOURCES:
        (uri,) = (
            [uri for uri in made if each.match(uri.split("/")) is not None]
            if each.is_template
            else [each.uri]
        )
        found[each.uri] = uri
    return found


@pytest.mark.limit(240)
@ON_REDIS
async def test_every_resource_and_subscription_is_there_for_whom_it_is_granted(
    bus: Bus, server: Server
) -> None:
    await make_world(bus)
    async with seats(bus) as all_seats:
        for seat in all_seats:
            offered = [
                each for each in RESOURCES if each.permission is None or each.permission in seat.somewhere
            ]
            listed = (await seat.ask("resources/list"))["result"]["resources"]
            readable = [stream for stream in (OURS, THEIRS) if READ in seat.may(stream)]
            expected = [each.uri for each in offered if not each.is_template] + list(
                map(stream_uri, readable)
            )
            assert [each["uri"] for each in listed] == expected, seat
            templates = (await seat.ask("resources/templates/list"))["result"]["resourceTemplates"]
            assert [each["uriTemplate"] for each in templates] == [
                each.uri for each in offered if each.is_template
            ], seat
            for each, stream in itertools.product(RESOURCES, STREAMS):
                uri = uris_of(stream)[each.uri]
                is_there = each in offered and (not each.streams or each.permission in seat.may(stream))
                read = await seat.ask("resources/read", uri=uri)
                told = json.dumps(read)
                if is_there:
                    assert "PERMISSION_DENIED" not in told, (seat, uri, read)
                    assert not each.streams or stream == NOWHERE or "1-1" in uri or "result" in read
                    if each.name == "streams":
                        names = [
                            line["stream"]
                            for line in json.loads(read["result"]["contents"][0]["text"])["streams"]
                        ]
                        assert names == readable, seat
                elif each in offered:
                    assert "PERMISSION_DENIED" in told, (seat, uri, read)
                else:
                    assert "Resource not found" in told, (seat, uri, read)
                if each.topic is not None:
                    assert await _can_subscribe(seat, uri) == is_there, (seat, uri)


async def _can_subscribe(seat: Seat, uri: str) -> bool:
    if seat.revision != MODERN:
        answer = await seat.ask("resources/subscribe", uri=uri)
        if "result" in answer:
            await seat.ask("resources/unsubscribe", uri=uri)
        return "result" in answer
    params = enveloped({"notifications": {"resourceSubscriptions": [uri]}})
    await seat.way.peer.send_all(request("l", "subscriptions/listen", params))
    message = await seat.way.answer()
    assert message["method"] == "notifications/subscriptions/acknowledged", message
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "l"}}
    await seat.way.talk(json.dumps(cancel).encode())
    return "resourceSubscriptions" in message["params"]["notifications"]


#: What each prompt is asked with.
GIVEN: Mapping[str, str] = {"group": "g", "consumer": "c", "purpose": "p", "instructions": "i"}


@pytest.mark.limit(240)
@ON_REDIS
async def test_every_prompt_and_completion_is_there_for_whom_it_is_granted(bus: Bus, server: Server) -> None:
    await make_world(bus)
    async with seats(bus) as all_seats:
        for seat in all_seats:
            offered = [
                each
                for each in PROMPTS
                if each.permission is None
                or {each.permission, READ} <= seat.somewhere
                or (not each.streams and each.permission in seat.somewhere)
            ]
            listed = (await seat.ask("prompts/list"))["result"]["prompts"]
            assert [each["name"] for each in listed] == [each.name for each in offered], seat
            for each, stream in itertools.product(PROMPTS, STREAMS):
                given = {a.name: stream if a.name in each.streams else GIVEN[a.name] for a in each.arguments}
                answer = await seat.ask("prompts/get", name=each.name, arguments=given)
                told = json.dumps(answer)
                if each not in offered:
                    assert "Unknown prompt" in told, (seat, each.name, answer)
                elif not each.streams or {each.permission, READ} <= seat.may(stream):
                    assert "result" in answer, (seat, each.name, answer)
                else:
                    assert answer["error"]["data"]["code"] == "PERMISSION_DENIED", (seat, each.name, answer)
            for ref, names, is_there in _completions(seat, {each.name for each in offered}):
                for name in names:
                    await _complete(seat, ref, name, is_there)


def _completions(seat: Seat, prompts: set[str]) -> Iterator[tuple[dict[str, str], tuple[str, ...], bool]]:
    for each in RESOURCES:
        if each.is_template:
            is_there = each.permission in seat.somewhere
            yield {"type": "ref/resource", "uri": each.uri}, each.parameters, is_there
    for prompt in PROMPTS:
        names = tuple(argument.name for argument in prompt.arguments)
        yield {"type": "ref/prompt", "name": prompt.name}, names, prompt.name in prompts


async def _complete(seat: Seat, ref: dict[str, str], name: str, is_there: bool) -> None:
    readable = [stream for stream in (OURS, THEIRS) if READ in seat.may(stream)]
    for stream in STREAMS:
        answer = await seat.ask(
            "completion/complete",
            ref=ref,
            argument={"name": name, "value": ""},
            context={"arguments": {"stream": stream, "group": "g", "entry_id": "1-1"}},
        )
        where = (seat, ref, name, stream, answer)
        if not is_there:
            assert "There is no" in answer["error"]["message"], where
            continue
        found = answer["result"]["completion"]
        if name == "stream":
            assert (found["values"], found["total"]) == (readable, len(readable)), where
        elif stream not in readable:
            assert (found["values"], found["total"]) == ([], 0), where
        elif name == "group":
            assert "g" in found["values"], where


def test_what_needs_reading_alone_changes_nothing() -> None:
    """Read-only mode rests on it."""
    for tool in REGISTRY:
        assert (tool.permission is READ) == tool.hints.read_only.value, tool.name
        if tool.permission is READ:
            assert needed(tool) <= {READ}


@ON_REDIS
async def test_the_coming_and_going_of_others_streams_changes_no_version(bus: Bus, server: Server) -> None:
    policy = Policy([Rule.parse(rule) for rule in RULES], judged=judged_by)
    readable = policy.readable(Principal("reader", "unix"))
    await make_world(bus)
    before = await bus.lister.names("*", readable=readable)
    server.command("XADD", "theirs:another", "*", "n", "1")
    after = await bus.lister.names("*", readable=readable)
    assert (list(after), after.total, after.version) == ([OURS], 1, before.version)
    server.command("XADD", "ours:another", "*", "n", "1")
    assert (await bus.lister.names("*", readable=readable)).version != before.version


@ON_REDIS
async def test_what_is_kept_of_a_listing_is_kept_for_whom_it_is(bus: Bus, server: Server) -> None:
    for begin in range(0, 2_400, 400):
        names = [f"{'ours' if n % 2 else 'theirs'}:{n:04}" for n in range(begin, begin + 400)]
        server.commands(*[("XADD", name, "*", "n", "1") for name in names])
    policy = Policy([Rule.parse(rule) for rule in RULES], judged=judged_by)
    for who, prefix in [
        ("reader", "ours:"),
        ("elsewhere", "theirs:"),
        ("nobody", "none"),
    ]:
        readable = policy.readable(Principal(who, "unix"))
        for _ in range(2):
            listing = await bus.lister.names("*", readable=readable)
            assert all(name.startswith(prefix) for name in listing)
            assert listing.total == (0 if who == "nobody" else 1_200)
    reader = policy.readable(Principal("reader", "unix"))
    assert await bus.lister.names("*", readable=reader) is await bus.lister.names("*", readable=reader)


@ON_REDIS
async def test_a_hint_names_what_the_caller_may_use(bus: Bus, server: Server) -> None:
    for stream in ("ours:jobs:hidden", "theirs:jobs:hiddem"):
        await call(bus, "stream_add", stream=stream, entries=[{"n": 1}])
    policy = Policy([Rule.parse("* may read on ours:*")], judged=judged_by)
    for direct in (True, False):
        async with running_way(surface_over(bus, policy=policy), direct=direct, revision=MODERN) as way:
            await way.call(1, "stream_read", stream="ours:jobs:hiddem")
            cause = (await way.answer())["result"]["structuredContent"]["cause"]
            assert "ours:jobs:hidden" in cause
            assert "theirs" not in cause
            await way.call(2, "stream_wait", streams=["theirs:jobs:hidden"], timeout_seconds=0)
            assert "ours" not in json.dumps(await way.answer())

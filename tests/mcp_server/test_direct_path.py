"""The direct path answers what the SDK's kernel answers, to any line, and takes nearly every plain call.

Each line goes to two connections over one surface, on the same content of Redis; the answers, the calls that
were reported as ended and what is in Redis afterwards are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, cast

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redstreamd import __version__
from redstreamd.errors import Code
from redstreamd.errors.defects import Defect
from redstreamd.mcp_server.direct_calls import DirectPath
from redstreamd.mcp_server.server_info import NAME, TITLE
from redstreamd.mcpio.exchange import Sink
from redstreamd.mcpio.jsonrpc import RequestId
from redstreamd.mcpio.kernels import TakeCall
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.mcpio.session import Session
from redstreamd.policy import Principal
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import Write
from redstreamd.redisio.topology import CommandQueue
from redstreamd.settings import Settings, ToolsSettings
from redstreamd.streams.bus import Bus
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Tool
from redstreamd.tools.invocation import CANCELLED
from redstreamd.tools.schema import arguments_schema
from tests.support.buses import running_bus
from tests.support.calls import ME, call
from tests.support.json_lines import LINES, MUTATIONS, VALUES, Members, tree, write
from tests.support.mcp_client import ENVELOPE
from tests.support.servers import Server
from tests.support.trio_thread import TrioThread
from tests.support.two_ways import (
    MODERN,
    REVISIONS,
    Surface,
    Way,
    call_line,
    comparable,
    request,
    running_way,
    surface_over,
)
from tests.support.waiting import until
from tests.tools.test_annotations import READ, contents

TOOLS = pytest.mark.parametrize("name", [tool.name for tool in REGISTRY])
OTHER = Principal("other", "unix")
#: Of each property and tool: each costs two calls, and two looks at all of Redis.
EXAMPLES = settings.default.max_examples // 8
#: Of two kinds of names: those that the rule for names allows, and those of which it warns.
PREFIXES = ("a:b:", "")


# --- What is in Redis before each line ---------------------------------------------------------


@attrs.frozen
class World:
    """The content of Redis.

    Attributes:
        keys: Each key with its value, as DUMP writes it, and its milliseconds to live, 0 for ever.
        ids: IDs of its entries that calls name.
        leases: Of all kinds: on several entries, on one, on a request.
        known: The IDs that answers may name; others are made by the call.
    """

    keys: list[tuple[bytes, bytes, int]]
    ids: list[str]
    leases: list[str]
    known: frozenset[str]

    def restore(self, server: Server) -> None:
        """Put this content in the place of what is there."""
        server.commands(
            ("FLUSHALL",), *[("RESTORE", key, left, dumped, "REPLACE") for key, dumped, left in self.keys]
        )


async def make_world(bus: Bus, server: Server) -> World:
    server.flush()
    ids: list[str] = []
    leases: list[str] = []
    for prefix in PREFIXES:

        async def take(stream: str, consumer: str = "me", who: Principal = ME, count: int = 1) -> str:
            taken = await call(
                bus,
                "work_take",
                who,
                stream=stream,
                group="g",
                consumer=consumer,
                count=count,
                lease_seconds=3600,
            )
            return str(taken["lease"])

        s, asked, solo = f"{prefix}s", f"{prefix}asked", f"{prefix}solo"
        added = await call(bus, "stream_add", OTHER, stream=s, entries=[{"n": n} for n in range(8)])
        await call(bus, "stream_add", OTHER, stream=solo, entries=[{"n": 1}])
        await call(bus, "request_reply", OTHER, stream=asked, entry={"q": 1}, timeout_seconds=0)
        await call(bus, "group_create", OTHER, stream=s, group="late")
        await call(bus, "work_fail", lease=await take(s, count=2), action="dead_letter")
        leases += [await take(s, count=2), await take(solo), await take(asked)]
        await take(s, "them", OTHER)
        letters = await call(bus, "dead_letter_replay", stream=s, group="g")
        ids += [*added["ids"], letters["entries"][0]["id"]]
    keys: list[bytes] = sorted(server.command("KEYS", "*"))
    dumps = server.commands(*[("DUMP", key) for key in keys])
    lives = server.commands(*[("PTTL", key) for key in keys])
    whole = [(key, dump, max(0, left)) for key, dump, left in zip(keys, dumps, lives, strict=True)]
    return World(whole, ids, leases, frozenset(ids))


#: Part of a key that follows from an identifier which a call draws.
_CHANCE = re.compile("[0-9a-f]{32}")


def state(server: Server) -> dict[str, Any]:
    """Return what is in Redis, as far as it does not depend on the moment.

    Nor on chance, as the notes by which a call recognises its own repetition.
    """
    keys: list[bytes] = sorted(key for key in server.command("KEYS", "*") if b":rs:call:" not in key)
    kinds = server.commands(*[("TYPE", key) for key in keys])
    values = server.commands(*[READ[kind](key) for key, kind in zip(keys, kinds, strict=True)])
    # Several keys may have names that differ by chance only.
    found: dict[str, list[Any]] = {}
    for key, kind, value in zip(keys, kinds, values, strict=True):
        shown = in_short(contents(value)) if kind == b"stream" else (kind, len(value))
        found.setdefault(_CHANCE.sub("<hash>", key.decode()), []).append(shown)
    return {name: sorted(shown, key=repr) for name, shown in found.items()}


def in_short(stream: dict[str, Any]) -> Any:
    entries = [
        {name: value for name, value in zip(fields[::2], fields[1::2], strict=True) if b"correl" not in name}
        for _, fields in stream["entries"]
    ]
    groups = {
        name: (sorted(str(consumer) for consumer, _ in held.values()), sorted(consumers))
        for name, (_, held, consumers) in stream["groups"].items()
    }
    return entries, groups


# --- The two ways ------------------------------------------------------------------------------


@attrs.frozen
class Difference:
    """What is not the same on both ways."""

    line: bytes
    direct: Any
    kernel: Any


@attrs.define
class Ways:
    """Both ways, for clients of each revision.

    Attributes:
        server: The Redis of both.
        surface: What both serve.
        world: What is in Redis before each line.
        direct: The connections with the direct path, by revision.
        kernel: Those without it.
    """

    server: Server
    surface: Surface
    world: World
    direct: Mapping[str, Way]
    kernel: Mapping[str, Way]
    _is_restored: bool = False

    async def difference(self, revision: str, line: bytes, reads: bool = False) -> Difference | None:
        """Send a line on both ways, each on the same content of Redis, and compare what happened.

        A line that only `reads` leaves the content as it is.
        """
        found: dict[str, Any] = {}
        ways = {"direct": self.direct[revision], "kernel": self.kernel[revision]}
        for name, way in ways.items():
            if not (reads and self._is_restored):
                self.world.restore(self.server)
            self._is_restored = reads
            self.surface.ended.clear()
            answers = comparable(await way.talk(line), self.world.known)
            if line.lstrip().startswith(b"["):
                # Those of a batch come in any order.
                answers.sort(key=json.dumps)
            ended = [(each.tool, each.streams, each.outcome) for each in self.surface.ended]
            found[name] = (answers, ended, None if reads else state(self.server))
        if found["direct"] == found["kernel"]:
            return None
        return Difference(line, found["direct"], found["kernel"])

    def took(self, revision: str) -> int:
        """How many requests have taken the direct path."""
        return self.direct[revision].connection.statistics().direct


@asynccontextmanager
async def both_ways(
    server: Server, make_path: Callable[[Surface], TakeCall | None] = lambda _: None
) -> AsyncIterator[Ways]:
    async with AsyncExitStack() as stack:
        # A mutated line may ask for no time to wait.
        quick = Settings(tools=ToolsSettings(default_wait_seconds=0.05))
        bus = await stack.enter_async_context(running_bus(server, quick))
        surface = surface_over(bus)
        path = make_path(surface)
        direct: dict[str, Way] = {}
        kernel: dict[str, Way] = {}
        for each in REVISIONS:
            for ways, is_direct in ((direct, True), (kernel, False)):
                way = running_way(surface, direct=is_direct, revision=each, path=path)
                ways[each] = await stack.enter_async_context(way)
        yield Ways(server, surface, await make_world(bus, server), direct, kernel)


@pytest.fixture(scope="module")
def thread(redis_server: Server) -> Iterator[TrioThread[Ways]]:
    running = TrioThread(both_ways(redis_server))
    yield running
    running.close()


# --- Lines -------------------------------------------------------------------------------------


def values_of(name: str, schema: Mapping[str, Any], world: World) -> list[Any]:
    """Return valid values of an argument, those that matter to the tool among them."""
    streams = [prefix + each for prefix in PREFIXES for each in ("s", "asked", "solo", "absent")]
    entries = [
        [{"n": 1}],
        [{"n": 1}, {"m": "x", "deep": {"a:b": [None, 1.5, True]}}],
        [{"\u00e9": 'a "b": \\\n'}],
    ]
    named: dict[str, list[Any]] = {
        "stream": [*streams, "a:b:new", "New", "\u00e9"],
        "streams": [[each] for each in streams] + [streams[:3]],
        "reply_to": ["a:b:answers", "Answers"],
        "group": ["g", "g", "g", "late", "absent", "a:b"],
        "consumer": ["me", "them", "\u4e2d"],
        "to_consumer": ["me", "other"],
        "lease": [*world.leases, *world.leases, "forged"],
        "entry_ids": [world.ids[:1], world.ids[2:4], [world.ids[-1]], ["1-1"]],
        "entries": entries,
        "entry": entries[1],
        "message": entries[1],
        "reply": entries[0],
        "filter": [{"n": 1}, {"n": 1, "absent": None}],
        "timeout_seconds": [0],
        "start": ["earliest", "latest", "0", "1-1", "yesterday"],
        "end": ["latest", "9999999999999-0"],
        "cursor": ["0-0", "nonsense"],
        "min_id": ["1-1"],
        # Of all that is there, and of nothing: an age between would be reached between the two ways.
        "max_age_seconds": [0.001, 3600],
        "pattern": ["*", "a:b:*"],
    }
    if name in named:
        return named[name]
    if "enum" in schema:
        return list(schema["enum"])
    kinds = {
        "boolean": [True, False],
        "integer": [1, 2, 50],
        "number": [1, 2.5],
        "string": ["k", "\u00e9: x"],
    }
    return kinds[schema["type"]]


def arguments_for(tool: Tool[Any], world: World, chance: Random) -> dict[str, Any]:
    """Return arguments that fit the tool's schema."""
    schema = arguments_schema(tool.arguments)
    return {
        name: chance.choice(values_of(name, member, world))
        for name, member in schema["properties"].items()
        # Without a timeout, a call would wait.
        if name in {*schema.get("required", ()), "timeout_seconds"} or chance.random() < 0.3
    }


IDS: list[Any] = [1, 1, 0, -1, 2**53, "7", "x", "a:b", "\u00e9", "", 'quotes " :']
METAS: list[dict[str, Any]] = [{}, {}, {"progressToken": 1}, {"progressToken": "a:b"}]


def message_for(tool: Tool[Any], revision: str, world: World, chance: Random) -> Members:
    """Return a plain call of a tool."""
    params: dict[str, Any] = {"name": tool.name, "arguments": arguments_for(tool, world, chance)}
    meta = chance.choice(METAS)
    if revision == MODERN:
        meta = {**ENVELOPE, **meta}
    if meta or chance.random() < 0.1:
        params["_meta"] = meta
    message = {"jsonrpc": "2.0", "id": chance.choice(IDS), "method": "tools/call", "params": params}
    plain: Members = tree(message)
    return plain


def mutated(message: Members, chance: Random) -> bytes:
    """Return the line of a message that is changed in one place or in several."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        chance.choice(MUTATIONS)(message, chance)
    line = write(message, chance.choice(["", "", "", " ", "\t "])).encode("utf-8", "surrogatepass")
    if chance.random() < 0.15:
        line = chance.choice(LINES)(line)
    return line.replace(b"\n", b" ")


#: Draws that a failing example makes small.
chances = st.randoms(use_true_random=False)


# --- The difference ----------------------------------------------------------------------------


@TOOLS
@given(chance=chances, revision=st.sampled_from(REVISIONS))
@settings(max_examples=EXAMPLES)
def test_a_plain_call_has_the_same_answer_and_effect_on_both_ways(
    thread: TrioThread[Ways], name: str, chance: Random, revision: str
) -> None:
    ways, tool = thread.value, REGISTRY.get(name)
    line = write(message_for(tool, revision, ways.world, chance)).encode()
    assert thread.call(ways.difference, revision, line, tool.hints.read_only.value) is None


@TOOLS
@given(chance=chances, revision=st.sampled_from(REVISIONS))
@settings(max_examples=EXAMPLES)
def test_any_line_has_the_same_answer_and_effect_on_both_ways(
    thread: TrioThread[Ways], name: str, chance: Random, revision: str
) -> None:
    ways, tool = thread.value, REGISTRY.get(name)
    line = mutated(message_for(tool, revision, ways.world, chance), chance)
    assert thread.call(ways.difference, revision, line, tool.hints.read_only.value) is None


def corpus(world: World, each: int = 2) -> Iterator[tuple[str, bool, bool, bytes]]:
    """Iterate over lines for all tools, with revision, whether they only read, and whether they are plain.

    The same lines in every run, so that what is found in them is found in every run.
    """
    for tool in REGISTRY:
        for revision in REVISIONS:
            chance = Random(f"{tool.name} {revision}")
            for number in range(each):
                message = message_for(tool, revision, world, chance)
                is_plain = number % 2 == 0
                line = write(message).encode() if is_plain else mutated(message, chance)
                yield revision, tool.hints.read_only.value, is_plain, line


def test_nearly_every_plain_call_takes_the_direct_path(thread: TrioThread[Ways]) -> None:
    ways = thread.value
    plain = taken = 0
    for revision, reads, is_plain, line in corpus(ways.world):
        before = ways.took(revision)
        assert thread.call(ways.difference, revision, line, reads) is None
        if is_plain:
            plain += 1
            taken += ways.took(revision) - before
    assert plain >= len(REGISTRY) * len(REVISIONS)
    assert taken >= 0.95 * plain, f"{taken} of {plain}"


def special_lines() -> Iterator[tuple[str, bool, bytes]]:
    """Iterate over lines that differ from a plain call in one place, as `Ways.difference` takes them."""
    arguments = {"stream": "a:b:s", "entries": [{"n": 1}]}
    for revision in (REVISIONS[1], MODERN):
        add = call_line(revision, 1, "stream_add", arguments).strip()
        read = call_line(revision, 1, "stream_read", {"stream": "a:b:s", "filter": {"n": 1}}).strip()
        yield revision, False, add
        for change in LINES:
            yield revision, True, change(read)
        for text in (b"null", b"[]", b'"{}"', b'"x"', b"7", b'{"stream":null}', b"{}"):
            yield revision, False, add.replace(json.dumps(arguments, separators=(",", ":")).encode(), text)
        for value in VALUES:
            written = write(value).encode("utf-8", "surrogatepass")
            yield revision, False, add.replace(b'{"n":1}', b'{"n":' + written + b"}")
            yield revision, True, read.replace(b'"id":1', b'"id":' + written)
            yield revision, True, read.replace(b'"stream":"a:b:s"', b'"stream":' + written)
            yield revision, True, read.replace(b'{"n":1}', written)
            yield revision, True, read.replace(b'"name":"stream_read"', b'"name":' + written)
            meta = b'"_meta":{"progressToken":' + written
            if revision == MODERN:
                yield revision, True, read.replace(b'"_meta":{', meta + b",")
            yield revision, True, read.replace(b'"name":', meta + b'},"name":')
        for name in (b"jsonrpc", b"id", b"method", b"params", b"name", b"arguments", b"stream", b"n"):
            again = b'"' + name + b'":'
            yield revision, True, read.replace(again, again + b"0," + again, 1)


def test_a_line_that_differs_in_one_place_has_the_same_answer_on_both_ways(thread: TrioThread[Ways]) -> None:
    ways = thread.value
    for revision, reads, line in special_lines():
        assert thread.call(ways.difference, revision, line, reads) is None


def test_so_has_one_that_follows_on_calls_of_its_form(thread: TrioThread[Ways]) -> None:
    ways = thread.value
    lines = list(special_lines())
    tools = {"stream_add": {"entries": [{"n": 1}]}, "stream_read": {"filter": {"n": 1}}}
    for revision in (REVISIONS[1], MODERN):
        for reads, (tool, arguments) in enumerate(tools.items()):
            plain = call_line(revision, 1, tool, {"stream": "a:b:s", **arguments}).strip()
            for _ in range(10):
                thread.call(ways.direct[revision].talk, plain)
            for line in (line for *kind, line in lines if kind == [revision, bool(reads)]):
                assert thread.call(ways.difference, revision, line, bool(reads)) is None
            # One with another member has the form of those without it.
            more = plain if revision == MODERN else plain[:-2] + b',"_meta":{"progressToken":7}}}'
            before = ways.took(revision)
            assert thread.call(ways.difference, revision, more, bool(reads)) is None
            assert ways.took(revision) == before + 1


@pytest.mark.parametrize("revision", REVISIONS)
def test_results_have_the_members_that_they_had_before_there_was_a_direct_path(
    thread: TrioThread[Ways], revision: str
) -> None:
    """Structured content is sent in all revisions, also in those that do not define it."""
    expected = {"content", "structuredContent", "isError"}
    if revision == MODERN:
        expected |= {"resultType", "_meta"}
    line = call_line(revision, 1, "stream_list", {})
    ways = thread.value
    for way in (ways.direct[revision], ways.kernel[revision]):
        (answer,) = thread.call(way.talk, line)
        assert json.loads(answer)["result"].keys() == expected


async def test_the_first_line_of_a_connection_is_answered_the_same_on_both_ways(redis: Server) -> None:
    """Before a client has shown its era, a line may show it, or leave it open."""
    async with running_bus(redis) as bus:
        surface = surface_over(bus)
        world = await make_world(bus, redis)
        handshake, modern = (call_line(each, 1, "stream_list", {}) for each in (REVISIONS[0], MODERN))
        wrong = modern.replace(b"2026-07-28", b"2027-01-01")
        ping = request("p", "ping", {})
        answers = {}
        for direct in (True, False):
            found = []
            for lines in (
                *([handshake], [modern], [wrong], [ping], [modern[:-2]]),
                *([ping, modern], [wrong, modern], [modern, handshake], [modern, wrong], [handshake, modern]),
            ):
                async with running_way(surface, direct=direct, greets=False) as way:
                    found += [comparable(await way.talk(line), world.known) for line in lines]
            answers[direct] = found
        assert answers[True] == answers[False]


@attrs.frozen
class _Replying:
    """Redis, but for the replies to what is submitted."""

    redis: Redis
    reply: Any

    @property
    def command_timeout(self) -> float:
        return self.redis.command_timeout

    @property
    def queues(self) -> dict[Role, CommandQueue]:
        return dict.fromkeys(Role, self)

    def submit(self, write: Write, then: Callable[[Any], None] | None, key: str | bytes) -> Request:
        return self.redis.queues[Role.COMMAND].submit(write, lambda _reply: self.told(then), key)

    def told(self, then: Callable[[Any], None] | None) -> None:
        assert then is not None
        then(self.reply)


@attrs.frozen
class _Withholding(_Replying):
    """Keeps who is to be told of a reply, once it is here."""

    reply: Any = None
    replies: list[Callable[[Any], None]] = attrs.field(factory=list)

    def told(self, then: Callable[[Any], None] | None) -> None:
        assert then is not None
        self.replies.append(then)


@pytest.mark.parametrize(
    ("more", "code"),
    [({}, Code.OUTCOME_UNKNOWN), ({"idempotency_key": "k"}, Code.CONNECTION_ERROR)],
    ids=["read by the driver of a plan", "of a script"],
)
@pytest.mark.parametrize("reply", [None, 5, [b"1-1"]])
async def test_a_reply_that_a_command_does_not_have_is_told_as_that_on_the_direct_path(
    redis: Server, more: dict[str, Any], code: Code, reply: Any, defects: list[Defect]
) -> None:
    async with running_bus(redis) as bus:
        # Else the call is sent by a task.
        await bus.redis.wait_connected()
        surface = surface_over(bus)
        path = DirectPath(surface.path.toolbox, cast("Redis", _Replying(bus.redis, reply)), {})
        async with running_way(surface, direct=True, path=path) as way:
            line = call_line(MODERN, 1, "stream_add", {"stream": "a:b:c", "entries": [{"n": 1}]} | more)
            (answer,) = await way.talk(line)
    content = json.loads(answer)["result"]["structuredContent"]
    assert content["code"] == code
    assert len(defects) == 1


async def test_a_defect_that_the_reply_shows_is_logged_also_when_the_session_has_ended(
    redis: Server, defects: list[Defect]
) -> None:
    async with running_bus(redis) as bus:
        await bus.redis.wait_connected()
        surface = surface_over(bus)
        withheld = _Withholding(bus.redis)
        path = DirectPath(surface.path.toolbox, cast("Redis", withheld), {})
        async with running_way(surface, direct=True, path=path) as way:
            await way.call(1, "stream_add", stream="a:b:c", entries=[{"n": 1}], correlation_id="c")
            await until(lambda: len(withheld.replies) == 1)
        assert [each.outcome for each in surface.ended] == [CANCELLED]
        assert not defects
        # The first step passes it on, and the next cannot decode it.
        withheld.replies[0](b"\xff")
    assert len(defects) == 1
    assert len(surface.ended) == 1


# --- A wrong path is found ---------------------------------------------------------------------


@attrs.define
class _Changing:
    """A sink that changes the answers that go to another."""

    sink: Sink
    changed: Callable[[bytes], bytes]

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        self.sink.send(self.changed(line), is_last=is_last)

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        self.sink.answer(self.changed(line), is_last=is_last)

    def unanswered(self, request_id: RequestId) -> None:
        self.sink.unanswered(request_id)


class _Wrong(DirectPath):
    """A direct path whose messages are changed."""

    def __init__(self, surface: Surface) -> None:
        path = surface.path
        super().__init__(path.toolbox, path.redis, {"name": NAME, "title": TITLE, "version": __version__})

    def __call__(self, session: Session, call: PlainCall, size: int, sink: Sink) -> bool:
        return super().__call__(session, call, size, _Changing(sink, self.changed_line))

    def changed_line(self, line: bytes) -> bytes:
        raise NotImplementedError


class _Rewriting(_Wrong):
    """A direct path whose answers are changed."""

    def rewritten(self, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def changed_line(self, line: bytes) -> bytes:
        message = json.loads(line)
        if "result" in message:
            self.rewritten(message)
        return json.dumps(message).encode() + b"\n"


class _IdAsText(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["id"] = str(message["id"])


class _NoResultType(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["result"].pop("resultType", None)


class _ResultTypeInEveryEra(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["result"]["resultType"] = "complete"


class _NoServerInfo(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["result"].pop("_meta", None)


class _NoStructuredContent(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["result"].pop("structuredContent", None)


class _NoWarning(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["result"].get("structuredContent", {}).pop("warning", None)


class _ErrorsAreResults(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        message["result"]["isError"] = False


class _NumbersAreFloats(_Rewriting):
    def rewritten(self, message: dict[str, Any]) -> None:
        content = message["result"].get("structuredContent", {})
        for name, value in content.items():
            if type(value) is int:
                content[name] = float(value)


class _Lenient(_Rewriting):
    """A direct path that takes what is not plain: the last of repeated names, and no unknown ones."""

    def rewritten(self, message: dict[str, Any]) -> None: ...

    def __call__(self, session: Session, call: PlainCall, size: int, sink: Sink) -> bool:
        try:
            arguments = json.loads(bytes(call.arguments))
        except ValueError:
            return super().__call__(session, call, size, sink)
        changed = json.dumps(self.changed(arguments)).encode()
        plain = msgspec.structs.replace(call, arguments=changed)
        return super().__call__(session, plain, size, sink)

    def changed(self, arguments: Any) -> Any:
        return arguments


class _LastOfRepeatedNames(_Lenient):
    pass


class _UnknownArgumentsAreIgnored(_Lenient):
    def changed(self, arguments: Any) -> Any:
        known = {"stream", "entries"}
        return {name: value for name, value in arguments.items() if name in known}


class _AnswersTwice(_Wrong):
    def changed_line(self, line: bytes) -> bytes:
        return 2 * line


WRONG: list[type[DirectPath]] = [
    *(_IdAsText, _NoResultType, _ResultTypeInEveryEra, _NoServerInfo, _NoStructuredContent, _NoWarning),
    *(_ErrorsAreResults, _NumbersAreFloats, _LastOfRepeatedNames, _UnknownArgumentsAreIgnored, _AnswersTwice),
]


@pytest.fixture(scope="module", params=WRONG, ids=[each.__name__.strip("_") for each in WRONG])
def wrong(request: pytest.FixtureRequest, redis_server: Server) -> Iterator[TrioThread[Ways]]:
    """Both ways, with a direct path that is wrong in one place."""
    running = TrioThread(both_ways(redis_server, request.param))
    yield running
    running.close()


def test_a_direct_path_that_is_wrong_in_one_place_is_found(wrong: TrioThread[Ways]) -> None:
    ways = wrong.value
    add = {"stream": "a:b:s", "entries": [{"n": 1}]}
    lines = [
        call_line(revision, 1, tool, arguments)
        for revision in (REVISIONS[0], MODERN)
        for tool, arguments in (
            ("stream_add", add),
            ("stream_add", {**add, "stream": "Unusual"}),
            ("stream_add", {**add, "unknown": 1}),
            ("stream_read", {"stream": "a:b:absent"}),
            ("pending_list", {"stream": "a:b:s", "group": "g"}),
        )
    ]
    repeated = lines[0].replace(b'"stream":', b'"stream":"a:b:t","stream":')
    for line in (*lines, repeated):
        revision = MODERN if b"2026-07-28" in line else REVISIONS[0]
        if wrong.call(ways.difference, revision, line) is not None:
            return
    raise AssertionError("no line shows it")

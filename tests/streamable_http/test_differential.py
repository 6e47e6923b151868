"""The same message, as a line and over HTTP, has the same answer and effect, and the status that fits.

The messages are those that test_direct_path.py generates for every tool, the requests of all other methods,
and those of test_transport_edge.py that no client should send. `is_on_purpose` says what may differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS

from redstreamd.settings import Settings, ToolsSettings
from redstreamd.streamable_http.http_messages import (
    Answer,
    Client,
    Handler,
    RequestHead,
    Responder,
    Site,
)
from redstreamd.tools.catalog import REGISTRY
from tests.conformance.test_requirements import REQUESTS
from tests.daemon.test_transport_edge import Speaker
from tests.mcp_server.test_direct_path import (
    World,
    chances,
    make_world,
    message_for,
    mutated,
    special_lines,
    state,
)
from tests.support.buses import running_bus
from tests.support.http_way import HttpWay, running_http_way
from tests.support.json_lines import write
from tests.support.servers import Server
from tests.support.streamable_client import REVISIONS, Reply, meant
from tests.support.trio_thread import TrioThread
from tests.support.two_ways import MODERN, Surface, Way, comparable, running_way, surface_over

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
HEADER_MISMATCH, UNSUPPORTED = -32020, -32022
HEALTH = {"uri": "redstream://health"}
_SURROGATE = re.compile("[\ud800-\udfff]")
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
#: For each tool: each costs two calls, and two looks at all of Redis.
EXAMPLES = 5


@attrs.frozen
class Difference:
    """What is not the same on both ways."""

    line: bytes
    as_line: Any
    over_http: Any

    @property
    def told(self) -> str:
        """What a failure says of it."""
        return f"{self.line!r}\n  as a line: {self.as_line}\n  over HTTP: {self.over_http}"


def status_of(revision: str, messages: list[Any]) -> int:
    """Return the status of a response with these messages.

    By the table of another implementation; in the older revisions, which say nothing of it, whatever is a
    request is answered with 200, since their clients do not read the message otherwise.
    """
    if not messages:
        return 202
    code = messages[-1].get("error", {}).get("code") if isinstance(messages[-1], dict) else None
    if revision == MODERN:
        return ERROR_CODE_HTTP_STATUS.get(code, 200)
    return 400 if code in (PARSE_ERROR, INVALID_REQUEST) else 200


@attrs.define
class Ways:
    """Both ways, for clients of each revision.

    Attributes:
        server: The Redis of both.
        surface: What both serve.
        world: What is in Redis before each message.
        lines: The connections of lines, by revision.
        http: Those of HTTP.
    """

    server: Server
    surface: Surface
    world: World
    lines: Mapping[str, Way]
    http: Mapping[str, HttpWay]
    _is_restored: bool = False

    async def difference(self, revision: str, line: bytes, reads: bool = False) -> Difference | None:
        """Send a message both ways, each on the same content of Redis, and compare what happened.

        A message that only `reads` leaves the content as it is.
        """
        found: list[Any] = []
        reply: Reply | None = None
        for over_http in (False, True):
            if not (reads and self._is_restored):
                self.world.restore(self.server)
            self._is_restored = reads
            self.surface.ended.clear()
            if over_http:
                reply = await self.http[revision].talk(line)
                messages = [json.dumps(each).encode() for each in reply.messages]
            else:
                messages = await self.lines[revision].talk(line)
            ended = [(each.tool, each.streams, each.outcome) for each in self.surface.ended]
            answers = comparable(messages, self.world.known)
            found.append((answers, ended, None if reads else state(self.server)))
        assert reply is not None
        as_line, over = found
        expected = status_of(revision, reply.messages)
        if reply.status == expected and (as_line == over or is_on_purpose(revision, line, as_line, over)):
            return None
        return Difference(line, (expected, *as_line), (reply.status, *over))


def is_on_purpose(revision: str, line: bytes, as_line: Any, over_http: Any) -> bool:
    """Return whether the difference is one of these, with one failure and no effect both ways.

    - What a header cannot repeat is refused as a header that differs: what should be a text and is none.
    - `initialize` is no method of the newest revision. As a line it is refused as an older revision.
    - A batch, and a request without its envelope, is refused in other words.
    - A notification that its headers do not allow is refused without an id. As a line it is not answered.
    """
    (line_answers, _, line_state), (http_answers, _, http_state) = as_line, over_http
    if line_state != http_state or len(line_answers) > 1 or len(http_answers) != 1:
        return False
    refused_over_http = http_answers[0]
    if not line_answers:
        notification = meant(line)
        is_refused = "error" in refused_over_http and refused_over_http["id"] is None
        return is_refused and isinstance(notification, dict) and "id" not in notification
    refused = line_answers[0]
    if refused["id"] != refused_over_http["id"]:
        return False
    message = meant(line)
    codes = failure(refused), failure(refused_over_http)
    if codes[0] == codes[1]:
        words = [each.get("error", {}).get("message", "") for each in (refused, refused_over_http)]
        return isinstance(message, list) or all("_meta" in each for each in words)
    if revision != MODERN or not isinstance(message, dict):
        return False
    if message.get("method") == "initialize":
        return codes == (str(UNSUPPORTED), str(METHOD_NOT_FOUND))
    return bool(codes[0]) and codes[1] == str(HEADER_MISMATCH) and not is_repeatable(message)


def failure(message: Any) -> str:
    """Return the code of an error, or of a failed call, of a comparable message; empty of another."""
    if "error" in message:
        return str(message["error"]["code"]["int"])
    result = message["result"]
    return str(result["structuredContent"]["code"]) if result.get("isError") else ""


def is_repeatable(message: dict[str, Any]) -> bool:
    """Return whether headers can repeat what a request says."""
    params = message["params"]
    named = params.get("uri" if message["method"] == "resources/read" else "name", "")
    arguments = params.get("arguments")
    stream = arguments.get("stream", "") if isinstance(arguments, dict) else ""
    texts = (named, params["_meta"][VERSION_KEY], stream)
    return all(isinstance(each, str) and not _SURROGATE.search(each) for each in texts)


@asynccontextmanager
async def both_ways(server: Server, **wrong: Any) -> AsyncIterator[Ways]:
    """Serve both ways for the block; `wrong` is for `running_http_way`."""
    async with AsyncExitStack() as stack:
        # A mutated line may ask for no time to wait.
        quick = Settings(tools=ToolsSettings(default_wait_seconds=0.05))
        bus = await stack.enter_async_context(running_bus(server, quick))
        surface = surface_over(bus)
        lines: dict[str, Way] = {}
        http: dict[str, HttpWay] = {}
        for each in REVISIONS:
            lines[each] = await stack.enter_async_context(running_way(surface, direct=True, revision=each))
            http[each] = await stack.enter_async_context(running_http_way(surface, revision=each, **wrong))
        yield Ways(server, surface, await make_world(bus, server), lines, http)


@pytest.fixture(scope="module")
def thread(redis_server: Server) -> Iterator[TrioThread[Ways]]:
    running = TrioThread(both_ways(redis_server))
    yield running
    running.close()


# --- The difference ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [tool.name for tool in REGISTRY])
@given(chance=chances, revision=st.sampled_from(REVISIONS), is_plain=st.booleans())
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_any_call_has_the_same_answer_and_effect_both_ways(
    thread: TrioThread[Ways], name: str, chance: Random, revision: str, is_plain: bool
) -> None:
    ways, tool = thread.value, REGISTRY.get(name)
    message = message_for(tool, revision, ways.world, chance)
    line = write(message).encode() if is_plain else mutated(message, chance)
    assert (found := thread.call(ways.difference, revision, line, tool.hints.read_only.value)) is None, (
        found.told
    )


def test_a_call_that_differs_in_one_place_has_the_same_answer_both_ways(thread: TrioThread[Ways]) -> None:
    ways = thread.value
    for number, (revision, reads, line) in enumerate(special_lines()):
        # All of them in the newest revision, and a part in an older one.
        if revision != MODERN and number % 5:
            continue
        spoken = revision if revision == MODERN else REVISIONS[number // 5 % 2]
        assert (found := thread.call(ways.difference, spoken, line, reads)) is None, found.told


@pytest.mark.parametrize("revision", REVISIONS)
def test_all_other_messages_have_the_same_answer_both_ways(thread: TrioThread[Ways], revision: str) -> None:
    ways, speaker = thread.value, Speaker("modern" if revision == MODERN else "handshake")
    # The health is another one each time.
    lines = [speaker.request(7, method, params) for method, params in REQUESTS if params != HEALTH]
    # What is long in a revision is cut elsewhere.
    cases = [case for case in speaker.cases() if case.answers and case.note != "a long revision"]
    lines += [case.sent for case in cases if b"\n" not in case.sent]
    lines += [
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","method":"notifications/unknown"}',
    ]
    assert len(lines) > 60
    for line in lines:
        assert (found := thread.call(ways.difference, revision, line, True)) is None, found.told


# --- A wrong way is found ----------------------------------------------------------------------


@attrs.define
class _ChangedResponder:
    """Changes the whole responses that go to another responder."""

    responder: Responder
    changed: Callable[[Answer], Answer]

    def answer(self, answer: Answer) -> None:
        self.responder.answer(self.changed(answer))

    @property
    def on_gone(self) -> Any:
        return self.responder.on_gone

    @on_gone.setter
    def on_gone(self, called: Any) -> None:
        self.responder.on_gone = called

    def __getattr__(self, name: str) -> Any:
        return getattr(self.responder, name)


@attrs.define
class _ChangedHandler:
    handler: Handler
    changed: Callable[[Answer], Answer]

    def serve(self, head: RequestHead, body: bytes, responder: Responder) -> Any:
        return self.handler.serve(head, body, _ChangedResponder(responder, self.changed))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handler, name)


def site_with(changed: Callable[[dict[str, Any]], Any]) -> Any:
    """Return what serves a site's answers with their messages changed."""

    def change(answer: Answer) -> Answer:
        if not answer.body:
            return answer
        message = json.loads(answer.body)
        changed(message)
        return msgspec.structs.replace(answer, body=json.dumps(message).encode())

    return answers_with(change)


def answers_with(changed: Callable[[Answer], Answer]) -> Any:
    """Return what serves a site with its answers changed."""

    @attrs.define
    class Changed:
        site: Site

        def connected(self, client: Client) -> Any:
            return _ChangedHandler(self.site.connected(client), changed)

    return {"site": Changed}


def without(header: str) -> Any:
    """Return a client that leaves a header out."""
    return {"altered": lambda headers: headers.pop(header, None)}


def _as_text(message: dict[str, Any]) -> None:
    message["id"] = str(message["id"])


def _no_content(message: dict[str, Any]) -> None:
    message.get("result", {}).pop("structuredContent", None)


def _other_words(message: dict[str, Any]) -> None:
    if "error" in message:
        message["error"]["message"] += "."


def _always_200(answer: Answer) -> Answer:
    return msgspec.structs.replace(answer, status=200 if answer.status >= 400 else answer.status)


def _always_400(answer: Answer) -> Answer:
    failed = b'"error"' in answer.body
    return msgspec.structs.replace(answer, status=400 if failed else answer.status)


WRONG: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "ids as text": (site_with(_as_text), lambda _: True),
    "no structured content": (site_with(_no_content), lambda _: True),
    "errors in other words": (site_with(_other_words), lambda _: True),
    "200 for every error": (answers_with(_always_200), lambda _: True),
    "400 for every error": (answers_with(_always_400), lambda revision: revision != MODERN),
    "no Mcp-Method": (without("Mcp-Method"), lambda revision: revision == MODERN),
    "no Mcp-Name": (without("Mcp-Name"), lambda revision: revision == MODERN),
    "no session": (without("Mcp-Session-Id"), lambda revision: revision != MODERN),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_way_that_is_wrong_in_one_place_is_found(redis: Server, name: str) -> None:
    wrong, concerns = WRONG[name]
    async with both_ways(redis, **wrong) as ways:
        for revision in filter(concerns, REVISIONS):
            speaker = Speaker("modern" if revision == MODERN else "handshake")
            lines = [
                speaker.request(1, method, params)
                for method, params in (
                    ("tools/call", {"name": "stream_list", "arguments": {}}),
                    ("tools/call", {"name": "no_such_tool"}),
                    ("tools/call", {}),
                    ("no/such/method", {}),
                )
            ]
            found = [await ways.difference(revision, line, reads=True) for line in (*lines, lines[0][:-1])]
            assert any(found), revision

"""What the bridge remembers of a session, against a model that parses every line as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from redstreamd.client import repetition, request_table, subscription_memory
from redstreamd.client.bridged_session import BridgedSession
from redstreamd.mcp_server import update_lines
from redstreamd.tools.catalog import REGISTRY

PATIENCE = request_table.PATIENCE_SECONDS
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}

IDS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.text(max_size=6),
    st.sampled_from(["", '"', "\\", "é", "\x7f", 'a","id":5}', "\ud800"]),
)
CALLS = st.sampled_from(
    [
        ("ping", None),
        ("tools/list", {}),
        ("resources/read", {"uri": "redstream://health"}),
        ("logging/setLevel", {"level": "info"}),
        ("tools/call", {"name": "stream_read", "arguments": {"stream": "a"}}),
        ("tools/call", {"name": "stream_add", "arguments": {"stream": "a", "entries": [{"id": 1}]}}),
        (
            "tools/call",
            {"name": "stream_add", "arguments": {"idempotency_key": "k", "entries": ['}{,"id":7']}},
        ),
        ("tools/call", {"name": "stream_add", "arguments": {"idempotency_key": None}}),
        ("tools/call", {"name": "stream_add", "arguments": {"a": {"b": 1, "jsonrpc": "2.0", "id": 7}}}),
        ("tools/call", {"name": "stream_wait", "arguments": {"streams": ["a"], "cursor": "1-1"}}),
    ]
)


def written(message: dict[str, Any], form: str) -> bytes:
    """Write a message as one of the known clients does, or as none does."""
    members = dict(message)
    if form == "typescript":
        order = ("method", "params", "jsonrpc", "id")
    elif form == "odd":
        order = ("params", "id", "method", "jsonrpc")
    else:
        order = ("jsonrpc", "id", "method", "params")
    ordered = {name: members[name] for name in order if name in members}
    if form == "spaced":
        return b" " + json.dumps(ordered, indent=1).replace("\n", " ").encode() + b"\r\n"
    return json.dumps(ordered, separators=(",", ":")).encode() + b"\n"


FORMS = st.sampled_from(["python", "typescript", "odd", "spaced"])


def answer(request_id: object, **outcome: Any) -> bytes:
    """Write an answer as the daemon does."""
    text = json.dumps(
        {"jsonrpc": "2.0", "id": request_id, **outcome}, separators=(",", ":"), ensure_ascii=False
    )
    return text.encode("utf-8", "surrogatepass") + b"\n"


def key(request_id: object) -> str:
    return json.dumps(request_id)


class Asked:
    """A request that is not answered, in the model."""

    def __init__(self, message: dict[str, Any], since: float) -> None:
        self.message = message
        self.since = since
        # By the present daemon, and by any.
        self.is_here = False
        self.is_known = False

    @property
    def may_repeat(self) -> bool:
        message = self.message
        if message["method"] == "tools/call":
            params = message["params"]
            return params["name"] in ("stream_read", "stream_wait") or bool(
                params["arguments"].get("idempotency_key")
            )
        return message["method"] in ("ping", "tools/list", "resources/read")


class Bridged(RuleBasedStateMachine):
    """One client, and daemons that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.session = BridgedSession(lambda: self.now)
        self.asked: dict[str, Asked] = {}
        self.answered: set[str] = set()
        # None: no connection; else whether it is greeted.
        self.greeted: bool | None = True
        self.is_closing = False
        self.greeting: object = None
        self.sendings: dict[str, int] = {}

    @initialize(era=st.sampled_from(["handshake", "modern"]), form=FORMS)
    def begin(self, era: str, form: str) -> None:
        self.era = era
        if era == "modern":
            return
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        }
        hello = {"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": params}
        self.hello = written(hello, form)
        self.session.from_client(self.hello)
        assert self.taken_by_daemon() == [hello]
        self.session.from_daemon(answer("hello", result={"protocolVersion": "2025-11-25"}))
        self.session.from_client(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        self.taken_by_daemon()
        assert [each["id"] for each in self.taken_by_client()] == ["hello"]

    def taken_by_daemon(self) -> list[Any]:
        lines, self.session.to_daemon = self.session.to_daemon, []
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
        return [json.loads(line) for line in lines]

    def taken_by_client(self) -> list[Any]:
        lines, self.session.to_client = self.session.to_client, []
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
        return [json.loads(line) for line in lines]

    def expect(self, *expected: tuple[str, str]) -> None:
        """Check what the client gets: pairs of an id and what kind of answer."""
        got = []
        for message in self.taken_by_client():
            error, result = message.get("error"), message.get("result")
            if error is not None:
                kind = error.get("data", {}).get("code") or str(error["code"])
            else:
                kind = (result.get("structuredContent") or {}).get("code") or "result"
                if kind != "result":
                    assert result["isError"] is True
                    assert ("resultType" in result) == (self.era == "modern")
            got.append((key(message["id"]), kind))
        assert sorted(got) == sorted(expected)
        for request_id, _ in expected:
            self.asked.pop(request_id, None)

    def sent(self, messages: list[Any]) -> None:
        """Note which requests the daemon got, each by a daemon at most once."""
        for message in messages:
            if "id" not in message or "method" not in message:
                continue
            asked = self.asked[key(message["id"])]
            assert not asked.is_here
            assert asked.may_repeat or not asked.is_known, "a call was executed twice"
            asked.is_here = asked.is_known = True
            if asked.message["params"] is not None and "cursor" not in str(asked.message["params"]):
                assert message["params"] == asked.message["params"]

    @property
    def is_open(self) -> bool:
        return self.greeted is True and not self.is_closing

    @rule(request_id=IDS, call=CALLS, form=FORMS)
    def ask(self, request_id: object, call: tuple[str, Any], form: str) -> None:
        method, params = call
        if self.era == "modern":
            params = {**(params or {}), "_meta": META}
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        if params is None:
            del message["params"]
        if key(request_id) in self.asked:
            self.session.from_client(written(message, form))
            assert [each["error"]["code"] for each in self.taken_by_client()] == [-32600]
            assert self.taken_by_daemon() == []
            return
        self.asked[key(request_id)] = Asked({"params": None, **message}, self.now)
        self.session.from_client(written(message, form))
        messages = self.taken_by_daemon()
        assert len(messages) == self.is_open
        self.sent(messages)
        self.expect()

    @precondition(lambda self: self.greeted)
    @rule(data=st.data(), outcome=st.sampled_from(["result", "error", "refusal"]))
    def answer(self, data: st.DataObject, outcome: str) -> None:
        here = [each for each, asked in self.asked.items() if asked.is_here]
        if not here:
            return
        request_id = data.draw(st.sampled_from(here))
        number = json.loads(request_id)
        if outcome == "result":
            self.session.from_daemon(answer(number, result={"content": [], "isError": False}))
            self.expect((request_id, "result"))
        elif outcome == "error":
            self.session.from_daemon(answer(number, error={"code": -32602, "message": '"executed":false'}))
            self.expect((request_id, "-32602"))
        else:
            error = {"code": -32000, "message": "stops", "data": {"executed": False, "stopping": True}}
            self.session.from_daemon(answer(number, error=error))
            self.is_closing = True
            self.asked[request_id].is_here = self.asked[request_id].is_known = False
            self.asked[request_id].since = self.now
            self.expect()
        # A second answer is nobody's.
        self.session.from_daemon(answer(number, result={"second": True}))
        if outcome != "refusal":
            assert self.taken_by_client() == []
        else:
            self.expect((request_id, "result"))

    @rule(request_id=IDS)
    def answer_what_was_not_asked(self, request_id: object) -> None:
        if self.greeted and key(request_id) not in self.asked:
            self.session.from_daemon(answer(request_id, result={}))
            assert self.taken_by_client() == []

    @precondition(lambda self: self.greeted)
    @rule(
        line=st.sampled_from([b'{"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n', b"?\n"])
    )
    def notify(self, line: bytes) -> None:
        self.session.from_daemon(line)
        assert self.session.to_client == [line]
        self.session.to_client.clear()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.asked:
            return
        request_id = data.draw(st.sampled_from(sorted(self.asked)))
        asked = self.asked.pop(request_id)
        note = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": json.loads(request_id)},
        }
        self.session.from_client(written(note, "python"))
        assert self.taken_by_daemon() == ([note] if asked.is_here and self.is_open else [])
        self.expect()

    @precondition(lambda self: self.greeted is not None)
    @rule(unsent=st.integers(0, 2))
    def lose(self, unsent: int) -> None:
        lines = []
        if self.greeted:
            # What the kernel did not take came last.
            here = [each for each, asked in self.asked.items() if asked.is_here][-unsent:] if unsent else []
            for request_id in here:
                message = {each: value for each, value in self.asked[request_id].message.items() if value}
                lines.append(written({**message, "id": json.loads(request_id)}, "python"))
                self.asked[request_id].is_here = self.asked[request_id].is_known = False
        was_greeted, self.greeted = self.greeted, None
        self.is_closing = False
        self.session.lost(lines)
        expected = []
        for request_id, asked in self.asked.items():
            if not was_greeted:
                continue
            count = self.sendings[request_id] = self.sendings.get(request_id, 0) + asked.is_here
            is_wait = "stream_wait" in str(asked.message["params"])
            if asked.is_here and not (asked.may_repeat and (count < 5 or is_wait)):
                is_read = asked.message["method"] == "tools/call" and "stream_read" in str(
                    asked.message["params"]
                )
                expected.append((request_id, "CONNECTION_ERROR" if is_read else "OUTCOME_UNKNOWN"))
            elif asked.is_here or key(json.loads(request_id)) in {
                key(json.loads(each)["id"]) for each in lines
            }:
                asked.since = self.now
            asked.is_here = False
        assert self.taken_by_daemon() == []
        self.expect(*expected)

    @precondition(lambda self: self.greeted is None)
    @rule()
    def attach(self) -> None:
        self.session.greet()
        self.greeted = False
        (line,) = self.session.to_daemon
        self.session.to_daemon.clear()
        greeting = json.loads(line)
        self.greeting = greeting["id"]
        if self.era == "handshake":
            assert line == self.hello
        elif self.asked or self.answered:
            assert greeting["method"] in ("server/discover", "ping")

    @precondition(lambda self: self.greeted is False)
    @rule(is_refused=st.booleans())
    def greet(self, is_refused: bool) -> None:
        if is_refused:
            self.session.from_daemon(answer(self.greeting, error={"code": -32000, "message": "not now"}))
            assert self.session.greeting.is_refused
            self.expect()
            # The caller closes the connection then.
            self.session.lost()
            self.greeted = None
            return
        self.session.from_daemon(answer(self.greeting, result={"protocolVersion": "2025-11-25"}))
        self.greeted = True
        messages = self.taken_by_daemon()
        if self.era == "handshake":
            assert messages.pop(0)["method"] == "notifications/initialized"
        waiting = [request_id for request_id, asked in self.asked.items()]
        assert sorted(key(each["id"]) for each in messages) == sorted(waiting)
        self.sent(messages)
        self.expect()

    @rule(seconds=st.sampled_from([0.5, 7.0, PATIENCE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = self.session.requests.deadline
        waiting = [asked.since for asked in self.asked.values() if not asked.is_here]
        assert due == (min(waiting) + PATIENCE if waiting else None)
        if due is None or due > self.now:
            return
        self.session.expire()
        expected = []
        for request_id, asked in self.asked.items():
            if not asked.is_here and asked.since + PATIENCE <= self.now:
                was_sent = asked.is_known and asked.message["method"] == "tools/call"
                writes = was_sent and "idempotency_key" in str(asked.message["params"])
                expected.append((request_id, "OUTCOME_UNKNOWN" if writes else "CONNECTION_ERROR"))
        self.expect(*expected)

    @invariant()
    def bounds_are_kept(self) -> None:
        assert self.session.requests.kept_bytes == sum(
            len(each.line or b"") for each in self.session.requests.by_id.values()
        )
        assert len(self.session.requests.by_id) == len(self.asked)


def test_what_may_be_repeated_is_what_the_tools_say_of_themselves():
    assert {tool.name for tool in REGISTRY if tool.hints.read_only.value} == repetition.READ_ONLY_TOOLS
    idempotent = {tool.name for tool in REGISTRY if tool.hints.idempotent.value}
    assert idempotent - repetition.READ_ONLY_TOOLS == repetition.IDEMPOTENT_TOOLS


def test_bridge_and_daemon_name_cursors_alike():
    assert subscription_memory.CURSORS_KEY == update_lines.CURSORS_KEY
    assert subscription_memory.LIST == update_lines.LIST


Bridged.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_session_does_as_a_model_of_it_that_parses_every_line = Bridged.TestCase


@pytest.mark.parametrize("form", ["python", "typescript", "odd", "spaced"])
def test_what_exceeds_the_bytes_that_are_kept_is_not_sent_again(form: str) -> None:
    session = BridgedSession(lambda: 0.0)
    session.from_client(written({"jsonrpc": "2.0", "id": "first", "method": "ping"}, form))
    session.from_daemon(answer("first", result={}))
    arguments = {"stream": "a" * (request_table.MAX_KEPT_BYTES // 4 - 1_000)}
    for number in range(8):
        params = {"name": "stream_read", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        session.from_client(written(message, form))
    session.to_daemon.clear()
    session.to_client.clear()
    session.lost()
    unknown = [json.loads(line) for line in session.to_client]
    assert [each["id"] for each in unknown] == [4, 5, 6, 7]
    assert {each["result"]["structuredContent"]["code"] for each in unknown} == {"OUTCOME_UNKNOWN"}

"""The rules of the wire, on a real socket: what each kind of line is answered with, however it arrives.

Time is virtual: a handler that sleeps does so until everybody else waits, however slow the machine is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
import trio.testing

from redstreamd.mcpio.connection_events import MessageTooLong, RequestFailed
from redstreamd.mcpio.jsonrpc import DuplicateNames
from redstreamd.mcpio.limits import Limits
from tests.mcpio.serving import PRINCIPAL, DefectError, Service, serving
from tests.support.mcp_client import HANDSHAKE, EraName, RawClient, enveloped, raw_client

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
Delivery = Literal["whole", "byte by byte", "with trailing data"]
DELIVERIES = pytest.mark.parametrize("delivery", ["whole", "byte by byte", "with trailing data"])
LIMITS = Limits(max_nesting=20, max_values=1000, max_message_bytes=100_000)


@pytest.fixture
def anyio_backend() -> Any:
    """Let time pass at once when everybody waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@asynccontextmanager
async def spoken_to(
    era: EraName = "handshake", limits: Limits | None = None
) -> AsyncIterator[tuple[Service, RawClient]]:
    """Serve, connect and, in that era, do the handshake."""
    async with serving(limits) as service, raw_client(service.path, era=era) as raw:
        if era == "handshake":
            await raw.initialize()
        yield service, raw


async def deliver(raw: RawClient, line: bytes, delivery: Delivery) -> None:
    """Send a line and a newline in one of the ways a network might."""
    if delivery == "byte by byte":
        for byte in line + b"\n":
            await raw.send_bytes(bytes([byte]))
    elif delivery == "with trailing data":
        await raw.send_bytes(line + b"\n" + b'{"jsonrpc":"2.0","id":"tail",')
    else:
        await raw.send_bytes(line + b"\n")


async def finish(raw: RawClient, delivery: Delivery) -> None:
    """Show that the connection is alive and in step."""
    if delivery == "with trailing data":
        params = enveloped() if raw.era == "modern" else {}
        await raw.send_bytes(f'"method":"tools/list","params":{json.dumps(params)}}}\n'.encode())
        answer = await raw.answer_to("tail")
    else:
        answer = await raw.call("tools/list")
    assert "result" in answer


REFUSED = pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        pytest.param(b"{", -32700, None, id="half an object"),
        pytest.param(b"\xff\xfe", -32700, None, id="bad UTF-8"),
        pytest.param(b'{"a":NaN}', -32700, None, id="NaN"),
        pytest.param(
            b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"a":-Infinity}}', -32700, None, id="Infinity"
        ),
        pytest.param(b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, None, id="a batch"),
        pytest.param(b"[]", -32600, None, id="an empty batch"),
        pytest.param(b'"ping"', -32600, None, id="a string"),
        pytest.param(b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None, id="id null"),
        pytest.param(b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None, id="id 1.5"),
        pytest.param(b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None, id="id true"),
        pytest.param(b'{"jsonrpc":"2.0","id":7,"id":7,"method":"ping"}', -32600, None, id="two ids"),
        pytest.param(b'{"jsonrpc":"2.0","id":7,"method":"a","method":"b"}', -32600, 7, id="two methods"),
        pytest.param(b'{"jsonrpc":"1.0","id":7,"method":"ping"}', -32600, 7, id="another JSON-RPC"),
        pytest.param(
            b'{"jsonrpc":"2.0","id":"x","method":"ping","params":[]}', -32602, "x", id="params by position"
        ),
        pytest.param(b'{"a":' * 21 + b"1" + b"}" * 21, -32600, None, id="deep"),
        pytest.param(b"[" * 50_000, -32600, None, id="very deep"),
        pytest.param(b'{"a":[' + b"1," * 1000 + b"1]}", -32600, None, id="many values"),
    ],
)


@REFUSED
@DELIVERIES
async def test_a_line_that_is_no_message_is_answered_with_an_error_and_the_connection_lives(
    line: bytes, code: int, request_id: Any, delivery: Delivery
) -> None:
    if delivery == "byte by byte" and len(line) > 5000:
        line = line[:3000]
    async with spoken_to(limits=LIMITS) as (_, raw):
        await deliver(raw, line, delivery)
        answer = await raw.receive()
        assert (answer["error"]["code"], answer["id"]) == (code, request_id)
        assert set(answer) == {"jsonrpc", "id", "error"}
        await finish(raw, delivery)


@ERAS
@DELIVERIES
@pytest.mark.parametrize("ending", [b"", b"\r"])
async def test_a_message_is_answered_however_it_is_cut(
    era: EraName, delivery: Delivery, ending: bytes
) -> None:
    async with spoken_to(era) as (_, raw):
        request = raw.tool_call("echo", {"text": "ä" * 100}, request_id="one")
        await deliver(raw, json.dumps(request, ensure_ascii=False).encode() + ending, delivery)
        answer = await raw.answer_to("one")
        assert answer["result"]["content"][0]["text"] == "ä" * 100
        await finish(raw, delivery)


@pytest.mark.parametrize("request_id", [0, -1, 2**53, 2**70, "", "7", "a" * 1000, "\u2028", "\ud800", "{"])
async def test_an_answer_repeats_the_id_verbatim(request_id: Any) -> None:
    async with spoken_to() as (_, raw):
        await raw.send(raw.tool_call("echo", {"text": "x"}, request_id=request_id))
        answer = await raw.receive()
        assert answer["id"] == request_id
        assert type(answer["id"]) is type(request_id)
        assert "result" in answer


@ERAS
@pytest.mark.parametrize(("first", "second"), [(7, 7), ("a", "a"), (7, "7"), ("7", 7)])
async def test_an_id_that_is_in_flight_is_refused_and_the_first_request_lives(
    era: EraName, first: Any, second: Any
) -> None:
    async with spoken_to(era) as (service, raw):
        await raw.send(raw.tool_call("sleep", {"name": "first", "seconds": 0.2}, request_id=first))
        await service.tools.wait("started", "first")
        await raw.send(raw.tool_call("echo", {"text": "second"}, request_id=second))
        rejection = await raw.receive()
        assert (rejection["id"], rejection["error"]["code"]) == (second, -32600)
        answer = await raw.receive()
        assert (answer["id"], answer["result"]["content"][0]["text"]) == (first, "slept first")
        # An id that is free again can be used again.
        await raw.send(raw.tool_call("echo", {"text": "third"}, request_id=second))
        assert (await raw.receive())["result"]["content"][0]["text"] == "third"


async def test_more_requests_in_flight_than_the_limit_are_refused_and_the_others_live() -> None:
    limits = Limits(max_requests_in_flight=3)
    async with spoken_to(limits=limits) as (service, raw):
        for name in "abc":
            await raw.send(raw.tool_call("sleep", {"name": name}, request_id=name))
        await raw.send(raw.tool_call("echo", request_id="d"))
        rejection = await raw.receive()
        assert (rejection["id"], rejection["error"]["code"]) == ("d", -32000)
        assert "3 requests" in rejection["error"]["message"]
        assert "limits.max_requests_in_flight" in rejection["error"]["message"]
        assert service.tools.ended == set()
        await raw.cancel("b")
        await service.tools.wait("ended", "b")
        assert "result" in await raw.call_tool("echo")


async def test_more_bytes_in_flight_than_the_limit_are_refused_but_one_request_always_fits() -> None:
    async with spoken_to(limits=Limits(max_bytes_in_flight=1000)) as (service, raw):
        padding = "x" * 2000
        await raw.send(raw.tool_call("sleep", {"name": "a", "padding": padding}, request_id="a"))
        await raw.send(raw.tool_call("echo", {"text": "b"}, request_id="b"))
        rejection = await raw.receive()
        assert (rejection["id"], rejection["error"]["code"]) == ("b", -32000)
        assert "1000 bytes" in rejection["error"]["message"]
        await raw.cancel("a")
        await service.tools.wait("ended", "a")
        # What was answered counts no more.
        await raw.send(raw.tool_call("sleep", {"name": "c"}, request_id="c"))
        for _ in range(20):
            assert "result" in await raw.call_tool("echo", {"text": "x" * 200})


@ERAS
async def test_an_answer_that_could_never_be_sent_becomes_an_error_and_the_connection_lives(
    era: EraName,
) -> None:
    async with spoken_to(era, Limits(max_outbox_bytes=100_000)) as (_, raw):
        answer = await raw.call_tool("big", {"bytes": 100_000})
        assert answer["error"]["code"] == -32603
        assert "at most 100000" in answer["error"]["message"]
        assert "result" in await raw.call_tool("big", {"bytes": 90_000})


async def test_a_batch_is_served_in_the_one_revision_that_has_them(service: Service) -> None:
    """2025-03-26, basic#batching: implementations MUST support receiving batches."""

    def batch(raw: RawClient) -> list[Any]:
        return [
            raw.tool_call("sleep", {"name": "long"}, request_id="waits"),
            {"jsonrpc": "2.0", "method": "notifications/x"},
            raw.request("ping", request_id="p"),
            raw.request("initialize", HANDSHAKE, request_id="i"),
            raw.request("ping", request_id="waits"),
            {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
            [],
        ]

    async with raw_client(service.path) as raw, raw_client(service.path) as later:
        await raw.initialize("2025-03-26")
        await raw.send(batch(raw))
        # One that waits holds up no other, so each is answered in a batch of its own.
        answers: list[Any] = [await raw.receive() for _ in range(5)]
        assert all(isinstance(answer, list) and len(answer) == 1 for answer in answers)
        codes = [(answer["id"], answer.get("error", {}).get("code")) for (answer,) in answers]
        assert sorted(codes, key=repr) == [
            *[("i", -32600), ("p", None), ("waits", -32600), (None, -32600), (None, -32600)]
        ]
        cancelled = {"method": "notifications/cancelled", "params": {"requestId": "waits"}}
        await raw.send([{"jsonrpc": "2.0", **cancelled}])
        await service.tools.wait("ended", "long")
        await later.initialize("2025-06-18")
        await later.send(batch(later))
        rejection = await later.receive()
        assert (rejection["id"], rejection["error"]["code"]) == (None, -32600)
        assert "2025-03-26" in rejection["error"]["message"]


@ERAS
async def test_an_unknown_method_is_not_found(era: EraName) -> None:
    async with spoken_to(era) as (_, raw):
        answer = await raw.call("no/such")
        assert answer["error"] == {"code": -32601, "message": "Method not found", "data": "no/such"}


@ERAS
async def test_parameters_of_the_wrong_shape_are_invalid_params_without_details(era: EraName) -> None:
    async with spoken_to(era) as (_, raw):
        answer = await raw.call("tools/call", {"name": 7, "arguments": {"secret": "s3cret"}})
        assert answer["error"]["code"] == -32602
        assert "s3cret" not in json.dumps(answer)


@ERAS
@pytest.mark.parametrize("tool", ["raise", "group", "unspeakable"])
async def test_an_unforeseen_exception_is_an_internal_error_without_its_text_and_an_event_with_it(
    era: EraName, tool: str
) -> None:
    async with spoken_to(era) as (service, raw):
        answer = await raw.call_tool(tool)
        assert answer["error"] == {"code": -32603, "message": "Internal error"}
        (event,) = service.reported(RequestFailed)
        assert (event.method, event.request_id, event.principal) == ("tools/call", answer["id"], PRINCIPAL)
        assert isinstance(event.exception, DefectError | ExceptionGroup | TypeError | ValueError)
        assert event.exception.__traceback__ is not None
        assert "result" in await raw.call_tool("echo")


@ERAS
async def test_a_result_that_json_has_no_form_for_is_an_internal_error(era: EraName) -> None:
    async with spoken_to(era) as (service, raw):
        answer = await raw.call("test/custom", {"value": 1, "_meta": {}})
        assert answer["result"]["value"] == 1
        # A lone surrogate can be written in ASCII, so it is.
        assert answer["result"]["odd"] == "\ud800"
        service.tools.odd = object()
        answer = await raw.call("test/custom")
        assert answer["error"] == {"code": -32603, "message": "Internal error"}
        assert len(service.reported(RequestFailed)) == 1


async def test_a_repeated_name_in_the_arguments_reaches_the_tool_layer() -> None:
    async with spoken_to() as (service, raw):
        await raw.send_bytes(
            b'{"jsonrpc":"2.0","id":"a","method":"tools/call","params":'
            b'{"name":"echo","arguments":{"text":"1","text":"2","inner":{"x":1,"x":2}}}}\n'
        )
        assert (await raw.answer_to("a"))["result"]["content"][0]["text"] == "2"
        arguments = service.tools.raw_arguments
        assert isinstance(arguments, DuplicateNames)
        assert arguments.name == "text"
        assert isinstance(arguments["inner"], DuplicateNames)


@ERAS
async def test_responses_and_unknown_notifications_are_ignored(era: EraName) -> None:
    async with spoken_to(era) as (service, raw):
        await raw.send(
            {"jsonrpc": "2.0", "id": 1, "result": {}},
            {"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "m"}},
            {"result": None},
            {"jsonrpc": "2.0", "method": "notifications/nonsense", "params": {"a": 1}},
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}},
            {"jsonrpc": "2.0", "method": "notifications/cancelled"},
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": True}},
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "unknown"}},
            {"jsonrpc": "2.0", "method": "notifications/initialized", "params": {"_meta": 5}},
        )
        assert "result" in await raw.call_tool("echo")
        assert raw.passed_over == []
        assert service.reported(RequestFailed) == []


async def test_requests_sent_right_behind_the_handshake_find_it_done(service: Service) -> None:
    # Many times, because tasks that are started together run in one order or the other, by chance.
    for _ in range(12):
        async with raw_client(service.path) as raw:
            hello = raw.request("initialize", HANDSHAKE, request_id="hello")
            await raw.send(hello, raw.tool_call("echo", {"text": "soon"}), raw.tool_call("echo"))
            assert (await raw.receive())["id"] == "hello"
            assert "result" in await raw.receive()
            assert "result" in await raw.receive()


async def test_before_the_handshake_only_ping_is_served(service: Service) -> None:
    async with raw_client(service.path) as raw:
        assert (await raw.call("ping"))["result"] == {}
        assert (await raw.call("tools/list"))["error"]["code"] == -32602
        assert (await raw.call("no/such"))["error"]["code"] == -32601
        await raw.initialize()
        assert "result" in await raw.call("tools/list")


async def test_a_handshake_that_is_too_long_to_keep_is_refused(service: Service) -> None:
    async with raw_client(service.path) as raw:
        too_long = {**HANDSHAKE, "clientInfo": {"name": "x" * 70_000, "version": "1"}}
        rejection = (await raw.call("initialize", too_long))["error"]
        assert rejection["code"] == -32600
        assert "65536 bytes" in rejection["message"]
        await raw.initialize()


async def test_the_first_request_decides_the_era_for_good() -> None:
    async with spoken_to("modern") as (_, raw):
        assert "result" in await raw.call("server/discover")
        raw.era = "handshake"
        rejection = (await raw.call("initialize", {"protocolVersion": "2025-06-18"}))["error"]
        assert rejection["code"] == -32022
        assert rejection["data"] == {"supported": ["2026-07-28"], "requested": "2025-06-18"}
        raw.era = "modern"
        assert "result" in await raw.call("tools/list")

    async with spoken_to("handshake") as (_, raw):
        raw.era = "modern"
        assert (await raw.call("tools/list"))["error"]["code"] == -32600
        raw.era = "handshake"
        assert "result" in await raw.call("tools/list")


async def test_an_answer_to_garbage_does_not_decide_the_era(service: Service) -> None:
    async with raw_client(service.path, era="modern") as raw:
        await raw.send_bytes(b"garbage\n")
        assert (await raw.receive())["error"]["code"] == -32700
        assert "result" in await raw.call("tools/list")


async def test_a_request_that_wants_no_progress_gets_none() -> None:
    async with spoken_to() as (_, raw):
        await raw.call_tool("progress", {"steps": 3})
        assert raw.passed_over == []
        call = raw.request(
            "tools/call",
            {"name": "progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "t"}},
            request_id="with",
        )
        await raw.send(call)
        await raw.answer_to("with")
        assert [message["params"]["progressToken"] for message in raw.passed_over] == ["t", "t"]


async def test_a_line_beyond_the_limit_is_answered_in_its_place_and_the_connection_lives() -> None:
    async with spoken_to(limits=LIMITS) as (service, raw):
        # More than the sockets hold, so that it is answered while the peer still sends it.
        long = raw.tool_call("echo", {"text": "x" * 2_000_000}, request_id="long")
        await raw.send(
            raw.request("ping", request_id="before"), long, raw.request("ping", request_id="behind")
        )
        answers = {answer["id"]: answer for answer in [await raw.receive() for _ in range(3)]}
        assert answers.keys() == {"before", "long", "behind"}
        assert "result" in answers["before"]
        assert "result" in answers["behind"]
        rejection = answers["long"]["error"]
        assert rejection["code"] == -32600
        assert "100000 bytes" in rejection["message"]
        assert "limits.max_message_bytes" in rejection["message"]
        (event,) = service.reported(MessageTooLong)
        assert (event.principal, event.limit_bytes) == (PRINCIPAL, 100_000)


async def test_an_answer_of_the_client_that_is_too_long_is_not_answered() -> None:
    async with spoken_to(limits=LIMITS) as (service, raw):
        await raw.send({"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * 200_000}})
        assert (await raw.call("ping"))["result"] == {}
        assert raw.passed_over == []
        assert len(service.reported(MessageTooLong)) == 1

"""The tools as real clients meet them: the SDK's own client, in process, in both eras."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pytest
import trio
import trio.testing
from mcp import Client
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import Defect
from redstreamd.mcp_server.handlers import Handlers
from redstreamd.mcp_server.tool_server import ToolServer
from redstreamd.policy import Permission, Principal
from redstreamd.strict_json import object_from_pairs
from redstreamd.tools.annotations import no, reading, writing
from redstreamd.tools.definition import NO_NEEDS, Call, Profile, Registry, needs_on, tool
from redstreamd.tools.schema_check import schema_faults
from redstreamd.tools.toolbox import Toolbox
from tests.support.sdk_server import sdk_server

ERAS: tuple[Literal["auto", "legacy"], ...] = ("auto", "legacy")
AGENT = Principal(name="worker", transport="unix")


@attrs.define
class Bus:
    """Stands for the domain: a place where handlers leave what they saw."""

    seen: list[Any] = attrs.field(factory=list)


@attrs.frozen
class StreamAdd:
    stream: Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="Where to.")]
    entries: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=100)]
    idempotency_key: str | None = None


@attrs.frozen
class StreamAdded:
    ids: list[str]
    duplicate: bool | None = None


@attrs.frozen
class Nothing:
    detail: bool = False


READING = {
    "permission": Permission.READ,
    "needs": NO_NEEDS,
    "hints": reading("It asks."),
}


@tool(
    title="Add entries",
    profile=Profile.WORKER,
    permission=Permission.PUBLISH,
    needs=needs_on(Permission.PUBLISH, "stream", creates=True),
    hints=writing("It adds.", destructive=no("It only adds."), idempotent=no("It adds again.")),
)
async def stream_add(call: Call[Bus], args: StreamAdd) -> StreamAdded:
    """Add entries to a stream."""
    call.bus.seen.append((call.principal, args))
    return StreamAdded([f"{number}-0" for number in range(len(args.entries))])


@tool(title="Wait", profile=Profile.OBSERVER, **READING)
async def stream_wait(call: Call[Bus], args: Nothing) -> StreamAdded:
    """Wait for entries."""
    await call.progress(1.0, 2.0, "half way")
    return StreamAdded([])


@tool(title="Health", profile=Profile.OBSERVER, **READING)
async def stream_health(call: Call[Bus], args: Nothing) -> StreamAdded:
    """Fail in a way that the caller can act on."""
    raise BusError(
        Code.STREAM_NOT_FOUND, "no stream 'a'", cause="it was never written to", next_step="Add to it"
    )


@tool(title="Broken", profile=Profile.OBSERVER, **READING)
async def broken(call: Call[Bus], args: Nothing) -> StreamAdded:
    """Fail unexpectedly."""
    raise RuntimeError("the password is hunter2")


@tool(title="Group", profile=Profile.OPERATOR, **READING)
async def group_manage(call: Call[Bus], args: Nothing) -> StreamAdded:
    """Be out of reach for a worker."""
    raise AssertionError("called although it is not offered")


@tool(title="List", profile=Profile.RED_STREAM, **READING)
async def list_streams(call: Call[Bus], args: Nothing) -> list[dict[str, str]]:
    """Answer with a list, as the original did."""
    return [{"name": "a"}]


REGISTRY = Registry([stream_wait, stream_health, stream_add, group_manage, broken, list_streams])


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def server(bus: Bus) -> Server[Principal]:
    tools = ToolServer(Toolbox(REGISTRY, [Profile.WORKER, Profile.RED_STREAM], bus))
    handlers = Handlers(
        {"tools/list": tools.list, "tools/call": tools.call},
        version="1.2.3",
        instructions=lambda _: "Add, then wait.",
    )
    return sdk_server(handlers, AGENT)


@pytest.mark.parametrize("era", ERAS)
async def test_the_listing_has_the_profiles_tools_sorted_with_both_schemas_and_every_annotation(
    server: Server[Principal], era: Literal["auto", "legacy"]
) -> None:
    async with Client(server, mode=era) as client:
        tools = (await client.list_tools()).tools
        assert client.instructions == "Add, then wait."
        assert client.server_info.version == "1.2.3"
    assert [one.name for one in tools] == [
        "broken",
        "list_streams",
        "stream_add",
        "stream_health",
        "stream_wait",
    ]
    for one in tools:
        assert one.annotations is not None
        hints = one.annotations.model_dump(exclude={"title"})
        assert None not in hints.values()
        assert not list(schema_faults(one.input_schema))
    add = tools[2]
    assert add.title == "Add entries"
    assert add.description == "Add entries to a stream."
    assert add.input_schema["required"] == ["stream", "entries"]
    assert add.output_schema is not None
    assert tools[1].output_schema is None


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_gives_the_handler_its_arguments_and_principal_and_the_client_both_forms_of_the_answer(
    server: Server[Principal], bus: Bus, era: Literal["auto", "legacy"]
) -> None:
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("stream_add", {"stream": "a", "entries": [{"x": 1}, {"y": [None]}]})
    assert bus.seen == [(AGENT, StreamAdd("a", [{"x": 1}, {"y": [None]}]))]
    assert not answer.is_error
    assert answer.structured_content == {"ids": ["0-0", "1-0"]}
    (block,) = answer.content
    assert block.type == "text"
    assert json.loads(block.text) == answer.structured_content


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_that_is_no_object_is_text_alone(
    server: Server[Principal], era: Literal["auto", "legacy"]
) -> None:
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("list_streams")
    assert answer.structured_content is None
    assert [block.model_dump()["text"] for block in answer.content] == ['[{"name":"a"}]']


@pytest.mark.parametrize("era", ERAS)
async def test_a_bus_error_is_a_result_that_says_what_why_and_what_next(
    server: Server[Principal], era: Literal["auto", "legacy"]
) -> None:
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("stream_health")
    assert answer.is_error
    assert answer.structured_content == {
        "code": "STREAM_NOT_FOUND",
        "message": "no stream 'a'.",
        "cause": "it was never written to.",
        "next_step": "Add to it.",
    }
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == (
        "STREAM_NOT_FOUND: no stream 'a'. Cause: it was never written to. Next step: Add to it."
    )


@pytest.mark.parametrize("era", ERAS)
async def test_wrong_arguments_are_a_result_and_the_handler_is_not_called(
    server: Server[Principal], bus: Bus, era: Literal["auto", "legacy"]
) -> None:
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("stream_add", {"steam": "a", "entries": []})
    assert answer.is_error
    assert answer.structured_content is not None
    assert answer.structured_content["code"] == "INVALID_ARGUMENT"
    assert bus.seen == []


@pytest.mark.parametrize("era", ERAS)
async def test_json_text_reaches_the_handler_as_the_value_it_stands_for(
    server: Server[Principal], bus: Bus, era: Literal["auto", "legacy"]
) -> None:
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("stream_add", {"stream": "[5]", "entries": '[{"n":"5"}]'})
    assert not answer.is_error, answer
    assert bus.seen == [(AGENT, StreamAdd("[5]", [{"n": "5"}]))]


@pytest.mark.parametrize("era", ERAS)
async def test_an_unexpected_error_is_logged_with_its_traceback_and_told_without_its_text(
    server: Server[Principal], era: Literal["auto", "legacy"], defects: list[Defect]
) -> None:
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("broken")
        assert answer.is_error
        assert "hunter2" not in answer.model_dump_json()
        assert answer.structured_content is not None
        assert answer.structured_content["code"] == "INTERNAL"
        assert not (await client.call_tool("stream_wait")).is_error
    (defect,) = defects
    assert "hunter2" in str(defect.error)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stream_ad", "Unknown tool: stream_ad. Nearest: stream_add, "),
        ("group_manage", "It belongs to the profile operator; active here: red-stream, worker."),
        (
            "group_manage",
            "The daemon's setting tools.profile in /etc/redstreamd/redstreamd.toml chooses them.",
        ),
        ("x" * 1000, f"Unknown tool: {'x' * 80}. "),
    ],
)
async def test_an_unknown_tool_is_a_protocol_error_that_names_what_exists(
    server: Server[Principal], era: Literal["auto", "legacy"], name: str, said: str
) -> None:
    async with Client(server, mode=era) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(name)
    assert caught.value.code == -32602
    assert said in caught.value.message
    assert len(caught.value.message) < 300


async def test_a_cursor_that_no_listing_gave_is_refused(server: Server[Principal]) -> None:
    async with Client(server) as client:
        with pytest.raises(MCPError, match="one page") as caught:
            await client.list_tools(cursor="x")
    assert caught.value.code == -32602


@pytest.mark.parametrize("era", ERAS)
async def test_progress_reaches_a_client_that_asked_for_it(
    server: Server[Principal], era: Literal["auto", "legacy"]
) -> None:
    reports: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    async with Client(server, mode=era) as client:
        await client.call_tool("stream_wait", progress_callback=note)
        await client.call_tool("stream_wait")
        await trio.testing.wait_all_tasks_blocked()
    assert reports == [(1.0, 2.0, "half way")]


def trio_lines(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in trio_lines(each)]
    return [str(error)]


async def no_progress(progress: float, total: float | None, message: str | None) -> None:
    """Ignore progress."""


def toolbox_for(handler: Any) -> tuple[Toolbox[Bus], Any]:
    defined = tool(title="T", profile=Profile.WORKER, **READING)(handler)
    return Toolbox(Registry([defined]), [Profile.WORKER], Bus()), defined


async def test_a_cancelled_call_has_no_answer_and_its_cancellation_passes() -> None:
    began = trio.Event()

    async def waits(call: Call[Bus], args: Nothing) -> None:
        """Wait for ever."""
        began.set()
        await trio.sleep_forever()

    toolbox, defined = toolbox_for(waits)
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await toolbox.call(defined, {}, AGENT, no_progress))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await began.wait()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert answers == []


async def test_of_a_cancelled_nursery_with_a_defect_the_cancellation_passes_and_the_defect_is_logged(
    defects: list[Defect],
) -> None:
    async def tangled(call: Call[Bus], args: Nothing) -> None:
        """Wait in a nursery, and break when cancelled."""

        async def breaks() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise RuntimeError("on the way out")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks)
            nursery.start_soon(trio.sleep_forever)

    toolbox, defined = toolbox_for(tangled)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            await toolbox.call(defined, {}, AGENT, no_progress)
            raise AssertionError("a cancelled call was answered")

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (defect,) = defects
    assert "on the way out" in trio_lines(defect.error)


async def test_a_bus_error_out_of_a_handlers_nursery_is_told_as_such() -> None:
    async def nested(call: Call[Bus], args: Nothing) -> None:
        """Fail in a child task."""

        async def fails() -> None:
            raise BusError(Code.TIMEOUT, "late", cause="slow", next_step="retry")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(trio.sleep_forever)

    toolbox, defined = toolbox_for(nested)
    answer = (await toolbox.call(defined, None, AGENT, no_progress)).as_values()
    assert answer["isError"] is True
    assert answer["structuredContent"]["code"] == "TIMEOUT"


@pytest.mark.parametrize("era", ERAS)
async def test_a_repeated_argument_name_is_refused_although_the_sdk_copies_the_arguments(
    server: Server[Principal], bus: Bus, era: Literal["auto", "legacy"]
) -> None:
    repeated = json.loads(
        '{"stream": "a", "stream": "b", "entries": [{}]}', object_pairs_hook=object_from_pairs
    )

    async def as_decoded(ctx: ServerRequestContext[Principal], call_next: CallNext) -> HandlerResult:
        """Hand over what our decoder makes of the text; the SDK's in-process client copies it."""
        if ctx.method == "tools/call":
            ctx = dataclasses.replace(ctx, params={**(ctx.params or {}), "arguments": repeated})
        return await call_next(ctx)

    server.middleware.append(as_decoded)
    async with Client(server, mode=era) as client:
        answer = await client.call_tool("stream_add", {})
    assert answer.is_error
    assert answer.structured_content is not None
    assert '"stream" is given twice' in answer.structured_content["message"]
    assert bus.seen == []


async def test_a_call_has_a_bound_besides_what_it_asks_to_wait() -> None:
    async def stalls(call: Call[Bus], args: Nothing) -> None:
        """Take for ever."""
        await trio.sleep_forever()

    defined = tool(title="T", profile=Profile.WORKER, **READING)(stalls)
    toolbox = Toolbox(Registry([defined]), [Profile.WORKER], Bus(), timeout_seconds=0.05)
    answer = (await toolbox.call(defined, {}, AGENT, no_progress)).as_values()
    assert answer["isError"]
    assert answer["structuredContent"]["code"] == "TIMEOUT"
    assert "tools.call_timeout_seconds" in answer["structuredContent"]["cause"]

"""A definition holds everything about a tool, and a wrong one is refused when it is written."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Annotated, Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from redstreamd.policy import Need, Permission
from redstreamd.tools.annotations import as_json, no, reading, writing, yes
from redstreamd.tools.argument_types import NameOf
from redstreamd.tools.definition import (
    NO_NEEDS,
    Call,
    Profile,
    Registry,
    Tool,
    UnknownToolError,
    needs_on,
    tool,
)
from redstreamd.tools.tool_listing import listed, print_cost, tokens


@attrs.frozen
class Arguments:
    stream: Annotated[str, Meta(description="Where to."), NameOf.STREAM]
    streams: tuple[str, ...] = ()
    reply_to: str | None = None


@attrs.frozen
class Answer:
    ids: list[str]


HINTS: dict[str, Any] = {
    "title": "Add",
    "profile": Profile.WORKER,
    "permission": Permission.PUBLISH,
    "needs": needs_on(Permission.PUBLISH, "stream", "streams", creates=True)
    + needs_on(Permission.READ, "reply_to"),
    "hints": writing("It adds.", destructive=no("It only adds."), idempotent=yes("It adds once.")),
}


@tool(**HINTS)
async def stream_add(call: Call[object], args: Arguments) -> Answer:
    """Add entries
    to a stream.

    The second paragraph is also
    for the model.

    Raises:
        BusError: This is for people who read the code.
    """
    return Answer([args.stream])


def renamed(name: str, **changes: Any) -> Tool[Any]:
    return attrs.evolve(stream_add, name=name, **changes)


async def test_a_handler_says_the_name_the_description_and_both_classes() -> None:
    assert stream_add.name == "stream_add"
    assert stream_add.description == "Add entries to a stream.\n\nThe second paragraph is also for the model."
    assert stream_add.arguments is Arguments
    assert stream_add.result is Answer

    call = cast("Call[object]", object())
    assert await stream_add.handler(call, Arguments("a")) == Answer(["a"])


def test_an_answer_without_a_class_has_no_output_schema() -> None:
    async def list_streams(call: Call[object], args: Arguments) -> list[str]:
        """List."""
        return []

    defined = tool(**HINTS)(list_streams)
    assert defined.result is None
    assert "outputSchema" not in listed(defined)


def test_the_needs_of_a_call_are_those_of_the_streams_that_its_arguments_name() -> None:
    publish, read = Permission.PUBLISH, Permission.READ
    assert stream_add.needs(Arguments("a", ("b", "c"), "d"), None) == [
        Need("a", publish, creates=True),
        Need("b", publish, creates=True),
        Need("c", publish, creates=True),
        Need("d", read),
    ]
    assert stream_add.needs(Arguments("a"), None) == [Need("a", publish, creates=True)]
    assert NO_NEEDS(Arguments("a"), None) == []


def test_a_hint_and_its_reason_cannot_be_forgotten() -> None:
    for hint in HINTS:
        with pytest.raises(TypeError, match=hint):
            tool(**{name: value for name, value in HINTS.items() if name != hint})
    with pytest.raises(TypeError, match="idempotent"):
        writing("It adds.", destructive=no("It only adds."))  # type: ignore[call-arg]
    for reason in ("", "it only adds"):
        with pytest.raises(ValueError, match="sentence"):
            yes(reason)


def test_what_changes_nothing_destroys_nothing_and_can_be_repeated() -> None:
    assert as_json(reading("It asks.")) == {
        "readOnlyHint": True,
        "destructiveHint": False,
        "idempotentHint": True,
        "openWorldHint": False,
    }


def test_a_wrong_definition_is_refused_when_it_is_written() -> None:
    @attrs.define
    class Mutable:
        stream: str

    async def undocumented(call: Call[object], args: Arguments) -> None: ...

    async def three(call: Call[object], args: Arguments, more: int) -> None:
        """Take too much."""

    with pytest.raises(ValueError, match="docstring"):
        tool(**HINTS)(undocumented)
    with pytest.raises(TypeError, match="nothing else"):
        tool(**HINTS)(three)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="frozen"):
        renamed("a_tool", arguments=Mutable)
    with pytest.raises(ValueError, match=r"does not have: \['group'\]"):
        renamed("a_tool", needs=needs_on(Permission.READ, "stream", "group"))
    with pytest.raises(ValueError, match=r"needs nothing of the streams in its arguments \['stream'\]"):
        renamed("a_tool", needs=NO_NEEDS)
    with pytest.raises(ValueError, match="longer than 1024"):
        renamed("a_tool", description="a" * 1025)
    for name in ("", "Add", "stream-add", "stream.add", "1st", "a" * 41):
        with pytest.raises(ValueError, match="lower case"):
            renamed(name)


# --- Profiles and the registry -----------------------------------------------------------------


def test_each_profile_contains_the_smaller_ones_and_the_original_names_stand_beside_them() -> None:
    assert Profile.OBSERVER.includes == {Profile.OBSERVER}
    assert Profile.WORKER.includes == {Profile.OBSERVER, Profile.WORKER}
    assert Profile.OPERATOR.includes == {Profile.OBSERVER, Profile.WORKER, Profile.OPERATOR}
    assert Profile.RED_STREAM.includes == {Profile.RED_STREAM}


REGISTRY = Registry(
    renamed(name, profile=profile)
    for name, profile in {
        "work_take": Profile.WORKER,
        "stream_read": Profile.OBSERVER,
        "group_manage": Profile.OPERATOR,
        "stream_add": Profile.WORKER,
        "add_stream_message": Profile.RED_STREAM,
    }.items()
)


def names(registry: Registry) -> list[str]:
    return [one.name for one in registry]


def test_a_registry_lists_by_name_and_offers_what_the_profiles_contain_together() -> None:
    assert names(REGISTRY) == ["add_stream_message", "group_manage", "stream_add", "stream_read", "work_take"]
    assert len(REGISTRY) == 5
    assert names(REGISTRY.for_profiles([Profile.OBSERVER])) == ["stream_read"]
    assert names(REGISTRY.for_profiles([Profile.WORKER])) == ["stream_add", "stream_read", "work_take"]
    assert names(REGISTRY.for_profiles([Profile.OBSERVER, Profile.RED_STREAM])) == [
        "add_stream_message",
        "stream_read",
    ]
    assert names(REGISTRY.for_profiles([])) == []


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tools are called stream_add"):
        Registry([stream_add, stream_add])


def test_an_unknown_name_is_answered_with_the_nearest_ones_first() -> None:
    assert REGISTRY.get("stream_add") is not stream_add
    assert "stream_add" in REGISTRY
    with pytest.raises(UnknownToolError) as caught:
        REGISTRY.get("streamadd")
    assert caught.value.name == "streamadd"
    assert caught.value.nearest[0] == "stream_add"
    assert len(caught.value.nearest) == 3


@given(st.text() | st.text().map(lambda piece: piece * 100_000))
def test_any_unknown_name_gets_an_answer(name: str) -> None:
    if name not in REGISTRY:
        with pytest.raises(UnknownToolError):
            REGISTRY.get(name)


# --- The listing -------------------------------------------------------------------------------


def test_a_listed_tool_has_both_schemas_and_every_annotation() -> None:
    assert listed(stream_add) == {
        "name": "stream_add",
        "title": "Add",
        "description": "Add entries to a stream.\n\nThe second paragraph is also for the model.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "stream": {"type": "string", "description": "Where to."},
                "streams": {"type": "array", "items": {"type": "string"}},
                "reply_to": {"type": "string"},
            },
            "required": ["stream"],
        },
        "outputSchema": {
            "type": "object",
            "properties": {"ids": {"type": "array", "items": {"type": "string"}}},
            "required": [],
        },
        "annotations": {
            "readOnlyHint": False,
            "destructiveHint": False,
            "idempotentHint": True,
            "openWorldHint": False,
        },
    }


def test_the_cost_of_a_listing_is_printed_dearest_first_with_its_sum() -> None:
    registry = Registry([stream_add, renamed("short", description="Short.")])
    out = io.StringIO()
    print_cost(registry, [Profile.WORKER], out)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[-1] for line in lines] == ["stream_add", "short", "all"]
    assert int(lines[2][0]) == int(lines[0][0]) + int(lines[1][0])
    assert int(lines[2][2]) == tokens(registry)
    assert tokens(registry) - 1 <= int(lines[2][0]) / 4 <= tokens(registry)


def test_definitions_and_listings_need_no_sdk() -> None:
    modules = "definition, arguments, schema, results, tool_listing"
    program = (
        f"import sys; from redstreamd.tools import {modules}; print({{'mcp', 'anyio'}} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60
    )
    assert out.stdout.strip() == "set()"

"""The names that an invocation refuses are those that the handlers refuse, with the same error."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
import trio

from redstreamd.errors import BusError
from redstreamd.settings import Settings, StreamsSettings
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Call, Profile, Tool
from redstreamd.tools.toolbox import toolbox_over
from tests.support.buses import ON_REDIS
from tests.support.calls import ME, no_progress

NAMES = [
    "s",
    "shop:orders:paid",
    "\x07",
    "x" * 65,
    "é" * 33,
    companion_key("s", Kind.DUE, "g"),
    companion_key("s", Kind.REPLY, "me"),
]
#: The arguments that a call needs besides its names.
GIVEN: dict[str, dict[str, Any]] = {
    "stream_add": {"entries": [{}]},
    "stream_wait": {"timeout_seconds": 0},
    "request_reply": {"entry": {}, "timeout_seconds": 0},
    "group_manage": {"action": "remove_consumer", "consumer": "x", "pending": "hand_over"},
    "stream_manage": {"action": "delete"},
    "add_stream_message": {"message": {}},
}
ARGUMENTS = ("stream", "streams", "reply_to", "group", "consumer", "to_consumer")


def spoken(error: BusError) -> tuple[str, str, str]:
    return str(error.code), error.message, error.cause


def is_about_a_name(error: BusError) -> bool:
    return "cannot name a" in error.message or "is reserved" in error.message


@ON_REDIS
@pytest.mark.settings(Settings(streams=StreamsSettings(max_name_bytes=64)))
@pytest.mark.parametrize(
    "tool",
    [each for each in REGISTRY if "lease" not in {field.name for field in attrs.fields(each.arguments)}],
    ids=lambda t: t.name,
)
async def test_both_refuse_the_same_names_with_the_same_error(bus: Bus, tool: Tool[Any]) -> None:
    toolbox = toolbox_over(bus, REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM])
    structure = Structurer(tool.arguments)
    named = [name for name in ARGUMENTS if name in structure.schema["properties"]]
    refused = 0
    for names in itertools.product(NAMES, repeat=len(named)):
        # Of several refused names, either may be reported.
        if sum(name not in NAMES[:2] for name in names) > 1:
            continue
        given = {
            argument: [name] if argument == "streams" else name
            for argument, name in zip(named, names, strict=True)
        }
        arguments = given | GIVEN.get(tool.name, {})
        early = late = None
        try:
            toolbox.begin(tool, arguments, ME)
        except BusError as error:
            early = error
        call = Call(bus, ME, no_progress, lambda stream, permission: None)
        try:
            with trio.fail_after(10):
                await tool.handler(call, structure(arguments))
        except BusError as error:
            late = error
        if tool.name == "group_manage" and late is not None and late.code.endswith("_NOT_FOUND"):
            continue  # The handler checks to_consumer only after that.
        if late is not None and is_about_a_name(late):
            assert early is not None, (arguments, str(late))
            assert spoken(early) == spoken(late), arguments
            refused += 1
        else:
            assert early is None, (arguments, str(early))
    assert refused or not named

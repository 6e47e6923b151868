"""Our handlers are to the SDK's kernel what the SDK's own server would be."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from mcp.server import runner
from mcp.server.caching import validate_cache_hints
from mcp.server.lowlevel import NotificationOptions, Server
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from redstreamd.mcp_server.handlers import Handlers
from redstreamd.mcp_server.server_info import NAME, TITLE

#: Our name of a handler's method, and the SDK's of its argument.
ARGUMENTS = {
    "tools/list": "on_list_tools",
    "tools/call": "on_call_tool",
    "resources/list": "on_list_resources",
    "resources/templates/list": "on_list_resource_templates",
    "resources/read": "on_read_resource",
    "resources/subscribe": "on_subscribe_resource",
    "resources/unsubscribe": "on_unsubscribe_resource",
    "subscriptions/listen": "on_subscriptions_listen",
    "prompts/list": "on_list_prompts",
    "prompts/get": "on_get_prompt",
    "completion/complete": "on_completion",
}
SETS = [frozenset(ARGUMENTS), *(frozenset(ARGUMENTS) - {each} for each in ARGUMENTS), frozenset[str]()]


async def handler(ctx: Any, params: Any) -> Any:
    raise AssertionError("not called")


def both(methods: frozenset[str]) -> tuple[Handlers, Server[Any]]:
    ours = Handlers(dict.fromkeys(methods, handler), version="1.2", instructions=lambda _: "Do.")
    arguments: dict[str, Any] = {ARGUMENTS[method]: handler for method in methods}
    return ours, Server(NAME, title=TITLE, version="1.2", instructions="Do.", **arguments)


@pytest.mark.parametrize("methods", SETS, ids=lambda methods: str(len(methods)))
def test_the_same_methods_are_served_with_the_same_models(methods: frozenset[str]) -> None:
    ours, theirs = both(methods)
    for method in [*ARGUMENTS, "ping", "server/discover", "logging/setLevel", "none", "initialize"]:
        mine, sdk = ours.get_request_handler(method), theirs.get_request_handler(method)
        assert (mine and mine.params_type) == (sdk and sdk.params_type), method
    assert theirs.get_notification_handler("notifications/progress") is None
    assert ours.get_notification_handler("notifications/progress") is None


@pytest.mark.parametrize("methods", SETS, ids=lambda methods: str(len(methods)))
def test_what_is_said_of_the_server_differs_in_the_notifications_only(methods: frozenset[str]) -> None:
    ours, theirs = both(methods)
    for version in [None, *HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS]:
        options = NotificationOptions(resources_changed=True)
        expected = theirs.get_capabilities(options, protocol_version=version).model_dump()
        for kind in ("tools", "prompts", "resources"):
            if expected[kind] is not None:
                expected[kind]["list_changed"] = True
        assert ours.capabilities(version).model_dump() == expected
    mine, sdk = ours.create_initialization_options(), theirs.create_initialization_options()
    assert mine.model_dump(exclude={"capabilities", "instructions"}) == sdk.model_dump(
        exclude={"capabilities", "instructions"}
    )
    assert ours.server_info_stamp == theirs.server_info_stamp
    assert ours.server_info_stamp is not ours.server_info_stamp


def test_the_kernel_asks_for_nothing_that_the_handlers_lack() -> None:
    asked = set(re.findall(r"self\.server\.(\w+)", inspect.getsource(runner.ServerRunner)))
    assert asked == {
        "cache_hints",
        "create_initialization_options",
        "get_notification_handler",
        "get_request_handler",
        "middleware",
        "server_info_stamp",
    }
    ours, _ = both(SETS[0])
    assert all(hasattr(ours, name) for name in asked)
    assert validate_cache_hints(ours.cache_hints) == ours.cache_hints

"""A handshake that is answered before the SDK is imported is answered as the SDK does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.runner import ServerRunner
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request
from mcp_types import methods
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError

from redstreamd.mcpio.early_kernels import REVISIONS, is_plain_discovery, negotiated

CLIENT = {"name": "agent", "version": "1.0"}
PLAIN = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}


def sdk_negotiates(params: Mapping[str, Any]) -> str | None:
    try:
        for version in HANDSHAKE_PROTOCOL_VERSIONS:
            methods.validate_client_request("initialize", version, params)
        return ServerRunner._negotiate_initialize(params)[1]
    except ValidationError:
        return None


def test_the_revisions_are_the_sdks() -> None:
    assert REVISIONS == HANDSHAKE_PROTOCOL_VERSIONS
    assert REVISIONS[-1] == LATEST_HANDSHAKE_VERSION


@pytest.mark.parametrize(
    "params",
    [
        *({**PLAIN, "protocolVersion": each} for each in (*REVISIONS, "2026-07-28", "1999-01-01", "")),
        {**PLAIN, "capabilities": {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}}},
        {**PLAIN, "clientInfo": {**CLIENT, "title": "Agént", "websiteUrl": "x:y", "description": ""}},
    ],
)
def test_what_clients_usually_say_needs_no_sdk(params: dict[str, Any]) -> None:
    assert negotiated(params) == sdk_negotiates(params) is not None


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {**PLAIN, "protocolVersion": 1},
        {**PLAIN, "protocolVersion": "\ud800"},
        {**PLAIN, "capabilities": None},
        {**PLAIN, "capabilities": {"tasks": {}}},
        {**PLAIN, "capabilities": {"roots": {"listChanged": 1}}},
        {**PLAIN, "clientInfo": {"name": "agent"}},
        {**PLAIN, "clientInfo": {**CLIENT, "icons": []}},
        {**PLAIN, "_meta": {}},
        {**PLAIN, "other": 1},
    ],
)
def test_what_is_unusual_or_wrong_is_left_to_the_sdk(params: dict[str, Any] | None) -> None:
    assert negotiated(params) is None


TEXTS = st.sampled_from(["", "a", "é", "\ud800", "2025-03-26"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), TEXTS, st.just({}), st.just([]))
NAMES = ["name", "version", "title", "websiteUrl", "website_url", "description", "icons", "listChanged", "x"]
OBJECTS = st.dictionaries(
    st.sampled_from(NAMES), VALUES | st.dictionaries(TEXTS, VALUES, max_size=1), max_size=4
)
CAPABILITIES = st.dictionaries(
    st.sampled_from(["roots", "sampling", "elicitation", "experimental", "tasks", "x"]),
    VALUES | OBJECTS,
    max_size=3,
)


@given(
    st.dictionaries(st.sampled_from(["_meta", "x", "protocol_version"]), VALUES, max_size=1),
    VALUES | st.sampled_from(REVISIONS),
    VALUES | CAPABILITIES,
    VALUES | OBJECTS | st.builds(lambda more: {**CLIENT, **more}, OBJECTS),
)
def test_whatever_is_answered_early_is_answered_as_the_sdk_does(
    more: dict[str, Any], version: Any, capabilities: Any, client: Any
) -> None:
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": client, **more}
    if (early := negotiated(params)) is not None:
        assert early == sdk_negotiates(params)


def sdk_discovers(params: Mapping[str, Any] | None) -> bool:
    route = classify_inbound_request({"method": "server/discover", "params": params})
    if not isinstance(route, InboundModernRoute):
        return False
    try:
        methods.validate_client_request("server/discover", route.protocol_version, params)
    except ValidationError:
        return False
    return True


ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"progressToken": 1},
        {"io.modelcontextprotocol/clientInfo": {**CLIENT, "title": "Agént"}},
        {"io.modelcontextprotocol/clientCapabilities": {"roots": {}, "elicitation": {"form": {}}}},
    ],
)
def test_what_clients_usually_discover_with_needs_no_sdk(more: dict[str, Any]) -> None:
    params = {"_meta": {**ENVELOPE, **more}}
    assert is_plain_discovery(params)
    assert sdk_discovers(params)


@given(
    st.dictionaries(st.sampled_from(["x", "cursor"]), VALUES, max_size=1),
    st.dictionaries(
        st.sampled_from([*ENVELOPE, "progressToken", "x"]),
        VALUES | CAPABILITIES | OBJECTS | st.just(CLIENT),
        max_size=3,
    ),
    st.sets(st.sampled_from(sorted(ENVELOPE)), max_size=1),
)
def test_whatever_is_discovered_early_the_sdk_serves(
    more: dict[str, Any], meta: dict[str, Any], without: set[str]
) -> None:
    envelope = {name: value for name, value in {**ENVELOPE, **meta}.items() if name not in without}
    params = {"_meta": envelope, **more}
    if is_plain_discovery(params):
        assert sdk_discovers(params)

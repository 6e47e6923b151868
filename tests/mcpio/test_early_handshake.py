"""A handshake that is answered before the SDK is imported is answered as the SDK does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.runner import ServerRunner
from mcp_types import methods
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError

from redstreamd.mcpio.early_handshake import REVISIONS, negotiated

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

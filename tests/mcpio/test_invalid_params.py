"""Params that do not fit are answered with the member and what is expected; held to the SDK's models."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import methods
from pydantic import ValidationError

from redstreamd.mcpio.invalid_params import INVALID_PARAMS, describe
from tests.mcpio.serving import connection_pair
from tests.support.mcp_client import ENVELOPE, HANDSHAKE, EraName, RawClient

REVISIONS: dict[EraName, str] = {"handshake": "2025-11-25", "modern": "2026-07-28"}
ERAS = pytest.mark.parametrize("era", REVISIONS)
ARGUMENT = {"name": "a", "value": "b"}


def described(method: str, params: dict[str, Any], era: EraName = "handshake") -> str | None:
    """Return what is said of the params of a request; None if the SDK accepts them."""
    if era == "modern":
        params = {"_meta": ENVELOPE, **params}
    try:
        methods.validate_client_request(method, REVISIONS[era], params)
    except ValidationError as error:
        found: Any = error.errors(include_url=False, include_context=False, include_input=False)
        text = describe(found, params)
        assert text.startswith(f"{INVALID_PARAMS}: ")
        return text.removeprefix(f"{INVALID_PARAMS}: ")
    return None


@ERAS
@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("tools/call", {"name": "a"}, None),
        ("tools/call", {}, "params.name is missing"),
        ("tools/call", {"name": None}, "params.name must be a string"),
        (
            "tools/call",
            {"name": 1, "arguments": []},
            "params.arguments must be an object; params.name must be a string",
        ),
        ("resources/read", {"uri": 1}, "params.uri must be a string"),
        ("prompts/get", {"name": "a", "arguments": {"b": 1}}, "params.arguments.b must be a string"),
        # The names of forms are not taken for members, nor members for names of forms.
        ("prompts/get", {"name": "a", "arguments": {"str": 1}}, "params.arguments.str must be a string"),
        ("completion/complete", {"ref": 1, "argument": ARGUMENT}, "params.ref must be an object"),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt"}, "argument": ARGUMENT},
            "params.ref.name is missing",
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "name": "a"}, "argument": ARGUMENT},
            "params.ref.uri is missing",
        ),
        (
            "completion/complete",
            {"ref": {}, "argument": ARGUMENT},
            "params.ref.name is missing; params.ref.type is missing; params.ref.uri is missing",
        ),
        (
            "completion/complete",
            {"ref": {"type": "?"}, "argument": ARGUMENT},
            "params.ref.type must be 'ref/prompt' or 'ref/resource'",
        ),
        (
            "prompts/get",
            {"name": "a", "arguments": dict.fromkeys("bcdef", 1)},
            "; ".join(f"params.arguments.{each} must be a string" for each in "bcd") + "; and 2 more",
        ),
    ],
)
def test_the_member_is_named_with_what_is_expected(
    method: str, params: dict[str, Any], expected: str | None, era: EraName
) -> None:
    assert described(method, params, era) == expected


def test_a_handshake_that_does_not_fit_is_told_what_is_wrong() -> None:
    assert described("initialize", {**HANDSHAKE, "protocolVersion": 5}) == (
        "params.protocolVersion must be a string"
    )
    wrong = {**HANDSHAKE, "clientInfo": {"name": "a"}, "capabilities": []}
    assert described("initialize", wrong) == (
        "params.capabilities must be an object; params.clientInfo.version is missing"
    )


def test_long_names_of_members_are_cut() -> None:
    said = described("prompts/get", {"name": "a", "arguments": {each * 100_000: 1 for each in "bcdef"}})
    assert said is not None
    assert len(said) < 500


VALUES = st.recursive(
    st.sampled_from(["SECRET", 1, 1.5, None, True, "ref/prompt"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "type", "a"]), inner)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["name", "arguments", "uri", "ref", "argument", "cursor", "_meta", "context", "level"]
)
METHODS = st.sampled_from(
    ["tools/call", "tools/list", "resources/read", "prompts/get", "completion/complete", "logging/setLevel"]
)


@given(METHODS, st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from(list(REVISIONS)))
def test_whatever_does_not_fit_has_a_member_and_no_value_is_repeated(
    method: str, params: dict[str, Any], era: EraName
) -> None:
    try:
        said = described(method, params, era)
    except KeyError:
        return  # not in this revision
    if said is not None:
        assert "SECRET" not in said
        for each in said.split("; "):
            assert re.match(r"params\S* (must be |is missing)|and \d+ more", each), said


@ERAS
async def test_params_with_very_many_errors_are_refused_without_naming_any(era: EraName) -> None:
    async with connection_pair() as pair:
        raw = RawClient(pair.peer, era=era)
        if era == "handshake":
            await raw.initialize()
        arguments = {f"a{number}": 1 for number in range(2_000)}
        answer = await raw.call("prompts/get", {"name": "a", "arguments": arguments})
        assert answer["error"]["message"] == f"{INVALID_PARAMS}: 2000 values do not fit"
        assert len(json.dumps(answer)) < 200


async def test_a_request_before_the_handshake_is_told_to_initialize() -> None:
    async with connection_pair() as pair:
        raw = RawClient(pair.peer)
        error = (await raw.call("tools/list"))["error"]
        assert (error["code"], error["data"]) == (-32602, "")
        assert "send initialize first" in error["message"]

"""Which era a connection speaks is settled by a peer that shows it, not by whatever comes first.

2026-07-28, basic/versioning: only a successful `initialize` selects the handshake era. The SDK's own loop
settles on the era of the first request of all; that a ping, a probe or a failed handshake ahead locks nobody
out is on purpose.
"""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import PROTOCOL_VERSION_META_KEY

from tests.mcpio.serving import connection_pair
from tests.mcpio.test_sdk_difference import HELLO, READY, Line, call, ours, request, theirs
from tests.support.mcp_client import ENVELOPE, HANDSHAKE, enveloped

UNKNOWN_REVISION = {"_meta": {**ENVELOPE, PROTOCOL_VERSION_META_KEY: "2099-01-01"}}
#: What says nothing about those that follow, and the code of its answer, if that is an error.
SAYS_NOTHING: dict[str, tuple[Line, int | None]] = {
    "a ping": (request("ping"), None),
    "a bare request": (request("tools/list"), -32602),
    "a bare call": (call("echo"), -32602),
    "a bare probe": (request("server/discover"), -32602),
    "a bare listen": (request("subscriptions/listen", {"notifications": {}}), -32602),
    "a handshake that is not valid": (request("initialize", {**HANDSHAKE, "clientInfo": 5}), -32602),
    "an envelope of an unknown revision": (request("tools/list", UNKNOWN_REVISION), -32022),
    "an envelope that is not complete": (
        request("tools/list", {"_meta": {PROTOCOL_VERSION_META_KEY: "2026-07-28"}}),
        -32602,
    ),
}
NOTHING = pytest.mark.parametrize("name", SAYS_NOTHING)


def code_of(answer: list[Any]) -> int | None:
    (one,) = answer
    code: int | None = one["error"]["code"] if "error" in one else None
    return code


@NOTHING
async def test_what_says_nothing_leaves_both_eras_open(name: str) -> None:
    line, code = SAYS_NOTHING[name]
    async with ours() as talk:
        assert code_of(await talk(line)) == code
        # Again and in turns with others: nothing adds up.
        for other, other_code in SAYS_NOTHING.values():
            assert code_of(await talk(other)) == other_code
        assert code_of(await talk(call("echo", modern=True))) is None
    async with ours() as talk:
        assert code_of(await talk(line)) == code
        assert code_of(await talk(HELLO)) is None
        await talk(READY)
        assert code_of(await talk(call("echo"))) is None


@NOTHING
async def test_a_peer_that_has_shown_its_era_is_kept_to_it(name: str) -> None:
    line, _ = SAYS_NOTHING[name]
    async with ours() as talk:
        assert code_of(await talk(call("echo", modern=True))) is None
        await talk(line)
        assert code_of(await talk(HELLO)) == -32022
    async with ours() as talk:
        assert code_of(await talk(HELLO)) is None
        await talk(line)
        assert code_of(await talk(call("echo", modern=True))) == -32600


async def test_an_era_is_settled_before_the_request_that_shows_it_is_answered() -> None:
    """Two lines in one packet: the second one finds the era of the first."""
    async with connection_pair() as pair:
        await pair.peer.send_all(request("tools/list", enveloped(), 1) + b"\n" + HELLO + b"\n")
        received = b""
        while received.count(b"\n") < 2:
            received += await pair.peer.receive_some()
    assert b"-32022" in received


async def test_a_peer_that_calls_itself_initialized_is_not_before_it_was() -> None:
    """Else it could subscribe without a session, and be told so in the wrong form by the other era."""
    async with ours() as talk_to_us, theirs() as talk_to_them:
        for talk, code in ((talk_to_us, -32602), (talk_to_them, None)):
            assert await talk(READY) == []
            assert code_of(await talk(request("tools/list"))) == code
        assert code_of(await talk_to_us(HELLO)) is None
        assert code_of(await talk_to_us(request("tools/list"))) is None


async def test_the_sdk_settles_on_the_first_request() -> None:
    """If this fails, the SDK has come round, and so may tests/mcpio/test_sdk_difference.py."""
    async with theirs() as talk:
        assert code_of(await talk(request("server/discover"))) == -32601
        assert code_of(await talk(call("echo", modern=True))) == -32600

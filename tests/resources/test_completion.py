"""Completion over a real daemon's socket, in both eras (server/utilities/completion)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from tests.support.daemon import Daemon, running_daemon
from tests.support.mcp_client import connected
from tests.support.servers import Server

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
STREAM = ResourceTemplateReference(uri="redstream://streams/{stream}")
GROUP = ResourceTemplateReference(uri="redstream://streams/{stream}/groups/{group}")
FIELD = ResourceTemplateReference(uri="redstream://streams/{stream}/entries/{entry_id}/fields/{field}")
DRAIN = PromptReference(name="drain-a-queue")
DESIGN = PromptReference(name="design-stream")


@pytest.fixture(scope="module")
def shared(redis_server: Server) -> Iterator[Daemon]:
    with running_daemon(redis_server) as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: Daemon, redis: Server) -> Daemon:
    redis.commands(
        ["XADD", "orders:new", "1-1", "sku", "a", "amount", "1"],
        ["XADD", "orders:old", "1-1", "f", "v"],
        ["XADD", "orders*", "1-1", "f", "v"],
        ["XADD", "other", "1-1", "f", "v"],
        ["SET", "orders:text", "1"],
        ["XGROUP", "CREATE", "orders:new", "billing", "0"],
        ["XGROUP", "CREATE", "orders:new", "backup", "0"],
        ["XGROUP", "CREATECONSUMER", "orders:new", "billing", "w1"],
        ["XGROUP", "CREATECONSUMER", "orders:new", "billing", "x1"],
    )
    return shared


@ERAS
@pytest.mark.parametrize(
    ("ref", "argument", "others", "values"),
    [
        (STREAM, ("stream", "orders"), None, ["orders*", "orders:new", "orders:old"]),
        (STREAM, ("stream", "orders*"), None, ["orders*"]),
        (STREAM, ("stream", "nothing"), None, []),
        (GROUP, ("group", "b"), {"stream": "orders:new"}, ["backup", "billing"]),
        (GROUP, ("group", "bi"), {"stream": "orders:new"}, ["billing"]),
        (GROUP, ("group", ""), None, []),
        (GROUP, ("group", ""), {"stream": "absent"}, []),
        (GROUP, ("group", ""), {"stream": "orders:text"}, []),
        (FIELD, ("entry_id", "1-"), {"stream": "orders:new"}, ["1-1"]),
        (FIELD, ("field", ""), {"stream": "orders:new", "entry_id": "1-1"}, ["amount", "sku"]),
        (FIELD, ("field", ""), {"stream": "orders:new", "entry_id": "7-7"}, []),
        (DRAIN, ("stream", "ot"), None, ["other"]),
        (DRAIN, ("group", "ba"), {"stream": "orders:new"}, ["backup"]),
        (DRAIN, ("consumer", ""), {"stream": "orders:new", "group": "billing"}, ["w1", "x1"]),
        (DRAIN, ("consumer", ""), {"stream": "orders:new", "group": "absent"}, []),
        (DESIGN, ("purpose", "a"), None, []),
    ],
)
async def test_what_exists_and_begins_so_is_suggested(
    daemon: Daemon, era: Any, ref: Any, argument: tuple[str, str], others: Any, values: list[str]
) -> None:
    name, value = argument
    with trio.fail_after(10):
        async with connected(daemon.path, era=era) as client:
            answer = await client.complete(ref, {"name": name, "value": value}, others)
    assert answer.completion.values == values
    assert answer.completion.total == len(values)
    assert answer.completion.has_more is False


@ERAS
async def test_no_more_than_a_hundred_are_suggested(daemon: Daemon, redis: Server, era: Any) -> None:
    """ "Completion Results": at most 100 items, and whether there are more."""
    redis.commands(*[["XADD", f"many:{number:03}", "*", "f", "v"] for number in range(120)])
    with trio.fail_after(10):
        async with connected(daemon.path, era=era) as client:
            completion = (await client.complete(STREAM, {"name": "stream", "value": "many:"})).completion
    assert completion.values == [f"many:{number:03}" for number in range(100)]
    assert (completion.total, completion.has_more) == (120, True)


@ERAS
@pytest.mark.parametrize(
    ("ref", "argument"),
    [
        (PromptReference(name="absent"), "stream"),
        (ResourceTemplateReference(uri="redstream://{absent}"), "absent"),
        (STREAM, "group"),
        (DRAIN, "absent"),
    ],
)
async def test_what_has_no_such_argument_cannot_be_completed(
    daemon: Daemon, era: Any, ref: Any, argument: str
) -> None:
    """ "Error Handling": -32602."""
    with trio.fail_after(10):
        async with connected(daemon.path, era=era) as client:
            with pytest.raises(MCPError) as caught:
                await client.complete(ref, {"name": argument, "value": ""})
    assert caught.value.code == -32602

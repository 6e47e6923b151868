"""Completion over a real daemon's socket, in both eras (server/utilities/completion)."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from tests.support.daemon import Daemon
from tests.support.mcp_client import connected, raw_client
from tests.support.servers import Server

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
STREAM = ResourceTemplateReference(uri="redstream://streams/{stream}")
GROUP = ResourceTemplateReference(uri="redstream://streams/{stream}/groups/{group}")
FIELD = ResourceTemplateReference(uri="redstream://streams/{stream}/entries/{entry_id}/fields/{field}")
DRAIN = PromptReference(name="drain-a-queue")
DESIGN = PromptReference(name="design-stream")


@pytest.fixture
def daemon(shared_daemon: Daemon, redis: Server) -> Daemon:
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
    return shared_daemon


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
    client: Client, era: Any, ref: Any, argument: tuple[str, str], others: Any, values: list[str]
) -> None:
    name, value = argument
    answer = await client.complete(ref, {"name": name, "value": value}, others)
    assert answer.completion.values == values
    assert answer.completion.total == len(values)
    assert answer.completion.has_more is False


@ERAS
async def test_what_can_begin_no_name_is_not_looked_for(daemon: Daemon, redis: Server, era: Any) -> None:
    redis.command("CONFIG", "RESETSTAT")
    ref = {"type": "ref/resource", "uri": STREAM.uri}
    async with raw_client(daemon.path, era=era, initialize=era == "handshake") as raw:
        for value in ("\ud800", "x" * 513):
            params = {"ref": ref, "argument": {"name": "stream", "value": value}}
            answer = await raw.call("completion/complete", params)
            assert answer["result"]["completion"]["values"] == []
    assert b"cmdstat_scan" not in redis.command("INFO", "commandstats")


@ERAS
async def test_no_more_than_a_hundred_are_suggested(client: Client, redis: Server, era: Any) -> None:
    """ "Completion Results": at most 100 items, and whether there are more."""
    redis.commands(*[["XADD", f"many:{number:03}", "*", "f", "v"] for number in range(120)])
    completion = (await client.complete(STREAM, {"name": "stream", "value": "many:"})).completion
    assert completion.values == [f"many:{number:03}" for number in range(100)]
    assert (completion.total, completion.has_more) == (120, True)


#: A second apart each, and then a hundred at once.
SECONDS = [f"{1_767_225_600_000 + 1_000 * n}-0" for n in range(100)]
AT_ONCE = [f"1767225700000-{n}" for n in range(100)]
BY_HAND = [f"{n}-1" for n in range(115)]
GREATEST = "18446744073709551615-18446744073709551615"


def newest_first(ids: list[str], beginning: str = "") -> list[str]:
    return [one for one in reversed(ids) if one.startswith(beginning)]


@pytest.mark.parametrize(
    ("stream", "begun", "values"),
    [
        ("long", "", newest_first(AT_ONCE)[:20]),
        ("long", "1", newest_first(AT_ONCE)[:20]),
        ("long", SECONDS[0], SECONDS[:1]),
        ("long", SECONDS[0][:-2], SECONDS[:1]),
        ("long", "17672256030", ["1767225603000-0"]),
        ("long", "1767225605", newest_first(SECONDS, "1767225605")),
        ("long", "176722565", newest_first(SECONDS, "176722565")),
        ("long", "1767225700000-", newest_first(AT_ONCE)[:20]),
        ("long", "1767225700000-1", newest_first(AT_ONCE, "1767225700000-1")),
        ("long", "1767225700000-0", ["1767225700000-0"]),
        ("long", "1767225700000-00", []),
        ("long", "1767225700000-100", []),
        ("long", "1767225700001-", []),
        ("long", "2", []),
        ("long", "17672257000000", []),
        ("by hand", "1", newest_first(BY_HAND, "1")[:20]),
        ("by hand", "11", newest_first(BY_HAND, "11")),
        ("by hand", "0", ["0-1"]),
        ("by hand", "01", []),
        ("greatest", "184", [GREATEST]),
        ("greatest", GREATEST[:30], [GREATEST]),
        ("greatest", GREATEST, [GREATEST]),
        ("greatest", "9", ["9-1"]),
        ("greatest", "99999999999999999999", []),
        ("greatest", "99999999999999999999-1", []),
        ("long", "1767225700000-1-", []),
        ("long", "-", []),
        ("long", "latest", []),
        ("long", "٣", []),
        ("absent", "1", []),
        ("absent", "1-1", []),
        ("orders:text", "1", []),
    ],
)
async def test_entry_ids_that_begin_so_are_suggested_newest_first_however_old(
    daemon: Daemon, redis: Server, stream: str, begun: str, values: list[str]
) -> None:
    streams = {"long": SECONDS + AT_ONCE, "by hand": BY_HAND, "greatest": ["9-1", GREATEST]}
    for name, ids in streams.items():
        redis.commands(*[("XADD", name, one, "f", "v") for one in ids])
    async with connected(daemon.path, era="modern") as client:
        answer = await client.complete(FIELD, {"name": "entry_id", "value": begun}, {"stream": stream})
    assert answer.completion.values == values
    every = newest_first(streams.get(stream, []), begun)
    assert answer.completion.has_more is (len(every) > len(values))
    assert answer.completion.total == (None if answer.completion.has_more else len(values))


async def test_of_large_entries_fewer_are_suggested(daemon: Daemon, redis: Server) -> None:
    redis.commands(*[("XADD", "large", f"{n}-1", "f", "v" * 1_000_000) for n in (1, *range(10, 20))])
    async with connected(daemon.path, era="modern") as client:
        answer = await client.complete(FIELD, {"name": "entry_id", "value": "1"}, {"stream": "large"})
    assert answer.completion.values == ["19-1"]
    assert answer.completion.has_more is True


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
    client: Client, era: Any, ref: Any, argument: str
) -> None:
    """ "Error Handling": -32602."""
    with pytest.raises(MCPError) as caught:
        await client.complete(ref, {"name": argument, "value": ""})
    assert caught.value.code == -32602

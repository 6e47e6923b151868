"""Resources as real clients meet them: the mcp package's own client, in both eras, over a daemon's socket."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.shared.exceptions import MCPError

from redstreamd.presentation.uris import entry_uri, field_uri, group_uri, stream_uri
from redstreamd.resources.catalog import RESOURCES
from tests.support.daemon import Daemon, running_daemon
from tests.support.mcp_client import connected, raw_client
from tests.support.servers import Server

NAMES = st.text(st.characters(exclude_categories=["Cs"]))
ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])


@pytest.fixture
def daemon(shared_daemon: Daemon, redis: Server) -> Daemon:
    """One daemon for all tests, and an empty Redis for each."""
    return shared_daemon


async def read(client: Client, uri: str) -> Any:
    """Return what a JSON resource says."""
    (content,) = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert content.uri == uri
    assert content.mime_type == "application/json"
    return json.loads(content.text)  # type: ignore[union-attr]


async def refusal(client: Client, uri: str) -> MCPError:
    with pytest.raises(MCPError) as caught:
        await client.read_resource(uri)
    return caught.value


@ERAS
async def test_the_listing_is_sorted_and_paged_and_leaves_nothing_out(
    client: Client, redis: Server, era: Any
) -> None:
    names = sorted(f"many:{number}" for number in range(250))
    redis.commands(*[["XADD", name, "*", "f", "v"] for name in names])
    redis.command("SET", "no stream", "1")
    redis.command("XADD", "many:1:rs:dead:g:{many:1}", "*", "a", "companion")
    listed: list[str] = []
    sizes = []
    cursor = None
    while True:
        page = await client.list_resources(cursor=cursor, cache_mode="bypass")
        sizes.append(len(page.resources))
        listed += [each.uri for each in page.resources]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert listed == ["redstream://health", "redstream://streams", *map(stream_uri, names)]
    assert sizes == [102, 100, 50]
    with pytest.raises(MCPError) as caught:
        await client.list_resources(cursor="not one of ours!")
    assert caught.value.code == -32602


@ERAS
async def test_a_stream_that_comes_between_two_pages_neither_repeats_nor_hides_another(
    client: Client, redis: Server, era: Any
) -> None:
    redis.commands(*[["XADD", f"s{number:03}", "*", "f", "v"] for number in range(150)])
    first = await client.list_resources(cache_mode="bypass")
    redis.commands(["XADD", "a first one", "*", "f", "v"], ["DEL", "s000", "s099"])
    second = await client.list_resources(cursor=first.next_cursor, cache_mode="bypass")
    assert [each.name for each in second.resources] == [f"s{number:03}" for number in range(100, 150)]


@ERAS
async def test_the_templates_are_listed_with_their_types(client: Client, era: Any) -> None:
    templates = (await client.list_resource_templates()).resource_templates
    assert {each.uri_template: each.mime_type for each in templates} == {
        "redstream://streams/{stream}": "application/json",
        "redstream://streams/{stream}/entries/{entry_id}": "application/json",
        "redstream://streams/{stream}/entries/{entry_id}/fields/{field}": None,
        "redstream://streams/{stream}/groups/{group}": "application/json",
    }
    assert all(each.description and each.title for each in templates)


@ERAS
async def test_a_lag_that_redis_miscounts_is_an_estimate_with_its_bounds(
    client: Client, redis: Server, era: Any
) -> None:
    """Redis 7.0 still counts entries that were trimmed before a group received them."""
    redis.commands(*[("XADD", "orders", f"{n}-1", "n", n) for n in range(1, 101)])
    redis.command("XGROUP", "CREATE", "orders", "billing", "0")
    redis.command("XREADGROUP", "GROUP", "billing", "w1", "COUNT", "10", "STREAMS", "orders", ">")
    exact = await read(client, group_uri("orders", "billing"))
    assert exact["lag"] == 90
    assert not exact.keys() & {"lag_between", "lag_is_an_estimate_because"}
    redis.command("XTRIM", "orders", "MAXLEN", "20")
    redis.command("XREADGROUP", "GROUP", "billing", "w1", "COUNT", "1", "STREAMS", "orders", ">")
    group = await read(client, group_uri("orders", "billing"))
    (listed,) = (await read(client, stream_uri("orders")))["groups"]
    low, high = group["lag_between"]
    assert low <= 19 <= high <= 20
    assert low <= group["lag"] <= high
    assert "removed" in group["lag_is_an_estimate_because"]
    assert listed["lag_between"] == group["lag_between"]


@ERAS
async def test_each_resource_says_what_is_the_case(client: Client, redis: Server, era: Any) -> None:
    redis.commands(
        ["XADD", "orders", "1-1", "n", "1"],
        ["XADD", "orders", "2-1", "n", "2"],
        ["XGROUP", "CREATE", "orders", "billing", "0"],
        ["XREADGROUP", "GROUP", "billing", "w1", "COUNT", "1", "STREAMS", "orders", ">"],
    )
    (line,) = (await read(client, "redstream://streams"))["streams"]
    assert (line["stream"], line["length"], line["uri"]) == ("orders", 2, stream_uri("orders"))

    stream = await read(client, line["uri"])
    assert [entry["id"] for entry in stream["latest_entries"]] == ["2-1", "1-1"]
    assert stream["groups"][0]["uri"] == group_uri("orders", "billing")

    group = await read(client, group_uri("orders", "billing"))
    assert (group["pending"], group["lag"], group["last_delivered_id"]) == (1, 1, "1-1")
    assert group["max_deliveries"] == 10
    assert [each["name"] for each in group["consumers"]] == ["w1"]
    assert group["oldest_pending"][0]["id"] == "1-1"

    entry = await read(client, entry_uri("orders", "2-1"))
    assert entry == {
        "id": "2-1",
        "time": "1970-01-01T00:00:00.002Z",
        "stream": "orders",
        "fields": {"n": "2"},
    }

    health = await read(client, "redstream://health")
    assert health["redis"]["ping"]["answered"] is True
    assert health["redis"]["connections"]["command"]["connected"] is True


@ERAS
async def test_a_value_that_was_cut_in_a_result_is_whole_at_the_address_that_stands_there(
    client: Client, daemon: Daemon, era: Any
) -> None:
    stream, name = "a/b %20:ü{x}", "the/long one?#"
    value = "ä" * 100_000
    daemon.call("stream_add", stream=stream, entries=[{name: value, "short": 1}])
    result = await client.call_tool("stream_read", {"stream": stream})
    assert result.structured_content is not None
    (entry,) = result.structured_content["entries"]
    assert entry["cut"] == [name]
    uri = entry["fields"][name]["cut"]["uri"]
    assert uri == field_uri(entry_uri(stream, entry["id"]), name)
    (content,) = (await client.read_resource(uri)).contents
    assert content.mime_type == "text/plain"
    assert content.text == value  # type: ignore[union-attr]
    assert (await read(client, uri.rpartition("/fields/")[0]))["fields"] == {name: value, "short": 1}


@ERAS
async def test_a_field_has_the_type_of_its_value(
    client: Client, daemon: Daemon, redis: Server, era: Any
) -> None:
    ids = daemon.call("stream_add", stream="s", entries=[{"": "no name", "object": {"a": [1, None]}}])
    entry = entry_uri("s", ids["structuredContent"]["ids"][0])
    redis.command("XADD", "s", "99999999999999-1", "raw", b"\xff\x00\xfe", "twice", "1", "twice", "2")
    foreign = entry_uri("s", "99999999999999-1")

    async def content(uri: str) -> Any:
        (each,) = (await client.read_resource(uri)).contents
        return each

    assert (await content(field_uri(entry, ""))).text == "no name"
    as_json = await content(field_uri(entry, "object"))
    assert as_json.mime_type == "application/json"
    assert json.loads(as_json.text) == {"a": [1, None]}
    raw = await content(field_uri(foreign, "raw"))
    assert raw.mime_type == "application/octet-stream"
    assert base64.b64decode(raw.blob) == b"\xff\x00\xfe"
    assert json.loads((await content(field_uri(foreign, "twice"))).text) == ["1", "2"]


@ERAS
@pytest.mark.parametrize(
    "uri",
    [
        "redstream://streams/absent",
        "redstream://streams/absent/groups/g",
        "redstream://streams/s/groups/absent",
        "redstream://streams/absent/entries/1-1",
        "redstream://streams/s/entries/9-9",
        "redstream://streams/s/entries/1-1/fields/absent",
        "redstream://streams/s/entries/nonsense",
        "redstream://streams/text",
        "redstream://streams/",
        "redstream://streams/%ff",
        "redstream://streams/%zz",
        "redstream://streams/s/",
        "redstream://nothing",
        "file:///etc/passwd",
        "",
    ],
)
async def test_what_does_not_exist_is_not_found_with_the_code_of_the_revision(
    client: Client, redis: Server, era: Any, uri: str
) -> None:
    """server/resources, "Error Handling": -32002 up to 2025-11-25; -32602 since 2026-07-28 (SEP-2164)."""
    redis.commands(["XADD", "s", "1-1", "f", "v"], ["SET", "text", "1"])
    error = await refusal(client, uri)
    assert error.code == (-32002 if era == "handshake" else -32602)
    assert error.error.data["uri"] == uri


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_the_older_revisions_get_the_older_code_and_no_caching_hints(
    daemon: Daemon, version: str
) -> None:
    async with raw_client(daemon.path) as raw:
        await raw.initialize(version)
        answer = await raw.call("resources/read", {"uri": "redstream://streams/absent"})
        assert answer["error"]["code"] == -32002
        answer = await raw.call("resources/read", {"uri": "redstream://streams"})
        assert not {"ttlMs", "cacheScope", "resultType"} & set(answer["result"])


async def test_every_listing_and_reading_says_how_long_it_may_be_kept(daemon: Daemon, redis: Server) -> None:
    """2026-07-28, server/utilities/caching: the five operations that must carry hints."""
    redis.command("XADD", "s", "1-1", "f", "v")
    async with raw_client(daemon.path, era="modern") as raw:
        hints = {}
        for method, params in (
            ("tools/list", None),
            ("prompts/list", None),
            ("resources/list", None),
            ("resources/templates/list", None),
            ("resources/read", {"uri": "redstream://streams/s"}),
            ("resources/read", {"uri": "redstream://streams/s/entries/1-1"}),
        ):
            result = (await raw.call(method, params))["result"]
            hints[method, *(params or {}).values()] = (result["ttlMs"], result["cacheScope"])
    assert hints == {
        ("tools/list",): (60_000, "private"),
        ("prompts/list",): (600_000, "public"),
        ("resources/list",): (1_000, "private"),
        ("resources/templates/list",): (600_000, "public"),
        ("resources/read", "redstream://streams/s"): (0, "private"),
        ("resources/read", "redstream://streams/s/entries/1-1"): (300_000, "private"),
    }


@ERAS
async def test_what_is_shown_of_a_stream_is_bounded(client: Client, redis: Server, era: Any) -> None:
    redis.commands(*[["XADD", "big", "*", "f", "x" * 100_000] for _ in range(20)])
    redis.commands(*[["XGROUP", "CREATE", "big", f"group {number}", "0"] for number in range(150)])
    stream = await read(client, stream_uri("big"))
    assert len(stream["groups"]) == 100
    assert stream["group_count"] == 150
    assert stream["latest_entries"]
    assert stream["has_more"] is True
    assert len(json.dumps(stream["latest_entries"])) < 40_000


@ERAS
async def test_a_value_beyond_the_longest_message_is_refused_and_the_connection_lives_on(
    redis: Server, era: Any
) -> None:
    redis.command("XADD", "s", "1-1", "huge", "x" * 200_000, "small", "y")
    with running_daemon(redis, "--set", "limits.max_message_bytes=100000") as daemon:
        async with connected(daemon.path, era=era) as client:
            error = await refusal(client, field_uri(entry_uri("s", "1-1"), "huge"))
            assert error.code == -32603
            assert error.error.data["code"] == "TOO_LARGE"
            entry = await read(client, entry_uri("s", "1-1"))
            assert entry["cut"] == ["huge"]
            assert entry["fields"]["small"] == "y"


@ERAS
async def test_a_value_is_as_large_as_a_message_carries_it(redis: Server, era: Any) -> None:
    """A control character takes six bytes in JSON, and bytes that are no text go in base64."""
    redis.command(
        "XADD", "s", "1-1", "control", "\x01" * 20_000, "bytes", b"\xff" * 80_000, "fits", "\x01" * 16_000
    )
    with running_daemon(redis, "--set", "limits.max_message_bytes=100000") as daemon:
        async with connected(daemon.path, era=era) as client:
            for name, size in (("control", 120_002), ("bytes", 106_670)):
                error = await refusal(client, field_uri(entry_uri("s", "1-1"), name))
                assert error.error.data["code"] == "TOO_LARGE"
                assert str(size) in error.error.message
            (whole,) = (await client.read_resource(field_uri(entry_uri("s", "1-1"), "fits"))).contents
            assert whole.text == "\x01" * 16_000  # type: ignore[union-attr]


@ERAS
async def test_without_redis_health_can_be_read_and_the_rest_says_why_not(era: Any) -> None:
    with running_daemon("absent", REDIS_URL="redis://127.0.0.1:1") as daemon:
        async with connected(daemon.path, era=era) as client:
            error = await refusal(client, "redstream://streams/s")
            assert error.code == -32603
            assert error.error.data["code"] == "CONNECTION_ERROR"
            assert error.error.data["next_step"]
            health = await read(client, "redstream://health")
            assert health["redis"]["ping"]["answered"] is False
            assert health["redis"]["connections"]["command"]["cause"]


@ERAS
async def test_the_server_promises_what_it_does_and_no_more(client: Client, daemon: Daemon, era: Any) -> None:
    """server/resources, "Capabilities"; also server/prompts and server/tools."""
    async with raw_client(daemon.path, era=era) as raw:
        if era == "handshake":
            capabilities = (await raw.initialize())["capabilities"]
            assert client.server_capabilities.resources is not None
        else:
            capabilities = (await raw.call("server/discover"))["result"]["capabilities"]
    assert capabilities["resources"] == {"subscribe": True, "listChanged": True}
    assert capabilities["tools"] == {"listChanged": True}
    assert capabilities["prompts"] == {"listChanged": True}
    assert capabilities["completions"] == {}


@given(NAMES, NAMES, NAMES)
def test_addresses_are_written_and_read_the_same_way(stream: str, entry_id: str, field: str) -> None:
    found = RESOURCES.find(field_uri(entry_uri(stream, entry_id), field))
    assert found is not None
    assert found.variables == {"stream": stream, "entry_id": entry_id, "field": field}
    assert found.streams == (stream,)

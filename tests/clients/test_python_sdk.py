"""The ``mcp`` package's client over HTTP: under trio and asyncio, in both eras, with and without a token."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
import trio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types.version import LATEST_MODERN_VERSION

from redstreamd.presentation.uris import stream_uri
from tests.support.http_daemon import HttpDaemon
from tests.support.mcp_client import MODES, EraName
from tests.support.proxy import proxy_to
from tests.support.waiting import until

pytestmark = [
    pytest.mark.limit(60),
    # This client leaves some to the collector.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]

ERAS: tuple[EraName, ...] = ("handshake", "modern")
#: Seconds for a request; a wait may report its progress until then.
PATIENCE = 60


@asynccontextmanager
async def http_client(
    url: str,
    era: EraName,
    token: str | None = None,
    *,
    note: Callable[[httpx2.Response], Awaitable[None]] | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Run the client; `note` is called with each response of which the head has come."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    hooks = {"response": [] if note is None else [note]}
    async with httpx2.AsyncClient(
        headers=headers, timeout=PATIENCE, trust_env=False, event_hooks=hooks
    ) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=MODES[era], read_timeout_seconds=PATIENCE, **options) as client:
            yield client


async def health(client: Client) -> Any:
    """Return what the daemon says of itself."""
    content = (await client.read_resource("redstream://health")).contents[0]
    return json.loads(content.text)  # type: ignore[union-attr]


@asynccontextmanager
async def told(client: Client, uri: str, messages: list[Any]) -> AsyncIterator[Callable[[], Any]]:
    """Subscribe to a resource for the block, and give what returns once an update was told."""
    if client.protocol_version == LATEST_MODERN_VERSION:
        async with client.listen(resource_subscriptions=[uri]) as subscription:

            async def listened() -> Any:
                return (await anext(aiter(subscription))).uri  # type: ignore[union-attr]

            yield listened
        return

    async def handed() -> Any:
        while not (updates := [each for each in messages if hasattr(each.params, "uri")]):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        return updates[-1].params.uri

    with warnings.catch_warnings():
        # It is what the older revisions have.
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await client.subscribe_resource(uri)
    yield handed


async def story(url: str, era: EraName, name: str, token: str | None) -> None:
    """Play through what a client does; in anyio's terms, so that either loop can run it."""
    messages: list[Any] = []

    async def keep(message: Any) -> None:
        messages.append(message)

    async with http_client(url, era, token, message_handler=keep) as client:
        assert {"stream_add", "work_take"} <= {tool.name for tool in (await client.list_tools()).tools}

        added = await client.call_tool("stream_add", {"stream": name, "entries": [{"n": 1}]})
        read = await client.call_tool("stream_read", {"stream": name})
        assert [entry["id"] for entry in read.structured_content["entries"]] == added.structured_content[
            "ids"
        ]
        failed = await client.call_tool("work_done", {"lease": "lease1.none"})
        assert failed.is_error
        assert failed.structured_content["code"] == "INVALID_ARGUMENT"
        with pytest.raises(MCPError, match="not found"):
            await client.read_resource("redstream://nothing")

        async with told(client, stream_uri(name), messages) as update:
            await client.call_tool("stream_add", {"stream": name, "entries": [{"n": 2}]})
            assert await update() == stream_uri(name)

        # A wait tells its progress, and answers; another is given up, and the daemon gives it up, too.
        reported = anyio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            reported.set()

        answers = []

        async def wait(stream: str) -> None:
            arguments = {"streams": [stream], "timeout_seconds": PATIENCE}
            answers.append(await client.call_tool("stream_wait", arguments, progress_callback=note))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, f"{name}:waited")
            await reported.wait()
            await client.call_tool("stream_add", {"stream": f"{name}:waited", "entries": [{"n": 3}]})
        (answer,) = answers
        assert [entry["fields"] for entry in answer.structured_content["entries"]] == [{"n": 3}]
        reported = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, f"{name}:abandoned")
            await reported.wait()
            assert (await health(client))["clients"]["requests_in_flight"] > 1
            tasks.cancel_scope.cancel()
        while (await health(client))["clients"]["requests_in_flight"] > 1:  # noqa: ASYNC110 - asked for
            await anyio.sleep(0.01)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_it_calls_waits_and_subscribes(http: HttpDaemon, backend: str, era: EraName) -> None:
    anyio.run(story, http.url, era, f"python:{backend}:{era}", None, backend=backend)


async def test_it_does_with_a_token(guarded_http: HttpDaemon, token: str) -> None:
    for era in ERAS:
        await story(guarded_http.url, era, f"python:token:{era}", token)


async def test_left_to_itself_it_finds_the_newest_revision(http: HttpDaemon) -> None:
    async with http_client(http.url, "auto") as client:
        assert client.protocol_version == LATEST_MODERN_VERSION
        assert not (await client.call_tool("stream_list", {})).is_error


async def test_a_request_whose_connection_was_cut_is_resumed_in_an_older_revision(http: HttpDaemon) -> None:
    """What happens while no connection is there is told by the one that follows."""
    other = http.client(LATEST_MODERN_VERSION)
    async with proxy_to(http.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        cut = trio.Event()
        answers = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            if not cut.is_set():
                cut.set()
                proxy.cut()
                await other.call_tool("stream_add", stream="python:resumed:after", entries=[{"n": 1}])

        async with http_client(url, "handshake") as client, trio.open_nursery() as nursery:

            async def wait() -> None:
                arguments = {"streams": ["python:resumed:after"], "timeout_seconds": PATIENCE}
                answers.append(await client.call_tool("stream_wait", arguments, progress_callback=note))

            nursery.start_soon(wait)
            await until(lambda: answers)
        assert cut.is_set()
        assert [entry["fields"] for entry in answers[0].structured_content["entries"]] == [{"n": 1}]
    await other.aclose()


@pytest.mark.parametrize("era", ERAS)
async def test_without_a_token_it_is_refused(guarded_http: HttpDaemon, era: EraName) -> None:
    for wrong in (None, "wrong"):
        with pytest.RaisesGroup(MCPError, flatten_subgroups=True, allow_unwrapped=True):
            async with http_client(guarded_http.url, era, wrong) as client:
                await client.call_tool("stream_list", {})


async def test_it_ends_its_session(http: HttpDaemon) -> None:
    seen: list[tuple[str, str | None, int]] = []

    async def note(response: httpx2.Response) -> None:
        session = response.headers.get("mcp-session-id") or response.request.headers.get("mcp-session-id")
        seen.append((response.request.method, session, response.status_code))

    async with http_client(http.url, "handshake", note=note) as client:
        assert not (await client.call_tool("stream_list", {})).is_error
    (session,) = {session for _, session, _ in seen}
    method, _, status = seen[-1]
    assert method == "DELETE"
    assert status in (200, 204)
    late = http.client("2025-11-25")
    late.session = session
    assert (await late.call("ping")).status == 404
    await late.aclose()

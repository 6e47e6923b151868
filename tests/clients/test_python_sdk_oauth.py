"""The ``mcp`` package's client gets a token by itself: all that it knows is the URL, and its own secret."""

from __future__ import annotations

import httpx2
import pytest
from mcp import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from tests.support.daemon import running_daemon
from tests.support.issuer import running_issuer
from tests.support.servers import Server, free_port

pytestmark = [
    pytest.mark.limit(60),
    # This client leaves some to the collector.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]


class Storage:
    """Keeps a client's tokens in memory."""

    token: OAuthToken | None = None
    info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.token

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.token = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


async def test_a_client_finds_the_authorization_server_and_calls_with_its_token(redis: Server) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    with running_issuer() as issuer:
        settings = (f"http.oauth_issuer={issuer.url}", f"http.resource_url={url}")
        options = [word for each in settings for word in ("--set", each)]
        with running_daemon(redis, "--listen", f"http:127.0.0.1:{port}", *options) as daemon:
            storage = Storage()
            provider = ClientCredentialsOAuthProvider(url, storage, "agent", "its secret", issuer=issuer.url)
            async with httpx2.AsyncClient(auth=provider, timeout=60, trust_env=False) as http:
                transport = streamable_http_client(url, http_client=http)
                async with Client(transport, read_timeout_seconds=60) as client:
                    offered = {each.name for each in (await client.list_tools()).tools}
                    assert {"stream_add", "work_take"} <= offered
                    entries = [{"n": "1"}]
                    await client.call_tool("stream_add", {"stream": "a:b:c", "entries": entries})
            read = daemon.call("stream_read", stream="a:b:c")["structuredContent"]
            assert [each["sender"] for each in read["entries"]] == ["http/oauth:ann"]
            assert storage.token is not None
            # It asks for what the daemon says that its tools need.
            assert storage.token.scope == "read publish consume"
            assert storage.token.access_token not in daemon.log
            assert issuer.count("/token") == 1

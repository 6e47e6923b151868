"""The configurations of reverse proxies in contrib/http, with the real programs before the real daemon."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trio

from redstreamd.presentation.uris import stream_uri
from tests.support.certificates import Authority, Certificate
from tests.support.daemon import running_daemon
from tests.support.http_daemon import new_token
from tests.support.servers import Server, free_port, missing
from tests.support.streamable_client import StreamableClient
from tests.support.waiting import wait_until

CONTRIB = Path(__file__).resolve().parents[2] / "contrib" / "http"
NAME = "mcp.example.org"
SOCKET = "/run/redstreamd/http.sock"

_NGINX = """
daemon off;
pid {0}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {0}/body;
    proxy_temp_path {0}/proxy;
    fastcgi_temp_path {0}/fastcgi;
    uwsgi_temp_path {0}/uwsgi;
    scgi_temp_path {0}/scgi;
    include {0}/site.conf;
}}
"""


def written(name: str, file: Path, changes: Mapping[str, str]) -> None:
    """Write a configuration with what a test needs instead of a site's own; each has to be there."""
    text = (CONTRIB / name).read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text)


def nginx(directory: Path, port: int, path: str, own: Certificate) -> list[str]:
    changes = {
        SOCKET: path,
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/ssl/redstreamd/fullchain.pem": own.certificate,
        "/etc/ssl/redstreamd/privkey.pem": own.key,
    }
    written("nginx.conf", directory / "site.conf", changes)
    (directory / "nginx.conf").write_text(_NGINX.format(directory))
    # As root its worker would be another user, who may not use the socket.
    user = ["-g", "user root;"] if Path(path).owner() == "root" else []
    return ["-p", str(directory), "-c", str(directory / "nginx.conf"), *user]


def caddy(directory: Path, port: int, path: str, own: Certificate) -> list[str]:
    changes = {
        SOCKET: path,
        f"\n{NAME} {{": f"\nhttps://{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {own.certificate} {own.key}",
    }
    file = directory / "Caddyfile"
    written("Caddyfile", file, changes)
    options = (
        "admin off",
        "grace_period 1s",
        "auto_https disable_redirects",
        f"storage file_system {directory}",
    )
    own_place = "\n\t".join(("{", *options)) + "\n}\n"
    file.write_text(own_place + file.read_text())
    return ["run", "--adapter", "caddyfile", "--config", str(file)]


@contextlib.contextmanager
def proxy(name: str, directory: Path, port: int, path: str, own: Certificate) -> Iterator[None]:
    """Run a proxy for the block."""
    program = shutil.which(name)
    if program is None:
        missing(name, f"apt-get install {name}")
        raise AssertionError
    words = {"nginx": nginx, "caddy": caddy}[name](directory, port, path, own)
    home = {"HOME": str(directory), "XDG_CONFIG_HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    log = directory / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen([program, *words], env=home, stdout=output, stderr=output) as process,
    ):

        def is_there() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(is_there)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.parametrize("name", ["nginx", "caddy"])
async def test_clients_come_through_the_proxy(name: str, redis: Server, tmp_path: Path) -> None:
    """A call, events as they happen, and a wait; with a token, under the name that clients know."""
    path = str(tmp_path / "http.sock")
    tokens = tmp_path / "tokens"
    token = new_token(tokens, "ann")
    authority = Authority(tmp_path)
    own, port = authority.issue("proxy", NAME), free_port()
    context = ssl.create_default_context(cafile=authority.certificate)

    async def connect() -> trio.abc.Stream:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        secure = trio.SSLStream(stream, context, server_hostname=NAME, https_compatible=True)
        await secure.do_handshake()
        return secure

    def client(token: str = token) -> StreamableClient:
        fields = {"Authorization": f"Bearer {token}"}
        return StreamableClient(connect, authority=NAME, fields=fields)

    settings = {
        "http.token_file": str(tokens),
        "http.resource_url": f"https://{NAME}/mcp",
        "policy.rules": "http/token:ann may read publish on jobs:*, unix may publish on jobs:*",
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with (
        running_daemon(redis, "--listen", f"http:{path}", *options) as daemon,
        proxy(name, tmp_path, port, path, own),
    ):
        ann = client()
        ann.learn((await ann.call("tools/list")).result)
        added = await ann.call_tool("stream_add", stream="jobs:a:b", entries=[{"n": "1"}])
        assert not added["isError"], added
        assert (await ann.call_tool("stream_read", stream="other:a:b"))["isError"]
        stranger = client("rsd_00000000_" + "x" * 43)
        assert (await stranger.call("tools/list")).status == 401
        await stranger.aclose()

        wanted = {"notifications": {"resourceSubscriptions": [stream_uri("jobs:a:b")]}}
        async with ann.posting(ann.request("subscriptions/listen", wanted)) as response:
            events = response.events()
            while "acknowledged" not in ((await anext(events)).data or ""):
                pass
            # The response goes on: this comes although nothing ends it.
            added = await trio.to_thread.run_sync(
                lambda: daemon.call("stream_add", stream="jobs:a:b", entries=[{"n": "2"}])
            )
            assert not added.get("isError"), added
            while stream_uri("jobs:a:b") not in ((event := await anext(events)).data or ""):
                pass
            assert "notifications/resources/updated" in (event.data or "")
            await events.aclose()
        await ann.aclose()

"""The HTTP configurations in contrib, in the clients that can be had: each reaches the bus with its token.

Each is taken as it stands, with the address of the test's daemon in the place of the usual one, and the token
where the client looks for it. VS Code and Cursor are offered by no package registry; test_configurations.py
holds their files against the documented format.
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.clients.conftest import CONTRIB, agent
from tests.clients.test_claude_code import claude_in, turn
from tests.clients.test_codex import turn_with
from tests.support.http_daemon import HttpDaemon
from tests.support.models import Model
from tests.support.node import BIN, inspect_with
from tests.support.servers import Server

pytestmark = pytest.mark.limit(120)

URL = "http://127.0.0.1:9720/mcp"
VARIABLE = "BUS_TOKEN"


def configuration(name: str, http: HttpDaemon, token: str = "") -> str:
    """Return a configuration for a daemon; the token is for clients that read it from this file only."""
    text = (CONTRIB / name).read_text("utf-8")
    assert text.count(URL) == 1
    assert (VARIABLE in text) != ("Bearer TOKEN" in text)
    return text.replace(URL, http.url).replace("Bearer TOKEN", f"Bearer {token}")


def entries(server: Server, stream: str, field: bytes = b"n") -> list[Any]:
    """Return a field of each entry, and who sent it."""
    found = []
    for _, flat in server.command("XRANGE", stream, "-", "+"):
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        found.append((fields[field], fields[b"_rs.sender"]))
    return found


#: What is added, and what is then there: the principal is that of the token.
ENTRY = [{"n": 1}]
ADDED = [(b"1", b"http/token:agent")]


def test_claude_code(
    claude_code: Path,
    guarded_http: HttpDaemon,
    token: str,
    model: Model,
    redis_server: Server,
    tmp_path: Path,
) -> None:
    text = configuration("claude-code.http.mcp.json", guarded_http)
    claude = claude_in(tmp_path, text, claude_code, guarded_http.daemon, model)
    call = ("stream_add", {"stream": "http:claude:a", "entries": ENTRY})
    began = turn(claude, model, call, **{VARIABLE: token})
    assert [(server["name"], server["status"]) for server in began["mcp_servers"]] == [
        ("redstreamd", "connected")
    ]
    assert entries(redis_server, "http:claude:a") == ADDED


def test_codex(
    codex: Path, guarded_http: HttpDaemon, token: str, model: Model, redis_server: Server, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(configuration("codex.http.config.toml", guarded_http))
    cli = agent(tmp_path, codex, guarded_http.daemon, model)
    cli.environment["CODEX_HOME"] = str(tmp_path)
    script = ("stream_add", {"stream": "http:codex:a", "entries": ENTRY})
    (call,) = turn_with(cli, model, {}, script, **{VARIABLE: token})
    assert call["status"] == "completed"
    assert entries(redis_server, "http:codex:a") == ADDED


def test_the_inspector(
    inspector: Path, guarded_http: HttpDaemon, token: str, redis_server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "inspector.json"
    file.write_text(configuration("inspector.http.json", guarded_http, token))
    words = ("--tool-arg", "stream=http:inspector:a", "--tool-arg", f"entries={json.dumps(ENTRY)}")
    added = inspect_with(inspector, file, "--method", "tools/call", "--tool-name", "stream_add", *words)
    assert not added["isError"]
    assert entries(redis_server, "http:inspector:a") == ADDED


async def test_claude_desktop_by_mcp_remote(
    mcp_remote: Path, guarded_http: HttpDaemon, token: str, redis_server: Server, tmp_path: Path
) -> None:
    (server,) = json.loads(configuration("claude_desktop_config.http.json", guarded_http, token))[
        "mcpServers"
    ].values()
    npx, yes, package, *words = server["command"], *server["args"]
    assert (npx, yes, package) == ("npx", "-y", mcp_remote.name)
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), **server["env"]}
    command = StdioServerParameters(command=str(mcp_remote), args=words, env=environment)
    async with Client(command, mode="legacy") as client:
        added = await client.call_tool("stream_add", {"stream": "http:desktop:a", "entries": ENTRY})
    assert not added.is_error
    assert entries(redis_server, "http:desktop:a") == ADDED


def test_curl_as_the_readme_has_it(guarded_http: HttpDaemon, token: str, redis_server: Server) -> None:
    """What one writes by hand: no session, and the headers that repeat the body."""
    text = (CONTRIB / "README.md").read_text("utf-8")
    _, _, rest = text.partition("By hand:\n\n")
    script = textwrap.dedent(rest.partition("\n\n")[0]).replace(URL, guarded_http.url)
    done = subprocess.run(
        ["sh", "-euc", script],
        env={"PATH": os.environ["PATH"], VARIABLE: token},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout)["result"]["isError"] is False
    assert entries(redis_server, "jobs:mail:outbox", b"to") == [(b"ann", b"http/token:agent")]


def test_without_its_token_a_client_says_that_one_is_missing(
    claude_code: Path, guarded_http: HttpDaemon, model: Model, tmp_path: Path
) -> None:
    text = configuration("claude-code.http.mcp.json", guarded_http)
    claude = claude_in(tmp_path, text, claude_code, guarded_http.daemon, model)
    done = claude.run("mcp", "get", "redstreamd", **{VARIABLE: "wrong"})
    assert "Connected" not in done.stdout

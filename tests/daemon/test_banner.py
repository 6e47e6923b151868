"""What a person is told who starts the daemon by hand works when it is pasted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from redstreamd.addresses.default_paths import default_socket
from redstreamd.daemon.banner import banner
from redstreamd.settings import HttpSettings, ListenAddress, ListenersSettings, Settings, load


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/x/redstreamd", "serve"])


def shown(*addresses: str) -> str:
    return banner(Settings(), [ListenAddress.parse(address) for address in addresses])


def client_in(text: str) -> dict[str, object]:
    [line] = [line for line in text.splitlines() if "mcpServers" in line]
    server: dict[str, object] = json.loads(line)["mcpServers"]["redstreamd"]
    return server


def test_an_unusual_socket_is_named_to_the_bridge_and_in_the_calls() -> None:
    text = shown("tcp:127.0.0.1:7077", "unix:/srv/a b.sock")
    assert client_in(text) == {
        "command": "/opt/x/redstreamd",
        "args": ["connect", "--socket", "/srv/a b.sock"],
    }
    assert "/opt/x/redstreamd call --socket '/srv/a b.sock' stream_add" in text


def test_a_place_that_only_this_environment_tells_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    socket = default_socket()
    assert socket.startswith(str(tmp_path))
    assert client_in(shown(f"unix:{socket}"))["args"] == ["connect", "--socket", socket]


def test_a_place_where_every_client_looks_is_not_named() -> None:
    assert client_in(shown("unix:/run/redstreamd/mcp.sock"))["args"] == ["connect"]


def test_a_daemon_without_a_unix_socket_offers_neither_the_bridge_nor_calls_which_need_one() -> None:
    text = shown("tcp:127.0.0.1:7077")
    assert "mcpServers" not in text
    assert "call stream_add" not in text
    assert "--listen unix:PATH" in text


def test_a_program_that_python_was_told_to_run_is_called_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/x/redstreamd/__main__.py", "serve"])
    text = shown("unix:/run/redstreamd/mcp.sock")
    assert client_in(text) == {"command": sys.executable, "args": ["-m", "redstreamd", "connect"]}
    assert f"{sys.executable} -m redstreamd call stream_add" in text


def test_the_url_of_http_is_shown_with_a_configuration() -> None:
    text = shown("http:127.0.0.1:9720", "unix:/run/redstreamd/mcp.sock")
    assert "listens on http://127.0.0.1:9720/mcp, unix:/run/redstreamd/mcp.sock" in text
    over_http, over_stdio = [json.loads(line) for line in text.splitlines() if "mcpServers" in line]
    server = {"type": "http", "url": "http://127.0.0.1:9720/mcp"}
    assert over_http == {"mcpServers": {"redstreamd": server}}
    assert "command" in over_stdio["mcpServers"]["redstreamd"]


def test_the_url_of_http_with_tls_says_so_and_a_socket_for_http_has_none() -> None:
    settings = Settings(
        listeners=ListenersSettings(certificate_file=Path("/c")),
        http=HttpSettings(path="/bus", token_file=Path("/t")),
    )
    addresses = [ListenAddress.parse(each) for each in ("http:[::1]:443", "http:/run/http.sock")]
    text = banner(settings, addresses)
    assert "listens on https://[::1]:443/bus, http:/run/http.sock" in text
    assert "redstreamd tokens new" in text


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("redis://u:p@h:7000", "Redis at h:7000"),
        ("unix:///run/r.sock", "Redis at /run/r.sock"),
        ("redis+sentinel://u:p@s1,s2:1/bus", "Redis, the primary bus of the sentinels s1:26379, s2:1"),
        ("redis+cluster://u:p@c1,[::1]:7000", "the Redis cluster of c1:6379, [::1]:7000"),
    ],
)
def test_where_the_streams_are_is_told_for_each_topology(url: str, store: str) -> None:
    settings = load(environ={"HOME": "/h"}, assignments=[f"redis.url={url}"]).settings
    text = banner(settings, [ListenAddress.parse("unix:/run/redstreamd/mcp.sock")])
    assert f"and keeps its streams in {store}.\n" in text

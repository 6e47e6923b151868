"""The daemon's sockets for metrics: from the settings, guarded, and costing nothing where there are none."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from redstreamd.addresses.address_syntax import parse_daemon_address
from redstreamd.settings import Kind, ListenAddress
from tests.metrics.collecting import parsed
from tests.support.daemon import running_daemon
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until


def scraped(path: str, accept: str = "application/openmetrics-text") -> str:
    with socket.socket(socket.AF_UNIX) as collector:
        collector.settimeout(60)
        collector.connect(path)
        collector.sendall(
            f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode()
        )
        head, _, body = collector.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return body.decode()


def test_a_daemon_serves_metrics_where_the_settings_say_so(redis: Server, tmp_path: Path) -> None:
    port = free_port()
    path = str(tmp_path / "m.sock")
    listen = ("--listen", f"metrics:{path}", "--listen", f"metrics:127.0.0.1:{port}")
    with running_daemon(redis, *listen) as daemon:
        # Sockets for metrics are beside the default one.
        added = daemon.call("stream_add", stream="a:b:c", entries=[{"n": "1"}])
        assert not added.get("isError")
        assert daemon.call("stream_read", stream="a:b:nothing").get("isError")
        figures = parsed(scraped(path))
        name = "redstreamd_tool_call_duration_seconds_count"
        assert figures[f"{name}{{outcome=ok,tool=stream_add}}"] == 1
        assert figures[f"{name}{{outcome=STREAM_NOT_FOUND,tool=stream_read}}"] == 1
        assert figures["redstreamd_tool_answer_bytes_total{tool=stream_add}"] > 0
        assert figures["redstreamd_stream_entries{stream=a:b:c}"] == 1
        assert figures["redstreamd_redis_connected{role=command}"] == 1
        assert figures["redstreamd_redis_commands_total{role=command}"] > 0
        assert figures["redstreamd_redis_round_trip_seconds_count{role=command}"] > 0
        # The connections of the calls.
        assert figures["redstreamd_connections_accepted_total"] >= 2
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(2):
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            assert response.status == 200
            assert parsed(response.read().decode())["redstreamd_redis_usable"] == 1
        connection.close()


def test_a_reconnect_to_redis_is_counted(redis: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "m.sock")
    with running_daemon(redis, "--listen", f"metrics:{path}") as daemon:
        daemon.call("stream_add", stream="a:b:c", entries=[{"n": "1"}])
        redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(
            lambda: parsed(scraped(path)).get("redstreamd_redis_connections_total{role=command}", 0) >= 2
        )


@pytest.mark.parametrize("text", ["metrics:/run/m.sock", "metrics:127.0.0.1:9721", "metrics:[::1]:9721"])
def test_an_address_for_metrics_is_read_and_shown(text: str) -> None:
    address = ListenAddress.parse(text)
    assert address.kind is Kind.METRICS
    assert str(address) == text


@pytest.mark.parametrize("text", ["metrics:", "metrics:relative.sock", "metrics:9721", "metrics::9721"])
def test_what_is_no_address_for_metrics_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="metrics:HOST:PORT"):
        ListenAddress.parse(text)


def test_a_socket_for_metrics_is_not_for_clients() -> None:
    with pytest.raises(ValueError, match="not for clients of MCP"):
        parse_daemon_address("metrics:127.0.0.1:9721")


def serve(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "redstreamd", "serve", *words], capture_output=True, text=True, timeout=60
    )


def test_metrics_beyond_loopback_are_refused_whatever_clients_must_show(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    done = serve("--listen", "metrics:0.0.0.0:0", "--set", f"listeners.token_file={token}")
    assert done.returncode == 78
    assert "without TLS and without a token" in done.stderr


def test_a_daemon_without_a_socket_for_metrics_imports_nothing_for_them() -> None:
    code = "import json, sys, redstreamd.daemon.serving; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert "redstreamd.metrics.page_figures" in modules
    assert not {"prometheus_client", "h11", "redstreamd.metrics.exposition"} & modules

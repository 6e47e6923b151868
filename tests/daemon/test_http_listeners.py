"""The daemon's HTTP listeners: what they serve beside MCP, to whom, and what a reload changes."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from redstreamd.admission.accounts import Accounts
from redstreamd.admission.memory import Memory
from redstreamd.cli import main
from redstreamd.daemon import http_parts
from redstreamd.daemon.http_parts import HttpParts
from redstreamd.daemon.parts import build_parts
from redstreamd.daemon.sockets import OpenListener
from redstreamd.errors import SettingsError
from redstreamd.event_log.event_log import EventLog
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.mcpio.listeners import open_tcp_listeners
from redstreamd.policy import Principal
from redstreamd.service.log_output import LogOutput
from redstreamd.service.log_record import Record
from redstreamd.settings import HttpSettings, Kind, ListenAddress, load
from redstreamd.streamable_http.http_places import Hosts
from tests.metrics.collecting import parsed
from tests.support.certificates import Authority
from tests.support.daemon import META, Daemon, read_resource, running_daemon
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

MODERN = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
}


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


Answer = tuple[int, http.client.HTTPMessage, bytes]


def ask(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str) -> Answer:
    """Return status, headers and body of the answer to a request without a body."""
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def call(connection: http.client.HTTPConnection, tool: str, **arguments: Any) -> Any:
    """Return the result of a call in revision 2026-07-28."""
    return post(connection, {}, tool, arguments)[1]["result"]


def post(
    connection: http.client.HTTPConnection, headers: dict[str, str], tool: str, arguments: dict[str, Any]
) -> tuple[int, Any]:
    params = {"name": tool, "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    names = {"Mcp-Method": "tools/call", "Mcp-Name": tool, "Mcp-Param-Stream": arguments["stream"]}
    connection.request("POST", "/mcp", json.dumps(message), MODERN | names | headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@contextlib.contextmanager
def serving(
    redis: Server | None, *options: str, directory: Path | None = None
) -> Iterator[tuple[Daemon, http.client.HTTPConnection]]:
    """Run a daemon with a listener for HTTP on loopback, and yield it and a connection to it."""
    port = free_port()
    with running_daemon(redis, "--listen", f"http:127.0.0.1:{port}", *options, directory=directory) as daemon:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            yield daemon, connection


def test_a_client_over_http_shares_the_streams_of_the_others(redis: Server, tmp_path: Path) -> None:
    """And the default socket is there beside, as `redstreamd status` needs it."""
    path = str(tmp_path / "h.sock")
    with serving(redis, "--listen", f"http:{path}") as (daemon, connection):
        added = call(connection, "stream_add", stream="a:b:c", entries=[{"n": "1"}])
        assert not added.get("isError"), added
        with contextlib.closing(UnixConnection(path)) as local:
            read = call(local, "stream_read", stream="a:b:c")["structuredContent"]
        assert [entry["fields"] for entry in read["entries"]] == [{"n": "1"}]
        assert read == daemon.call("stream_read", stream="a:b:c")["structuredContent"]
        wait_until(lambda: f"http://127.0.0.1:{connection.port}/mcp" in daemon.output)


def test_alive_and_ready_are_told_to_everybody_and_nothing_else(redis: Server) -> None:
    with serving(redis) as (_, connection):
        wait_until(lambda: ask(connection, "/readyz")[0] == 200)
        for path, text in (("/healthz", b"alive\n"), ("/readyz", b"ready\n")):
            status, headers, body = ask(connection, path)
            assert (status, body, headers["Cache-Control"]) == (200, text, "no-store")
            status, headers, body = ask(connection, path, "HEAD")
            assert (status, body, headers["Content-Length"]) == (200, b"", str(len(text)))
            assert ask(connection, path, Host="10.0.0.7:80")[0] == 200, "probes have the address of a pod"
            status, headers, _ = ask(connection, path, "DELETE")
            assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_daemon_without_redis_is_alive_and_not_ready_and_tells_no_secret(redis: Server) -> None:
    with serving(redis) as (_, connection):
        wait_until(lambda: ask(connection, "/readyz")[0] == 200)
        redis.stop()
        try:
            wait_until(lambda: ask(connection, "/readyz")[0] == 503)
            status, headers, body = ask(connection, "/readyz")
            assert (status, body, headers["Retry-After"]) == (503, b"not ready: Redis does not answer\n", "1")
            assert ask(connection, "/healthz")[0] == 200
        finally:
            redis.start()
        wait_until(lambda: ask(connection, "/readyz")[0] == 200)


def test_metrics_count_what_comes_over_http(redis: Server) -> None:
    with serving(redis) as (daemon, connection):
        call(connection, "stream_add", stream="a:b:c", entries=[{"n": "1"}])
        ask(connection, "/nothing")
        status, headers, body = ask(connection, "/metrics", Accept="application/openmetrics-text")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/openmetrics-text")
        figures = parsed(body.decode())
        assert figures["redstreamd_http_connections"] == 1
        assert figures["redstreamd_http_responses_total{status=2xx}"] >= 1
        assert figures["redstreamd_http_responses_total{status=4xx}"] == 1
        assert figures["redstreamd_http_sessions"] == figures["redstreamd_http_event_streams"] == 0
        told = subprocess.run(
            [sys.executable, "-m", "redstreamd", "status", "--socket", daemon.path],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "1 over HTTP, 0 sessions, 0 streams of events" in told.stdout


def test_metrics_name_streams_so_they_are_for_those_who_may_read_all(redis: Server) -> None:
    for rule, expected in (("http may read on *", 200), ("http may read on public:*", 403)):
        with serving(redis, "--set", f"policy.rules={rule}") as (_, connection):
            status, _, body = ask(connection, "/metrics")
            assert status == expected, body
            assert (b"redstreamd_" in body) is (expected == 200)


def test_tokens_hosts_and_limits_change_with_a_reload(redis: Server, tmp_path: Path) -> None:
    """A token that is not valid any more is refused on the same connection; broken files change nothing."""
    tokens, config = tmp_path / "tokens", tmp_path / "redstreamd.toml"
    config.write_text("")
    with serving(redis, "--config", str(config)) as (daemon, connection):
        adding = ("stream_add", {"stream": "a:b:c", "entries": [{"n": "1"}]})
        assert post(connection, {}, *adding)[0] == 200
        assert post(connection, {"Host": "bus.example.org"}, *adding)[0] == 421

        def reload(text: str) -> None:
            before = daemon.log.count("settings reloaded") + daemon.log.count("settings not reloaded")
            config.write_text(text)
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(
                lambda: (
                    daemon.log.count("settings reloaded") + daemon.log.count("settings not reloaded") > before
                )
            )

        reload(f'[http]\ntoken_file = "{tokens}"\n')
        assert "settings not reloaded" in daemon.log
        assert post(connection, {}, *adding)[0] == 200
        token = new_token(tokens, "ann")
        reload(
            f'[http]\ntoken_file = "{tokens}"\nallowed_hosts = ["bus.example.org"]\nmax_head_bytes = 4096\n'
        )
        assert post(connection, {}, *adding)[0] == 401
        ours = {"Host": "bus.example.org", "Authorization": f"Bearer {token}"}
        assert post(connection, ours, *adding)[0] == 200
        assert ask(connection, "/healthz")[0] == 200
        assert token not in daemon.log
        assert post(connection, ours | {"X-Long": "x" * 5000}, *adding)[0] == 431


def test_a_reload_that_ends_a_listen_leaves_no_subscription_of_it(redis: Server, tmp_path: Path) -> None:
    """The token is asked for where the listen is told of what the policy takes from it."""
    tokens, config = tmp_path / "tokens", tmp_path / "redstreamd.toml"
    config.write_text("")
    new_token(tokens, "ann")
    with serving(redis, "--config", str(config)) as (daemon, connection):
        params = {"notifications": {"resourcesListChanged": True}, "_meta": META}
        message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
        headers = MODERN | {"Mcp-Method": "subscriptions/listen"}
        connection.request("POST", "/mcp", json.dumps(message), headers)
        response = connection.getresponse()
        # It is acknowledged.
        assert response.readline()

        def subscriptions() -> int:
            found: int = read_resource(daemon.path, "redstream://health")["subscriptions"]["subscriptions"]
            return found

        assert subscriptions() == 1
        rules = '["http* may read on kept:*", "unix may manage on *"]'
        config.write_text(f'[policy]\nrules = {rules}\n[http]\ntoken_file = "{tokens}"\n')
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "settings reloaded" in daemon.log)
        response.read()
        wait_until(lambda: subscriptions() == 0)


def new_token(tokens: Path, name: str) -> str:
    """Return a new token of `redstreamd tokens`."""
    done = subprocess.run(
        [sys.executable, "-m", "redstreamd", "tokens", "new", name, "--file", str(tokens)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return next(word for word in done.stdout.split() if word.startswith("rsd_"))


def test_http_takes_the_certificates_of_tcp_listeners_and_not_their_token(
    redis: Server, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    own, ann = authority.issue("daemon", "localhost"), authority.issue("ann", "ann")
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    options = [
        f"listeners.certificate_file={own.certificate}",
        f"listeners.key_file={own.key}",
        f"listeners.client_ca_file={authority.certificate}",
        f"listeners.token_file={token}",
        "policy.rules=http/cert:ann may publish on jobs:*",
    ]
    with serving(redis, *(word for each in options for word in ("--set", each))) as (daemon, plain):
        context = ssl.create_default_context(cafile=authority.certificate)
        context.load_cert_chain(ann.certificate, ann.key)
        secure = http.client.HTTPSConnection("localhost", plain.port, context=context, timeout=60)
        with contextlib.closing(secure):
            added = call(secure, "stream_add", stream="jobs:a:b", entries=[{"n": "1"}])
            assert not added.get("isError"), added
            assert call(secure, "stream_add", stream="other:a:b", entries=[{"n": "1"}])["isError"]
        wait_until(lambda: f"https://127.0.0.1:{plain.port}/mcp" in daemon.output)


def test_without_the_packages_the_start_says_what_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["check-config", "--listen", "http:127.0.0.1:0"]) == 78
    assert "pip install 'redstreamd[http]'" in capsys.readouterr().err


def test_a_daemon_without_a_listener_for_http_imports_nothing_for_it() -> None:
    code = "import json, sys, redstreamd.daemon.serving; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert "redstreamd.daemon.serving" in modules
    found = {"httptools", "jwt", "redstreamd.daemon.http_parts", "redstreamd.streamable_http.http_site"}
    assert not found & modules


async def test_a_reload_opens_no_listener_to_everybody(redis: Server, tmp_path: Path) -> None:
    """Of a certificate that only a restart demands, nothing is counted on."""
    token = new_token(tmp_path / "tokens", "ann")
    assert token
    protected = load(
        assignments=[f"redis.url=unix://{redis.path}", f"http.token_file={tmp_path / 'tokens'}"],
        environ={"STATE_DIRECTORY": str(tmp_path)},
    ).settings
    output = LogOutput(2, form="text", dropped=no_record)
    log = ProcessLog(EventLog(output.write), output)
    async with AsyncExitStack() as resources:
        resources.callback(output.close)
        parts = build_parts(protected, resources, log)
        (bound,) = await open_tcp_listeners("127.0.0.1", 0)
        resources.push_async_callback(bound.aclose)
        beyond = ListenAddress(Kind.HTTP, host="0.0.0.0", port=9720)
        listener = OpenListener(bound, Principal("http", "http"), beyond)
        accounts = Accounts()
        http = HttpParts(protected, parts, [listener], accounts, Memory(accounts, 1 << 20), no_metrics)
        http.check(protected)
        later = attrs.evolve(protected.listeners, certificate_file=Path("/c"), client_ca_file=Path("/ca"))
        for listeners in (protected.listeners, later):
            opened = attrs.evolve(protected, http=HttpSettings(), listeners=listeners)
            with pytest.raises(SettingsError, match="no credential is demanded"):
                http.check(opened)


def no_record(count: int) -> Record:
    raise NotImplementedError


async def no_metrics(accept: str) -> tuple[bytes, str]:
    raise NotImplementedError


def test_a_link_local_address_is_a_host_without_the_zone_of_this_host():
    host = http_parts._host(ListenAddress(Kind.HTTP, host="fe80::1%eth0", port=9720))
    assert host == "[fe80::1]"
    assert "[fe80::1]:9720" in Hosts([host])

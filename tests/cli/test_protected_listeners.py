"""`connect`, `call` and `status` over TLS and with a token, with the real daemon."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from redstreamd import cli
from redstreamd.client import discovery
from redstreamd.daemon.sockets import check_connection, open_listeners
from redstreamd.errors import SettingsError
from redstreamd.service.socket_activation import Activated, ActivatedListener
from redstreamd.settings import Settings, load
from tests.support import preloaded
from tests.support.certificates import Authority
from tests.support.daemon import PROGRAM, Daemon, clean_environment, home, request, running_daemon
from tests.support.servers import free_port

STATE = {"STATE_DIRECTORY": "/nonexistent"}
TOKEN = "correct-horse-battery-staple"
ADD = '{"stream": "demo:ident:tls", "entries": [{"n": 1}]}'


@attrs.define
class Site:
    """A daemon whose TCP listeners ask for a certificate of the client and a token."""

    directory: Path
    daemon: Daemon
    authority: Authority
    port: int
    words: tuple[str, ...]

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return preloaded.run(
            [PROGRAM, *words],
            input=stdin,
            env=clean_environment(self.directory),
            timeout=60,
        )

    def call(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        return self.run("call", *options, "stream_add", ADD)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with home() as directory:
        authority = Authority(directory)
        own, ann = authority.issue("daemon", "localhost"), authority.issue("ann", "ann.example")
        token = directory / "token"
        token.touch(0o600)
        token.write_text(f"{TOKEN}\n")
        port = free_port()
        words = ("--socket", f"tls:localhost:{port}", "--ca-file", authority.certificate)
        words += ("--certificate-file", ann.certificate, "--key-file", ann.key, "--token-file", str(token))
        listen = f"daemon.listen=unix:{directory}/redstreamd/mcp.sock,tcp:127.0.0.1:{port}"
        with running_daemon(
            None,
            *("--set", listen, "--set", "listeners.peer_uids=true"),
            directory=directory,
            REDSTREAMD_LISTENERS_CERTIFICATE_FILE=own.certificate,
            REDSTREAMD_LISTENERS_KEY_FILE=own.key,
            REDSTREAMD_LISTENERS_CLIENT_CA_FILE=authority.certificate,
            REDSTREAMD_LISTENERS_TOKEN_FILE=str(token),
        ) as daemon:
            yield Site(directory, daemon, authority, port, words)


def senders(site: Site) -> list[str]:
    read = site.daemon.call("stream_read", stream="demo:ident:tls", start="earliest")
    return [entry["sender"] for entry in read["structuredContent"]["entries"]]


def test_call_and_status_reach_it_and_the_certificate_is_the_sender(site: Site) -> None:
    called = site.call(*site.words)
    assert called.returncode == 0, called.stderr
    assert senders(site)[-1] == "tcp/cert:ann.example"
    status = site.run("status", "--json", *site.words)
    assert status.returncode == 0, status.stderr
    # The certificates of the test do not last long.
    assert site.daemon.log.count("daemon.pem expires within a day") == 1
    assert json.loads(status.stdout)["clients"]["accepted"] > 0


def test_connect_carries_a_session_and_the_answers_after_its_input_has_ended(site: Site) -> None:
    lines = [request(number, "stream_list", {}) for number in range(20)]
    lines.append(request(20, "stream_wait", {"stream": "demo:ident:none", "timeout_seconds": 0.2}))
    done = site.run("connect", *site.words, stdin=b"".join(lines))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert {answer["id"] for answer in answers} == set(range(21))
    assert all("result" in answer for answer in answers)


def test_who_shows_too_little_is_told_what_is_missing(site: Site) -> None:
    foreign, short = site.authority.issue("nobody"), site.directory / "wrong"
    short.touch(0o600)
    short.write_text("a-secret-that-is-no-token-of-here")
    everything = dict(zip(site.words[::2], site.words[1::2], strict=True))
    for changed, reason, status in (
        ({"--token-file": None}, "--token-file", 1),
        ({"--token-file": str(short)}, "the token of this client is wrong", 1),
        ({"--token-file": "/none"}, "No such file", 78),
        ({"--ca-file": None}, "is not trusted", 78),
        ({"--server-name": "other.example"}, "is not trusted", 78),
        ({"--key-file": foreign.key}, "key values mismatch", 78),
        ({"--certificate-file": None, "--key-file": None}, "does not take TLS from this client", 1),
        ({"--socket": f"tcp:localhost:{site.port}"}, "tls:HOST:PORT", 1),
    ):
        options = everything | changed
        called = site.call(*(word for pair in options.items() if pair[1] is not None for word in pair))
        error = called.stderr.decode()
        assert (called.returncode, reason in error) == (status, True), (changed, called)
        assert "a-secret" not in error
        assert TOKEN not in error
    log = site.daemon.log
    assert "its token is wrong" in log
    assert TOKEN not in log
    assert "a-secret" not in log


def test_a_session_of_connect_goes_on_after_its_tunnel_was_cut(site: Site) -> None:
    """By a proxy that is closed and opened again, as a restart of a firewall."""
    port = free_port()
    proxy = socket.create_server(("127.0.0.1", port))
    words = ("--socket", f"tls:localhost:{port}", *site.words[2:])
    with (
        proxy,
        subprocess.Popen(
            [PROGRAM, "connect", *words],
            env=clean_environment(site.directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as bridge,
    ):
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        assert bridge.stderr is not None
        try:
            for number in range(2):
                client, _ = proxy.accept()
                with client, socket.create_connection(("127.0.0.1", site.port)) as server:
                    bridge.stdin.write(request(number, "stream_list", {}))
                    bridge.stdin.flush()
                    copy_until(client, server, bridge.stdout.fileno())
                    answer = json.loads(os.read(bridge.stdout.fileno(), 1 << 20))
                    assert (answer["id"], "result" in answer) == (number, True)
            bridge.stdin.close()
            bridge.kill()
        finally:
            bridge.kill()


def copy_until(client: socket.socket, server: socket.socket, readable: int) -> None:
    """Carry bytes both ways until something can be read from `readable`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([client, server, readable], [], [], 1)
        if readable in ready:
            return
        for source, sink in ((client, server), (server, client)):
            if source in ready:
                sink.sendall(source.recv(65536))
    raise TimeoutError


def test_a_token_is_in_no_list_of_processes(site: Site) -> None:
    with subprocess.Popen(
        [PROGRAM, "connect", *site.words], env=clean_environment(site.directory), stdin=subprocess.PIPE
    ) as bridge:
        try:
            for pid in (bridge.pid, site.daemon.process.pid):
                for name in ("cmdline", "environ", "comm"):
                    assert TOKEN.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        finally:
            bridge.kill()


def test_ssl_is_imported_only_where_it_is_needed(site: Site) -> None:
    script = (
        "import sys; from redstreamd.cli import main; main(sys.argv[1:]);"
        "print(sorted({'ssl', 'threading'} & set(sys.modules)), file=sys.stderr)"
    )
    for words, expected in (
        (("--socket", site.daemon.path), b"[]\n"),
        (site.words, b"['ssl', 'threading']\n"),
    ):
        done = subprocess.run(
            [PROGRAM.with_name("python"), "-c", script, "call", *words, "stream_list"],
            env=clean_environment(site.directory),
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == expected


# The users of a Unix socket


def test_two_users_of_one_socket_are_two_principals(site: Site) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be two users")
    path = site.daemon.path
    Path(path).chmod(0o666)
    for directory in (site.directory, Path(path).parent):
        directory.chmod(0o755)
    script = (
        "import os, socket, sys; uid, path = int(sys.argv[1]), sys.argv[2];"
        "s = socket.socket(socket.AF_UNIX);"
        "os.setgroups([]); os.setgid(uid); os.setuid(uid); s.connect(path);"
        "s.sendall(sys.stdin.buffer.read()); sys.stdout.buffer.write(s.makefile('rb').readline())"
    )
    for uid in (4001, 4002, 65534):
        add = request(1, "stream_add", {"stream": "demo:ident:tls", "entries": [{"uid": uid}]})
        done = subprocess.run(
            [PROGRAM.with_name("python"), "-c", script, str(uid), path],
            input=add,
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert "result" in json.loads(done.stdout)
    assert senders(site)[-3:] == ["unix/uid:4001", "unix/uid:4002", "unix/uid:unknown"]
    # The third is nobody, which is also what a user namespace shows for those whom it hides.


# The start


@pytest.fixture
def check_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `check-config` in this process; return its status, and what it has printed."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in clean_environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str]:
        status = cli.main(["check-config", *words])
        printed = capsys.readouterr()
        return status, printed.err if status else printed.out

    return run


def serve(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run(
        [PROGRAM, "serve", *words],
        env=clean_environment(directory),
        text=True,
        timeout=60,
    )


def test_a_listener_beyond_loopback_that_demands_nothing_is_refused_by_name(
    tmp_path: Path, check_config: Callable[..., tuple[int, str]]
) -> None:
    for address in ("tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:192.0.2.1:0", "tcp:[::ffff:192.0.2.1]:0"):
        status, error = check_config("--listen", address)
        assert status == os.EX_CONFIG
        assert "listeners.allow_unprotected_tcp" in error
    for address in ("tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0", "tcp:[::ffff:127.0.0.1]:0"):
        assert check_config("--listen", address)[0] == 0
    status, shown = check_config("--listen", "tcp:0.0.0.0:0", "--set", "listeners.allow_unprotected_tcp=true")
    assert status == 0
    assert "tcp:0.0.0.0:0 demands nothing" in shown
    refused = serve(tmp_path, "--listen", "tcp:0.0.0.0:0")
    assert refused.returncode == os.EX_CONFIG
    assert "listeners.allow_unprotected_tcp" in refused.stderr


async def test_an_inherited_or_named_listener_is_judged_by_what_it_is_bound_to() -> None:
    for host in ("0.0.0.0", "127.0.0.1"):
        listening = socket.create_server((host, 0))
        inherited = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        activated = Activated((ActivatedListener("tcp", inherited),))
        if host == "127.0.0.1":
            (opened,) = await open_listeners(Settings(), activated)
            assert opened.protection is None
            await opened.listener.aclose()
        else:
            with pytest.raises(SettingsError) as refused:
                await open_listeners(Settings(), activated)
            assert refused.value.key == "ListenStream"
            assert inherited.socket.fileno() == -1


def test_a_connection_that_another_program_accepted_over_tcp_is_judged_as_a_listener_is() -> None:
    unprotected, demanding = Settings(), load(assignments=["listeners.token_file=/t"], environ=STATE).settings
    ours, theirs = map(trio.socket.from_stdlib_socket, socket.socketpair())
    with ours, theirs:
        check_connection(trio.SocketStream(ours), demanding)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(listening.accept()[0]))
        with stream.socket:
            check_connection(stream, unprotected)
            with pytest.raises(SettingsError, match="only that asks clients for TLS or a token"):
                check_connection(stream, demanding)


def test_files_that_cannot_be_used_are_refused_at_the_start_and_by_check_config(
    tmp_path: Path, check_config: Callable[..., tuple[int, str]]
) -> None:
    own = Authority(tmp_path).issue("daemon", "localhost")
    Path(own.key).chmod(0o644)
    words = ("--listen", "tcp:127.0.0.1:0", "--set", f"listeners.certificate_file={own.certificate}")
    words += ("--set", f"listeners.key_file={own.key}")
    refused = serve(tmp_path, *words)
    for status, error in ((refused.returncode, refused.stderr), check_config(*words)):
        assert status == os.EX_CONFIG
        assert "listeners.key_file" in error
        assert "chmod o=" in error
    Path(own.key).chmod(0o600)
    status, shown = check_config(*words)
    assert status == 0
    assert "tcp:127.0.0.1:0 demands TLS 1.2 or newer; one principal" in shown
    assert check_config(*words[:2], "--set", "listeners.client_ca_file=/ca.pem")[0] == os.EX_CONFIG


def test_an_address_of_tls_is_for_clients_only(check_config: Callable[..., tuple[int, str]]) -> None:
    assert discovery.parse_address("tls://[::1]:7077", "--socket") == ("tls", "", "::1", 7077)
    with pytest.raises(discovery.NotAnAddressError, match="tls:HOST:PORT"):
        discovery.parse_address("tls:nowhere", "--socket")
    assert check_config("--listen", "tls:127.0.0.1:1")[0] == os.EX_CONFIG

"""The bridge: every line, in both directions, and a clear end."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import trio
from mcp import Client, MCPError, StdioServerParameters

from redstreamd.addresses import default_paths
from redstreamd.client import discovery
from redstreamd.startup import unavailable
from tests.cli.conftest import read_all, read_exactly
from tests.support.measured import measured

#: Lines of a few hundred bytes and one of three megabytes, which is passed on in pieces.
# No message, but it begins as one.
LARGE = b"{" + random.Random(1).randbytes(5 * 1024 * 1024) + b"\n" + bytes(3 * 1024 * 1024) + b"\n"


def test_a_socket_in_a_directory_that_somebody_else_made_meanwhile_is_not_used(place, monkeypatch):
    # As it is after the candidates were listed: the place in /tmp was not there then.
    monkeypatch.setattr(default_paths, "_fallback_socket", lambda *_: str(place))
    monkeypatch.setattr(discovery, "candidates_for_clients", lambda _environ: [str(place)])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        discovery.open_connection(None).close()
        place.parent.chmod(0o777)
        with pytest.raises(discovery.UnreachableError, match="somebody else has made its directory"):
            discovery.open_connection(None)
        discovery.open_connection(str(place)).close()


async def test_lines_pass_unchanged_in_both_directions(place, accept, redstreamd):
    process = await redstreamd("connect", "--socket", str(place))
    daemon = await accept()
    lines = bytes(range(256)) + b"\r\n\0 no JSON\n\n[]\n7\n"
    await process.stdin.send_all(lines)
    assert await read_exactly(daemon, len(lines)) == lines
    await daemon.send_all(lines[::-1] + b"\n")
    assert await read_exactly(process.stdout, len(lines) + 1) == lines[::-1] + b"\n"
    await process.stdin.aclose()
    assert await read_all(daemon) == b""
    await daemon.aclose()
    assert await process.wait() == 0
    assert await read_all(process.stderr) == b""


async def test_a_last_line_without_a_newline_is_whole_for_the_daemon_and_not_for_the_client(
    place, accept, redstreamd
):
    process = await redstreamd("connect", "--socket", str(place))
    daemon = await accept()
    await process.stdin.send_all(b'{"method": "x"}')
    await process.stdin.aclose()
    assert await read_all(daemon) == b'{"method": "x"}\n'
    await daemon.send_all(b"whole\nhalf")
    await daemon.aclose()
    assert await read_all(process.stdout) == b"whole\n"
    assert await process.wait() == 0


async def send(stream: trio.abc.SendStream, data: bytes, sent: trio.Event) -> None:
    """Send `data`, then set `sent`."""
    await stream.send_all(data)
    sent.set()


async def test_a_direction_that_nobody_reads_does_not_hold_up_the_other(place, accept, redstreamd):
    process = await redstreamd("connect", "--socket", str(place))
    daemon = await accept()
    for unread, read in ((daemon, process.stdout), (process.stdout, daemon)):
        sent_in, sent_out = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, process.stdin, LARGE, sent_in)
            nursery.start_soon(send, daemon, LARGE, sent_out)
            assert await read_exactly(read, len(LARGE)) == LARGE
            # The buffers on the way are far smaller, so the other direction was stuck all the while.
            assert not (sent_in if unread is daemon else sent_out).is_set()
            assert await read_exactly(unread, len(LARGE)) == LARGE
    await process.stdin.aclose()
    assert await read_all(daemon) == b""
    await daemon.aclose()
    assert await process.wait() == 0


async def test_answers_arrive_after_the_client_has_closed_its_side(place, accept, redstreamd):
    process = await redstreamd("connect", "--socket", str(place))
    daemon = await accept()
    await process.stdin.send_all(b"request\n")
    await process.stdin.aclose()
    assert await read_all(daemon) == b"request\n"
    await daemon.send_all(b"late answer\n")
    await daemon.aclose()
    assert await read_all(process.stdout) == b"late answer\n"
    assert await process.wait() == 0


async def test_a_client_that_stops_reading_ends_the_bridge(place, accept, redstreamd):
    process = await redstreamd("connect", "--socket", str(place))
    await accept()
    await process.stdout.aclose()
    # Although nothing was to be written.
    assert await process.wait() == 0
    assert await read_all(process.stderr) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once_and_silently(place, accept, redstreamd, number):
    process = await redstreamd("connect", "--socket", str(place))
    daemon = await accept()
    process.send_signal(number)
    assert await process.wait() == -number
    assert await read_all(process.stderr) == b""
    assert await daemon.receive_some() == b""


async def test_descriptors_that_do_not_block_are_served_too(place, accept, redstreamd):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    process = await redstreamd("connect", "--socket", str(place), stdin=theirs, stdout=theirs)
    theirs.close()
    daemon = await accept()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.send_all, LARGE)
            nursery.start_soon(client.send_all, LARGE)
            assert await read_exactly(daemon, len(LARGE)) == LARGE
            assert await read_exactly(client, len(LARGE)) == LARGE
        await client.send_eof()
        assert await read_all(daemon) == b""
        await daemon.aclose()
        assert await process.wait() == 0


async def test_without_a_daemon_it_says_where_it_looked_and_how_to_start_one(finished, environ, tmp_path):
    environ["XDG_RUNTIME_DIR"] = str(tmp_path)
    done = await finished("connect")
    assert done.returncode == 75
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.count("\n") == 1
    for part in (
        f"{tmp_path}/redstreamd/mcp.sock (no such file)",
        "/run/redstreamd/mcp.sock",
        "redstreamd serve",
    ):
        assert part in message


def asking(method: str, request_id: object = 1) -> bytes:
    """Return the line of a request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method}).encode() + b"\n"


async def test_without_a_daemon_the_client_is_told_why_in_answer_to_its_handshake(nowhere, redstreamd):
    process = await redstreamd("connect", "--socket", str(nowhere))
    await process.stdin.send_all(b'{"jsonrpc": "2.0", "method": "notifications/x"}\n[]\nno JSON\n')
    await process.stdin.send_all(asking("server/discover", "probe") + asking("initialize", 0))
    # The end of the handshake is enough: the client has not closed its side.
    assert await process.wait() == 75
    answers = [json.loads(line) for line in (await read_all(process.stdout)).splitlines()]
    (said,) = (await read_all(process.stderr)).decode().splitlines()
    assert [answer["id"] for answer in answers] == ["probe", 0]
    for answer in answers:
        assert answer["error"]["code"] == -32000
        assert said == f"redstreamd: {answer['error']['message']}"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_of_either_era_reports_that_there_is_no_daemon(nowhere, command, environ, mode):
    words = [*command[1:], "connect", "--socket", str(nowhere)]
    server = StdioServerParameters(command=command[0], args=words, env=environ)
    with pytest.RaisesGroup(
        pytest.RaisesExc(MCPError, match=r"redstreamd serve.*no such file"), flatten_subgroups=True
    ):
        async with Client(server, mode=mode):
            pass


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", 0),
        (asking("ping") + asking("tools/list")[:-1], 1),
        (asking("ping") + b"x" * 200_000 + b"\n" + asking("ping"), 1),
        (asking("initialize") + asking("ping"), 1),
    ],
    ids=["nothing", "a line without an end", "too long a line", "more after the handshake"],
)
def test_the_answers_for_an_absent_daemon_come_to_an_end(tmp_path, sent, answered):
    (tmp_path / "sent").write_bytes(sent)
    with (tmp_path / "sent").open("rb") as source, (tmp_path / "answers").open("wb") as sink:
        unavailable.answer_client("gone", source=source.fileno(), sink=sink.fileno())
    assert (tmp_path / "answers").read_bytes().count(b"gone") == answered


def test_a_client_that_asks_nothing_is_not_waited_for_long():
    source, held = os.pipe()
    try:
        unavailable.answer_client("gone", source=source, sink=-1, timeout_seconds=0.05)
    finally:
        os.close(source)
        os.close(held)


async def test_who_names_a_daemon_is_served_by_no_other_one(finished, environ, tmp_path):
    runtime = tmp_path / "redstreamd"
    runtime.mkdir(mode=0o700)
    environ["XDG_RUNTIME_DIR"] = str(tmp_path)
    environ["REDSTREAMD_SOCKET"] = named = str(tmp_path / "named" / "mcp.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runtime / "mcp.sock"))
        other.listen()
        other.setblocking(False)
        done = await finished("connect")
        with pytest.raises(BlockingIOError):
            other.accept()
    assert done.returncode == 75
    assert done.stderr.decode().endswith(f"tried {named} (no such file)\n")


async def test_the_named_socket_is_tried_in_the_place_of_the_usual_ones(place, accept, redstreamd, environ):
    environ["REDSTREAMD_SOCKET"] = str(place)
    process = await redstreamd("connect")
    daemon = await accept()
    await process.stdin.aclose()
    assert await read_all(daemon) == b""
    await daemon.aclose()
    assert await process.wait() == 0


def refusing(place) -> socket.socket:
    """Create a socket at `place` on which nobody listens."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(place))
    return sock


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_a_socket_that_a_daemon_left_is_tried_again_until_it_is_back(place, ended):
    daemon = socket.socket(socket.AF_UNIX) if ended == "stopped" else refusing(place)
    pauses = []

    def come_back(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            if ended == "stopped":
                daemon.bind(str(place))
            daemon.listen()

    with daemon, discovery.open_connection(str(place), sleep=come_back) as connection:
        assert connection.getpeername() == str(place)
    assert len(pauses) == 3


def test_a_socket_that_goes_on_refusing_is_given_up_after_three_seconds(place):
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with refusing(place), pytest.raises(discovery.UnreachableError, match="nobody is listening"):
        discovery.open_connection(str(place), now=lambda: now[0], sleep=sleep)
    assert 3.0 <= now[0] - 1000.0 <= 3.1


def test_where_no_daemon_has_been_none_is_waited_for(nowhere):
    with pytest.raises(discovery.UnreachableError, match="no such file"):
        discovery.open_connection(str(nowhere), sleep=lambda seconds: pytest.fail("waited"))


def test_a_socket_that_is_not_ours_to_use_names_the_group(place, monkeypatch):
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(discovery.UnreachableError, match="redstreamd-clients"):
        discovery.open_connection(str(place))


def test_a_path_too_long_for_a_socket_is_explained(tmp_path):
    with pytest.raises(discovery.UnreachableError, match="at most 107 bytes"):
        discovery.open_connection(str(tmp_path / ("x" * 108)))


@pytest.mark.parametrize("words", [["connect"], ["call", "stream_list"]])
def test_only_the_standard_library_is_imported(command, environ, words):
    program = (
        "import sys; before = set(sys.modules)\n"
        "from redstreamd.cli import main\n"
        f"status = main({[*words[:1], '--socket', '/nowhere/mcp.sock', *words[1:]]!r})\n"
        "print(status, *(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [command[0], "-c", program],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    status, *modules = done.stdout.split()
    assert status == "75"
    foreign = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert foreign == {"redstreamd"}
    # What start-up costs is modules; a shared machine's clock would prove less.
    assert len(modules) < 98


def test_the_first_line_is_passed_on_soon_after_the_start(place, command, environ):
    """Compared with a start of Python that imports what no such program can do without."""
    bare = [command[0], "-c", "import json, select, socket; print(flush=True)"]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        listening.settimeout(60)

        def bare_start() -> float:
            began = time.monotonic()
            with subprocess.Popen(bare, env=environ, stdout=subprocess.PIPE) as process:
                assert process.stdout.read(1) == b"\n"
                return time.monotonic() - began

        def first_line() -> float:
            words = [*command, "connect", "--socket", str(place)]
            began = time.monotonic()
            with subprocess.Popen(
                words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            ) as process:
                process.stdin.write(asking("ping"))
                process.stdin.flush()
                with listening.accept()[0] as daemon:
                    daemon.settimeout(60)
                    assert daemon.recv(1) == b"{"
                    taken = time.monotonic() - began
                    process.stdin.close()
                    process.kill()
                return taken

        # The shortest of several is that of a process that was not held up.
        times = [(first_line(), bare_start()) for _ in range(9)]
    with measured:
        assert min(first for first, _ in times) <= 4 * min(bare for _, bare in times), times

"""Socket activation in real processes that inherit real descriptors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

# Plays the service manager between fork and exec: puts the descriptors in their places, says so in
# the environment, and becomes the program.
LAUNCHER = textwrap.dedent("""
    import fcntl, json, os, sys
    plan = json.loads(sys.argv[1])
    # Out of the way first, so that none is overwritten before it is in its place.
    moved = [(fcntl.fcntl(fd, fcntl.F_DUPFD, 200), target) for fd, target in plan["descriptors"]]
    os.closerange(3, 200)
    for fd, target in moved:
        os.dup2(fd, target, inheritable=True)
        os.close(fd)
    environ = {**os.environ, **plan["environ"]}
    if environ.get("LISTEN_PID") == "self":
        environ["LISTEN_PID"] = str(os.getpid())
    os.execve(sys.executable, [sys.executable, "-c", sys.argv[2]], environ)
""")

REPORT = textwrap.dedent("""
    import json, os, sys, trio
    from redstreamd.service.socket_activation import adopt_sockets

    found = adopt_sockets()
    report = {
        "listeners": [[entry.name, entry.listener.socket.fileno()] for entry in found.listeners],
        "connections": [[entry.name, entry.stream.socket.fileno()] for entry in found.connections],
        "others": found.others,
        "mcp": [listener.socket.fileno() for listener in found.named("mcp")],
        "left in environment": sorted(name for name in os.environ if name.startswith("LISTEN_")),
        "inheritable": [fd for fd in range(3, 20) if os.path.exists(f"/proc/self/fd/{fd}")
                        and os.get_inheritable(fd)],
    }
    print(json.dumps(report))
""")


#: Reports on each of several environments, one after the other, with a descriptor of its own; or the error.
REPORTS = f"""
import fcntl, json, os, sys
kept = fcntl.fcntl(3, fcntl.F_DUPFD, 100)
for environ in json.loads(os.environ.pop("ENVIRONS")):
    os.dup2(kept, 3, inheritable=True)
    os.environ |= environ
    if environ.get("LISTEN_PID") == "self":
        os.environ["LISTEN_PID"] = str(os.getpid())
    try:
        exec({REPORT!r})
    except Exception as error:
        print(json.dumps(f"{{type(error).__name__}}: {{error}}"))
        for name in [name for name in os.environ if name.startswith("LISTEN_")]:
            del os.environ[name]
"""


def launch(
    program: str, descriptors: dict[int, int], environ: dict[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Run a program that finds descriptor `key` of ours as its descriptor `value`."""
    plan = json.dumps({"descriptors": list(descriptors.items()), "environ": environ})
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, plan, program],
        pass_fds=list(descriptors),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def report_of(descriptors: dict[int, int], **environ: str) -> dict[str, Any]:
    output, errors = launch(REPORT, descriptors, environ).communicate(timeout=120)
    assert output, errors.decode()
    report: dict[str, Any] = json.loads(output)
    return report


def reports_of(listener: socket.socket, environs: list[dict[str, str]]) -> list[Any]:
    """Return the report on each environment of one process, whose descriptor 3 the listener is."""
    process = launch(REPORTS, {listener.fileno(): 3}, {"ENVIRONS": json.dumps(environs)})
    output, errors = process.communicate(timeout=120)
    reports = [json.loads(line) for line in output.splitlines()]
    assert len(reports) == len(environs), errors.decode()
    return reports


def error_of(descriptors: dict[int, int], **environ: str) -> str:
    output, errors = launch(REPORT, descriptors, environ).communicate(timeout=120)
    assert not output
    return errors.decode().splitlines()[-1]


@pytest.fixture
def unix_listener() -> Iterator[socket.socket]:
    with tempfile.TemporaryDirectory(prefix="rs-") as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/mcp.sock")
        listener.listen()
        yield listener


@pytest.fixture
def tcp_listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_sockets_are_matched_by_name_and_sorted_whatever_their_position(
    unix_listener: socket.socket, tcp_listener: socket.socket
) -> None:
    unix, tcp = unix_listener.fileno(), tcp_listener.fileno()
    one = report_of({unix: 3, tcp: 4}, LISTEN_FDS="2", LISTEN_PID="self", LISTEN_FDNAMES="mcp:http")
    other = report_of({tcp: 3, unix: 4}, LISTEN_FDS="2", LISTEN_PID="self", LISTEN_FDNAMES="http:mcp")
    assert one["listeners"] == [["http", 4], ["mcp", 3]]
    assert other["listeners"] == [["http", 3], ["mcp", 4]]
    assert (one["mcp"], other["mcp"]) == ([3], [4])


def test_several_sockets_may_share_a_name(unix_listener: socket.socket, tcp_listener: socket.socket) -> None:
    """Theirs is the order of their addresses, so that processes that share them agree about it."""
    unix, tcp = unix_listener.fileno(), tcp_listener.fileno()
    both = {"LISTEN_FDS": "2", "LISTEN_PID": "self", "LISTEN_FDNAMES": "mcp:mcp"}
    assert report_of({unix: 3, tcp: 4}, **both)["mcp"] == [4, 3]
    assert report_of({tcp: 3, unix: 4}, **both)["mcp"] == [3, 4]


def test_sockets_without_names_are_called_unknown(unix_listener: socket.socket) -> None:
    report = report_of({unix_listener.fileno(): 3}, LISTEN_FDS="1", LISTEN_PID="self")
    assert report["listeners"] == [["unknown", 3]]


def test_no_later_program_inherits_the_sockets_or_their_description(unix_listener: socket.socket) -> None:
    report = report_of(
        {unix_listener.fileno(): 3},
        LISTEN_FDS="1",
        LISTEN_PID="self",
        LISTEN_FDNAMES="mcp",
        LISTEN_PIDFDID="7",
    )
    assert report["mcp"] == [3]
    assert report["inheritable"] == []
    assert report["left in environment"] == []


def test_what_was_meant_for_another_process_is_left_alone_but_for_the_environment(
    unix_listener: socket.socket,
) -> None:
    environs = [{"LISTEN_FDS": "1", "LISTEN_FDNAMES": "mcp"}]
    environs += [environs[0] | {"LISTEN_PID": pid} for pid in ("1", "", "x")]
    for report in reports_of(unix_listener, environs):
        assert report["listeners"] == []
        assert report["inheritable"] == [3]
        assert report["left in environment"] == []


def test_a_connected_socket_and_a_stored_file_are_told_from_listeners(unix_listener: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as stored:
        report = report_of(
            {theirs.fileno(): 3, stored.fileno(): 4, unix_listener.fileno(): 5},
            LISTEN_FDS="3",
            LISTEN_PID="self",
            LISTEN_FDNAMES="connection:stored:mcp",
        )
    assert report["connections"] == [["connection", 3]]
    assert report["others"] == [["stored", 4]]
    assert report["listeners"] == [["mcp", 5]]
    assert report["inheritable"] == []


def test_a_datagram_socket_is_a_mistake_in_the_socket_unit() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.bind(("127.0.0.1", 0))
        error = error_of({datagram.fileno(): 3}, LISTEN_FDS="1", LISTEN_PID="self", LISTEN_FDNAMES="mcp")
    assert "SettingsError" in error
    assert "socket mcp='SOCK_DGRAM'" in error
    assert "ListenStream=" in error


def test_a_description_that_cannot_be_true_is_refused(unix_listener: socket.socket) -> None:
    refused = [
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS='two'"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS='-1'"),
        ({"LISTEN_FDS": "9999999999"}, "LISTEN_FDS='9999999999'"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "mcp:http"}, "1 names"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "mcp:http"}, "4: Bad file descriptor"),
    ]
    environs = [environ | {"LISTEN_PID": "self"} for environ, _ in refused]
    for error, (_, part) in zip(reports_of(unix_listener, environs), refused, strict=True):
        assert "SettingsError" in error
        assert part in error


# The socket as standard input

STANDARD_INPUT = textwrap.dedent("""
    import os, sys, trio
    from redstreamd.service.socket_activation import adopt_sockets, adopt_standard_input

    def note(text):
        if "quiet" not in sys.argv:
            os.write(2, text)

    async def main():
        adopt_sockets()
        found = adopt_standard_input()
        if isinstance(found, trio.SocketListener):
            stream = await found.accept()
            kind = b"listener"
        elif found is None:
            note(b"nothing adopted")
            return
        else:
            stream, kind = found, b"connection"
        print("a stray print", flush=True)
        async with stream:
            await stream.send_all(kind + b" heard " + await stream.receive_some(100))
            await stream.send_eof()
            at_end = sys.stdin.read()
            await stream.receive_some(100)
        note(b" stdin is empty" if at_end == "" else b" stdin is not empty")

    trio.run(main)
""")


def start_on(stdin: socket.socket, stdout: socket.socket | int, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", STANDARD_INPUT],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )


def talk(client: socket.socket) -> bytes:
    client.settimeout(120)
    client.sendall(b"hello")
    answer = b""
    while data := client.recv(100):
        answer += data
    return answer


def test_a_listening_socket_on_standard_input_is_accepted_on_although_listen_fds_is_set_by_hand(
    unix_listener: socket.socket,
) -> None:
    """The form of the original's unit: StandardInput=socket, Environment=LISTEN_FDS=1, no LISTEN_PID."""
    with start_on(unix_listener, unix_listener, LISTEN_FDS="1") as process:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(unix_listener.getsockname())
            assert talk(client) == b"listener heard hello"
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"a stray print" in errors
    assert b"stdin is empty" in errors


def test_a_connected_socket_on_standard_input_and_output_is_the_one_client() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = start_on(theirs, theirs)
        with process:
            assert talk(ours) == b"connection heard hello"
            ours.close()
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"a stray print" in errors
    assert b"stdin is empty" in errors


def test_a_socket_on_all_three_standard_descriptors_does_not_get_the_stray_prints_either() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", STANDARD_INPUT, "quiet"],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
            )
        with process:
            assert talk(ours) == b"connection heard hello"
            ours.close()
            assert process.wait(timeout=120) == 0


def test_two_separate_socket_pairs_are_left_to_stdio() -> None:
    """As Node.js starts its child processes: sockets, but each for one direction."""
    first, second = socket.socketpair(), socket.socketpair()
    with first[0], first[1], second[0], second[1], start_on(first[1], second[1]) as process:
        _, errors = process.communicate(timeout=120)
    assert errors == b"nothing adopted"


def test_pipes_are_left_to_stdio() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STANDARD_INPUT], input=b"", capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b"nothing adopted"


def test_a_datagram_socket_as_the_client_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, start_on(theirs, theirs) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"standard input='SOCK_DGRAM'" in errors

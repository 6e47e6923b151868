"""Standard input and output as a stream: real processes on pipes, terminals, sockets, files and devices."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from redstreamd.mcpio.standard_streams import listening_socket_on
from tests.support.mcp_client import HANDSHAKE

ROOT = Path(__file__).parents[2]
#: Seconds for what a child does at once.
PATIENCE = 60


def tool_call(request_id: int, name: str, **arguments: Any) -> dict[str, Any]:
    """Build a call in a session."""
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def encoded(message: dict[str, Any]) -> bytes:
    """Write a message as most clients do."""
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


MESSAGES: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HANDSHAKE},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    tool_call(2, "echo", text="ä"),
    tool_call(3, "big", bytes=300_000),
]
INPUT = b"".join(encoded(message) for message in MESSAGES)
NOISE = [
    "printed by Python",
    "written to descriptor 1",
    "printed by a child",
    "the child's input: b''",
    "printed last, and left in the buffer",
]


@contextlib.contextmanager
def child(
    stdin: int | IO[bytes], stdout: int | IO[bytes], *arguments: str, shell: str = 'exec "$@"'
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that serves its standard input and output, started by a line of shell."""
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "tests.mcpio.stdio_child", *arguments]
    # Buffered as by default, so that what is printed can be late.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(descriptor: int, lines: int) -> bytes:
    """Read so many lines."""
    received = b""
    deadline = time.monotonic() + PATIENCE
    while received.count(b"\n") < lines:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no answer within {PATIENCE} s, after {received!r}"
        received += os.read(descriptor, 1 << 16)
    return received


def check(answers: bytes, errors: bytes) -> None:
    """Check what came out of a child that was given `INPUT`."""
    messages = [json.loads(line) for line in answers.splitlines()]
    assert sorted(message["id"] for message in messages) == [1, 2, 3]
    texts = [message["result"].get("content", [{}])[0].get("text") for message in messages]
    assert {"ä", "x" * 300_000} < set(texts)
    said = errors.decode().splitlines()
    assert set(NOISE) <= set(said), said
    assert said[-1] == "descriptors as before", said


def test_pipes() -> None:
    with child(subprocess.PIPE, subprocess.PIPE) as process:
        check(*process.communicate(INPUT, timeout=PATIENCE))
        assert process.returncode == 0


def test_one_message_after_the_other_through_pipes() -> None:
    with child(subprocess.PIPE, subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in MESSAGES:
            process.stdin.write(encoded(message))
            process.stdin.flush()
            if "id" in message:
                assert json.loads(read(process.stdout.fileno(), 1))["id"] == message["id"]
        rest, errors = process.communicate(timeout=PATIENCE)
        assert rest == b""
        assert errors.decode().splitlines()[-1] == "descriptors as before"


def test_a_socket_for_both_as_inetd_gives_it() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with child(theirs.fileno(), theirs.fileno()) as process:
            theirs.close()
            ours.settimeout(PATIENCE)
            ours.sendall(INPUT)
            ours.shutdown(socket.SHUT_WR)
            answers = b"".join(iter(lambda: ours.recv(1 << 16), b""))
            _, errors = process.communicate(timeout=PATIENCE)
        check(answers, errors)


def test_regular_files(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(INPUT)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        stdout.write(b"")
        with child(stdin, stdout) as process:
            _, errors = process.communicate(timeout=PATIENCE)
    check((tmp_path / "out").read_bytes(), errors)


def test_files_are_read_and_written_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"not for us\n" + INPUT)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        os.lseek(stdin.fileno(), len(b"not for us\n"), os.SEEK_SET)
        os.write(stdout.fileno(), b"not ours\n")
        with child(stdin, stdout) as process:
            _, errors = process.communicate(timeout=PATIENCE)
    first, answers = (tmp_path / "out").read_bytes().split(b"\n", 1)
    assert first == b"not ours"
    check(answers, errors)


def test_the_null_device() -> None:
    with child(subprocess.DEVNULL, subprocess.DEVNULL) as process:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert errors.decode().splitlines()[-1] == "descriptors as before"


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a terminal that echoes and changes nothing."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_for_both_keeps_its_blocking_flag_all_the_while() -> None:
    with terminal() as (master, slave):
        with child(slave, slave) as process:
            os.write(master, b"".join(encoded(message) for message in MESSAGES[:3]))
            received = read(master, 2)
            assert [json.loads(line)["id"] for line in received.splitlines()] == [1, 2]
            # The child is serving, and our own end, which shares its description, is as it was.
            assert os.get_blocking(slave)
            process.terminate()
            process.communicate(timeout=PATIENCE)
        assert os.get_blocking(slave)


def test_a_terminal_that_hangs_up_ends_the_session() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    with child(slave, slave) as process:
        os.close(slave)
        os.write(master, encoded(MESSAGES[0]))
        assert b'"id":1' in read(master, 1)
        os.close(master)
        _, errors = process.communicate(timeout=PATIENCE)
        assert errors.decode().splitlines()[-1] == "descriptors as before"


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_a_description_that_others_share_is_left_blocking(kind: str) -> None:
    if kind == "socket":
        near, far = socket.socketpair()
        ours, theirs = near.detach(), far.detach()
        out_read, out_write = os.dup(ours), os.dup(theirs)
    else:
        theirs, ours = os.pipe()
        out_read, out_write = os.pipe()
    try:
        with child(theirs, out_write) as process:
            os.write(ours, INPUT[: INPUT.index(b"\n") + 1])
            assert b'"id":1' in read(out_read, 1)
            if kind == "pipe":
                assert os.get_blocking(theirs)
                assert os.get_blocking(out_write)
            os.close(ours)
            if kind == "socket":
                with socket.socket(fileno=os.dup(out_read)) as peer:
                    peer.shutdown(socket.SHUT_WR)
            _, errors = process.communicate(timeout=PATIENCE)
            assert errors.decode().splitlines()[-1] == "descriptors as before"
        # Ours is the same open file description as the child's was.
        assert os.get_blocking(theirs)
        assert os.get_blocking(out_write)
    finally:
        for descriptor in (theirs, out_read, out_write):
            os.close(descriptor)


def test_what_was_printed_before_does_not_reach_the_client() -> None:
    with child(subprocess.PIPE, subprocess.PIPE, "print-first") as process:
        answers, errors = process.communicate(INPUT, timeout=PATIENCE)
    check(answers, errors)
    assert b"printed before" in errors


def test_without_a_standard_error_prints_go_nowhere() -> None:
    with child(subprocess.PIPE, subprocess.PIPE, shell='exec "$@" 2>&-') as process:
        answers, errors = process.communicate(INPUT, timeout=PATIENCE)
    assert errors == b""
    assert sorted(json.loads(line)["id"] for line in answers.splitlines()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("redirection", "name"),
    [("<&-", "standard input (descriptor 0)"), (">&-", "standard output (descriptor 1)")],
)
def test_a_descriptor_that_was_never_open_is_an_error_in_words(redirection: str, name: str) -> None:
    with child(subprocess.PIPE, subprocess.PIPE, shell=f'exec "$@" {redirection}') as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert f"{name} was not open when the process started" in errors.decode()


@pytest.mark.parametrize(("descriptor", "name"), [(0, "standard input"), (1, "standard output")])
def test_a_descriptor_that_is_closed_is_an_error_in_words(descriptor: int, name: str) -> None:
    script = (
        "import os, sys, trio\n"
        "from redstreamd.mcpio.standard_streams import open_stdio_stream\n"
        "async def main():\n"
        f"    os.close({descriptor})\n"
        "    try:\n"
        "        async with open_stdio_stream():\n"
        "            pass\n"
        "    except OSError as exc:\n"
        "        print(exc, file=sys.stderr)\n"
        "trio.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=b"",
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    assert f"{name} (descriptor {descriptor}) is not open" in done.stderr.decode()


def test_a_listening_socket_is_told_from_everything_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as fresh:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        assert listening_socket_on(listening.fileno())
        assert not listening_socket_on(fresh.fileno())
        # To ask closes nothing.
        assert listening_socket_on(listening.fileno())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not listening_socket_on(ours.fileno())
    with Path(os.devnull).open() as null:
        assert not listening_socket_on(null.fileno())
    assert not listening_socket_on(10_000)


def test_importing_costs_no_sdk() -> None:
    script = "import sys, redstreamd.mcpio.standard_streams; sys.exit('mcp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 0

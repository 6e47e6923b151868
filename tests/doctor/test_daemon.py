"""Whether a daemon answers, and what systemd says; systemctl is replaced by a program of the test's own."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from redstreamd.doctor import Check, Severity
from redstreamd.doctor import daemon as examined
from redstreamd.doctor.daemon import check_socket, check_units
from redstreamd.settings import Settings

EXAMINED = "localhost:6379"

Listen = Callable[[bytes | None], Awaitable[None]]


@pytest.fixture
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose runtime directory is the test's own."""
    return {"XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("run"))}


@pytest.fixture
async def listen(environ: dict[str, str]) -> AsyncIterator[Listen]:
    """Listen where the daemon would, and answer each connection as told; None never answers."""
    place = Path(environ["XDG_RUNTIME_DIR"]) / "redstreamd" / "mcp.sock"
    place.parent.mkdir()

    async def serve(answer: bytes | None, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if answer is None:
                await trio.sleep_forever()
            else:
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:

        async def start(answer: bytes | None) -> None:
            sock = trio.socket.socket(trio.socket.AF_UNIX)
            await sock.bind(str(place))
            sock.listen(8)
            listener = trio.SocketListener(sock)
            nursery.start_soon(trio.serve_listeners, functools.partial(serve, answer), [listener])

        yield start
        nursery.cancel_scope.cancel()


def health(address: str) -> bytes:
    """Return a daemon's answer."""
    text = json.dumps({"redis": {"address": address}})
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"contents": [{"text": text}]}}).encode() + b"\n"


@pytest.mark.parametrize("answer", [health(EXAMINED), b'{"jsonrpc": "2.0", "id": 1, "result": {}}\n'])
async def test_a_daemon_answers(listen: Listen, environ: dict[str, str], answer: bytes) -> None:
    await listen(answer)
    with trio.fail_after(10):
        check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.OK
    assert environ["XDG_RUNTIME_DIR"] in check.seen


async def test_a_daemon_with_another_redis_is_a_warning_that_names_it(
    listen: Listen, environ: dict[str, str]
) -> None:
    await listen(health("elsewhere:6380"))
    with trio.fail_after(10):
        check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    assert "elsewhere:6380" in check.seen
    assert "--config, REDIS_..." in check.todo


async def test_a_daemon_with_a_server_of_its_own_is_a_warning_with_the_options_that_name_it(
    listen: Listen, environ: dict[str, str]
) -> None:
    await listen(health("/var/lib/redstreamd/embedded/server.sock"))
    with trio.fail_after(10):
        check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    assert "--embedded --set daemon.state_directory=/var/lib/redstreamd)" in check.todo


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", b'{"id": 1}\n'])
async def test_another_answer_is_no_daemon(listen: Listen, environ: dict[str, str], answer: bytes) -> None:
    await listen(answer)
    with trio.fail_after(10):
        check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.ERROR
    assert "something else" in check.seen


async def test_a_daemon_that_hangs_is_told_from_one_that_is_away(
    listen: Listen, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examined, "_ANSWER_SECONDS", 0.2)
    await listen(None)
    with trio.fail_after(10):
        check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.ERROR
    assert "does not answer" in check.seen
    assert "QUIT redstreamd` ends it" in check.todo


async def test_nobody_is_a_warning_that_names_every_place(environ: dict[str, str]) -> None:
    with trio.fail_after(10):
        check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    assert environ["XDG_RUNTIME_DIR"] in check.seen
    assert "/run/redstreamd/mcp.sock" in check.seen
    assert "systemctl start redstreamd.socket" in check.todo


async def units(tmp_path: Path, service: str, socket: str, load: str = "loaded") -> Check:
    """Check units in these states."""
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *.service) state={service};; *) state={socket};; esac\n'
        f'echo "LoadState={load}"; echo "ActiveState=$state"; echo "Result=watchdog"\n'
    )
    os.chmod(program, 0o755)  # noqa: PTH101
    with trio.fail_after(10):
        return await check_units(booted=True, systemctl=[str(program)])


@pytest.mark.parametrize(
    ("service", "socket", "severity", "words"),
    [
        ("active", "active", Severity.OK, ""),
        # The first client starts it.
        ("inactive", "active", Severity.OK, ""),
        ("failed", "active", Severity.ERROR, "journalctl -u redstreamd"),
        # After ten failures nothing else starts it again.
        (
            "failed",
            "failed",
            Severity.ERROR,
            "systemctl reset-failed redstreamd.service redstreamd.socket && ",
        ),
        ("inactive", "inactive", Severity.WARNING, "systemctl enable --now"),
    ],
)
async def test_the_units_are_judged_together(
    tmp_path: Path, service: str, socket: str, severity: Severity, words: str
) -> None:
    check = await units(tmp_path, service, socket)
    assert check.severity is severity
    assert f"redstreamd.service {service}, redstreamd.socket {socket}" in check.seen
    assert words in check.todo


async def test_the_units_are_skipped_where_there_are_none(tmp_path: Path) -> None:
    assert "not installed" in (await units(tmp_path, "inactive", "inactive", "not-found")).seen
    with trio.fail_after(10):
        assert (await check_units(booted=False)).severity is Severity.SKIPPED
        absent = await check_units(booted=True, systemctl=["/nonexistent/systemctl"])
        failing = await check_units(booted=True, systemctl=["false"])
    assert absent.severity is failing.severity is Severity.SKIPPED

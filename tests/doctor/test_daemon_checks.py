"""Whether a daemon answers on its socket, and which Redis it uses."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from redstreamd.doctor import Severity
from redstreamd.doctor.daemon_checks import check_socket
from redstreamd.settings import Settings

EXAMINED = "localhost:6379"

Listen = Callable[[bytes | None], Awaitable[None]]


@pytest.fixture
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose runtime directory is the test's own."""
    return {"XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("run"))}


@pytest.fixture
async def listen(environ: dict[str, str]) -> AsyncIterator[Listen]:
    """Listen where the daemon would, and answer each connection with the given bytes; None never answers."""
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
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.OK
    assert environ["XDG_RUNTIME_DIR"] in check.seen


async def test_a_daemon_with_another_redis_is_a_warning_that_names_it(
    listen: Listen, environ: dict[str, str]
) -> None:
    await listen(health("elsewhere:6380"))
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    assert "elsewhere:6380" in check.seen
    assert "--config, REDIS_..." in check.todo


async def test_a_daemon_of_another_version_than_the_installed_one_is_a_warning_that_names_both(
    listen: Listen, environ: dict[str, str]
) -> None:
    installation = {"directory": "/srv/versions/1", "installed": "/srv/versions/2"}
    report = {"redstreamd": "0.1.0", "installation": installation, "redis": {"address": "elsewhere:6380"}}
    content = {"text": json.dumps(report)}
    await listen(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"contents": [content]}}).encode() + b"\n")
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    # Nothing that is wrong hides anything else that is.
    assert "elsewhere:6380" in check.seen
    assert "0.1.0 from /srv/versions/1 is running, but /srv/versions/2 is installed" in check.seen
    assert "systemctl restart redstreamd" in check.todo


async def test_a_daemon_with_a_server_of_its_own_is_a_warning_with_the_options_that_name_it(
    listen: Listen, environ: dict[str, str]
) -> None:
    await listen(health("/var/lib/redstreamd/embedded/server.sock"))
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    assert "--embedded --set daemon.state_directory=/var/lib/redstreamd)" in check.todo


@pytest.mark.parametrize("request_id", [1, None])
async def test_what_a_start_that_failed_tells_its_clients_is_shown(
    listen: Listen, environ: dict[str, str], request_id: int | None
) -> None:
    """Root can read a file that the service cannot, so no other check may know."""
    told = "redstreamd cannot start: /etc/redstreamd/redstreamd.toml: Permission denied"
    answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": -32000, "message": told}}
    await listen(json.dumps(answer).encode() + b"\n")
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.ERROR
    assert told in check.seen
    assert "Correct what it names" in check.todo


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", b'{"id": 1}\n'])
async def test_another_answer_is_no_daemon(listen: Listen, environ: dict[str, str], answer: bytes) -> None:
    await listen(answer)
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.ERROR
    assert "something else than a daemon" in check.seen


async def test_a_daemon_that_hangs_is_told_from_one_that_is_away(
    listen: Listen, environ: dict[str, str]
) -> None:
    await listen(None)
    check = await check_socket(Settings(), environ, server=EXAMINED, answer_seconds=0.2)
    assert check.severity is Severity.ERROR
    assert "does not answer" in check.seen
    assert "QUIT redstreamd` ends it" in check.todo


async def test_nobody_is_a_warning_that_names_every_place(environ: dict[str, str]) -> None:
    check = await check_socket(Settings(), environ, server=EXAMINED)
    assert check.severity is Severity.WARNING
    assert environ["XDG_RUNTIME_DIR"] in check.seen
    assert "/run/redstreamd/mcp.sock" in check.seen
    assert "systemctl start redstreamd.socket" in check.todo

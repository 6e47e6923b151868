"""What doctor says about listeners for HTTP, with a real daemon behind them."""

from __future__ import annotations

import datetime as dt
import socket
from pathlib import Path

import pytest

from redstreamd.doctor import Severity
from redstreamd.doctor.http_listener_checks import check_http
from redstreamd.protection.token_records import TokenList
from redstreamd.settings import ListenAddress, Settings, load
from tests.support.certificates import Authority
from tests.support.daemon import running_daemon
from tests.support.servers import Server, free_port

DAY = dt.timedelta(days=1)


def settings(directory: Path, *words: str, listen: tuple[str, ...] = ()) -> Settings:
    return load(assignments=words, listen=listen, environ={"STATE_DIRECTORY": str(directory)}).settings


def token_file(directory: Path, **until: dt.timedelta | None) -> Path:
    """Make a file of tokens, each of which expires some time from now."""
    tokens = TokenList.empty()
    for name, left in until.items():
        expires = None if left is None else dt.datetime.now(dt.UTC).replace(microsecond=0) + left
        tokens, _ = tokens.with_new(name, expires=expires, scopes=None)
    file = directory / "tokens"
    file.write_bytes(tokens.text())
    file.chmod(0o600)
    return file


async def test_without_a_listener_nothing_is_checked(tmp_path: Path) -> None:
    assert (await check_http(settings(tmp_path), {})).severity is Severity.SKIPPED


async def test_a_daemon_that_answers_is_fine_and_tokens_that_expire_are_named(
    redis: Server, tmp_path: Path
) -> None:
    """Over TCP, and over a Unix socket that systemd has."""
    file = token_file(tmp_path, good=None, later=40 * DAY)
    port, path = free_port(), str(tmp_path / "h.sock")
    listen = f"http:127.0.0.1:{port}"
    given = settings(tmp_path, f"http.token_file={file}", listen=(listen,))
    activated = [ListenAddress.parse(f"http:{path}")]
    options = ("--listen", listen, "--listen", f"http:{path}", "--set", f"http.token_file={file}")
    with running_daemon(redis, *options):
        found = await check_http(given, {}, activated=activated)
        assert found.severity is Severity.OK, found
        assert "principal by token" in found.seen
        token_file(tmp_path, good=None, soon=3 * DAY, gone=-DAY)
        found = await check_http(given, {}, activated=activated)
        assert found.severity is Severity.WARNING
        assert "have expired: gone (" in found.seen
        assert "expire within 14 days: soon (" in found.seen
        assert "good" not in found.seen
        redis.stop()
        try:
            # What Redis answered is told for a second.
            while "not ready: Redis does not answer" not in found.seen:
                found = await check_http(given, {}, activated=activated)
            assert found.severity is Severity.WARNING
        finally:
            redis.start()


async def test_a_daemon_with_tls_is_asked_over_tls(redis: Server, tmp_path: Path) -> None:
    """Also where it demands a certificate, which doctor does not have."""
    authority = Authority(tmp_path)
    own = authority.issue("daemon", "localhost")
    listen = f"http:127.0.0.1:{free_port()}"
    tls = [f"listeners.certificate_file={own.certificate}", f"listeners.key_file={own.key}"]
    for words in (tls, [*tls, f"listeners.client_ca_file={authority.certificate}"]):
        options = [word for each in words for word in ("--set", each)]
        with running_daemon(redis, "--listen", listen, *options):
            found = await check_http(settings(tmp_path, *words, listen=(listen,)), {})
            assert found.severity is Severity.OK, found


@pytest.mark.parametrize("mode", [0o644, 0o600])
async def test_a_file_of_tokens_that_cannot_be_used_is_an_error(tmp_path: Path, mode: int) -> None:
    """Since others may read it; since it holds something else."""
    file = token_file(tmp_path, ann=None)
    if mode == 0o600:
        file.write_text("{}")
    file.chmod(mode)
    given = settings(tmp_path, f"http.token_file={file}", listen=("http:127.0.0.1:9",))
    found = await check_http(given, {})
    assert (found.severity, "http.token_file" in found.seen) == (Severity.ERROR, True), found
    file.unlink()
    found = await check_http(given, {})
    assert (found.severity, "redstreamd tokens new" in found.todo) == (Severity.ERROR, True), found


async def test_what_does_not_answer_as_a_daemon_is_named(tmp_path: Path) -> None:
    port = free_port()
    given = settings(tmp_path, listen=(f"http:127.0.0.1:{port}",))
    found = await check_http(given, {})
    assert (found.severity, "cannot be reached" in found.seen) == (Severity.WARNING, True)
    with socket.create_server(("127.0.0.1", port)):
        # It accepts, and says nothing.
        found = await check_http(given, {}, answer_seconds=0.2)
    assert (found.severity, "cannot be reached: timed out" in found.seen) == (Severity.WARNING, True), found

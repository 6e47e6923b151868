"""Checks the connection to the server up to the login: name resolution, port or socket, TLS.

Each step uses a connection of its own. Failures have the texts of ``redisio``, as in the daemon's log.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from redstreamd.doctor.report import CheckResult, Severity, error, ok, skipped
from redstreamd.errors.remedies import setting
from redstreamd.protection.certificate_files import TlsFileError
from redstreamd.redisio import connect_errors
from redstreamd.redisio.dialing import open_stream, secure
from redstreamd.redisio.redis_errors import Problem
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls

_NAME, _CONNECT, _TLS = "name_resolution", "connect", "tls"

#: Characters of the details of TLS that are shown.
_SHOWN: Final = 200


async def check_connectivity(target: Target) -> list[CheckResult]:
    """Check each step, in order. After the first that fails the rest are skipped."""
    name = await _resolve(target)
    if name.severity is Severity.ERROR:
        return [
            name,
            *(skipped(step, _tried(step, target), "the name is unknown") for step in (_CONNECT, _TLS)),
        ]
    connected = await _connect(target)
    if connected.severity is Severity.ERROR:
        return [name, connected, skipped(_TLS, _tried(_TLS, target), "there is no connection")]
    return [name, connected, await _encrypt(target)]


def _tried(step: str, target: Target) -> str:
    return {
        _NAME: f"looking up {target.host}",
        _CONNECT: f"connecting to {target.label}",
        _TLS: f"TLS handshake with {target.label}",
    }[step]


async def _resolve(target: Target) -> CheckResult:
    tried = _tried(_NAME, target)
    if target.path is not None:
        return skipped(_NAME, "looking up the host", f"a Unix socket is used: {target.path}")
    try:
        with trio.fail_after(target.connect_timeout):
            found = await trio.socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except trio.TooSlowError:
        return error(
            _NAME,
            tried,
            f"no answer within {target.connect_timeout:g} s",
            f"Check this host's resolver (/etc/resolv.conf), or use an address as {setting('redis.host')}.",
        )
    except OSError as unknown:
        return _failed(_NAME, tried, connect_errors.not_connected(target, unknown))
    addresses = dict.fromkeys(str(address[4][0]) for address in found)
    return ok(_NAME, tried, ", ".join(addresses))


async def _connect(target: Target) -> CheckResult:
    tried = _tried(_CONNECT, target)
    started = trio.current_time()
    with trio.move_on_after(target.connect_timeout):
        try:
            async with await open_stream(target):
                return ok(_CONNECT, tried, f"connected in {(trio.current_time() - started) * 1000:.1f} ms")
        except OSError as refusal:
            return _failed(_CONNECT, tried, connect_errors.not_connected(target, refusal))
    return _failed(_CONNECT, tried, connect_errors.timed_out(target))


async def _encrypt(target: Target) -> CheckResult:
    tried = _tried(_TLS, target)
    if target.path is not None or target.tls is None:
        return skipped(_TLS, "TLS handshake", f"no TLS is configured ({setting('redis.tls')})")
    with trio.move_on_after(target.connect_timeout):
        try:
            async with await secure(await open_stream(target), target.tls, target.host) as stream:
                return ok(_TLS, tried, _tls_details(stream, target.tls))
        except (OSError, trio.BrokenResourceError, TlsFileError) as refusal:
            return _failed(_TLS, tried, connect_errors.not_connected(target, refusal))
    return _failed(_TLS, tried, connect_errors.tls_timed_out(target))


def _tls_details(stream: trio.SSLStream[trio.SocketStream], tls: Tls) -> str:
    until = dict(stream.getpeercert()).get("notAfter", "an unknown time")
    client = "a client certificate is configured" if tls.certificate_file else "no client certificate"
    return f"{stream.version()}; the server's certificate is valid until {until}; {client}"[:_SHOWN]


def _failed(check: str, tried: str, problem: Problem) -> CheckResult:
    return error(check, tried, problem.cause, problem.next_step)

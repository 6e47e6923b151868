"""Checks the listeners for HTTP: their packages, the file of tokens, and whether a daemon answers there."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.errors import SettingsError
from redstreamd.errors.remedies import setting
from redstreamd.protection.token_records import TokenRecord, read_tokens
from redstreamd.settings import Kind, ListenAddress, Settings, demands
from redstreamd.settings.credential_paths import path_of
from redstreamd.settings.http_checks import HEALTHZ, READYZ, check_http_installed
from redstreamd.settings.listener_demands import is_beyond_loopback

_CHECK: Final = "http"
#: Seconds for a response. A daemon that is started by its socket needs about one.
_ANSWER_SECONDS: Final = 10.0
#: Tokens are replaced some time before they expire, usually.
_WARN_DAYS: Final = 14
_DAY: Final = 86_400
#: Names of tokens that are told at a time.
_NAMED: Final = 5
#: What a daemon that listens on every interface is asked at.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


async def check_http(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    activated: Sequence[ListenAddress] = (),
    answer_seconds: float = _ANSWER_SECONDS,
) -> CheckResult:
    """Check the listeners for HTTP.

    Args:
        settings: The settings.
        environ: Where the directory of credentials is looked up.
        activated: Addresses on which systemd listens for the daemon.
        answer_seconds: How long to wait at one address.
    """
    given = [each for each in settings.daemon.listen if each.kind is Kind.HTTP and (each.port or each.path)]
    addresses = list(dict.fromkeys([*given, *activated]))
    if not addresses:
        tried = "looking for listeners for Streamable HTTP"
        return skipped(
            _CHECK, tried, "there is none in the settings, and no redstreamd-http.socket is active"
        )
    tried = f"reading the file of tokens, and GET {HEALTHZ} at {', '.join(map(str, addresses))}"
    try:
        check_http_installed(str(addresses[0]))
        expiring = _expiring(path_of("http.token_file", settings.http.token_file, environ))
    except SettingsError as wrong:
        return error(_CHECK, tried, str(wrong), f"Correct it, or {setting(wrong.key)}.")
    except FileNotFoundError as missing:
        todo = "`redstreamd tokens new NAME` makes it."
        return error(_CHECK, tried, f"there is no file of tokens {missing.filename}", todo)
    except PermissionError as refused:
        return skipped(_CHECK, tried, f"this user may not read {refused.filename}")
    uses_tls = settings.listeners.certificate_file is not None
    for address in addresses:
        problem = await trio.to_thread.run_sync(
            _problem_at, address, uses_tls, answer_seconds, abandon_on_cancel=True
        )
        if problem is not None:
            return warning(_CHECK, tried, f"{address} {problem[0]}", problem[1])
    seen = f"a daemon answers; a listener demands {demands(Kind.HTTP, settings)}"
    if expiring:
        todo = "Make new ones (`redstreamd tokens new NAME`), give them to their clients, and revoke these."
        return warning(_CHECK, tried, f"{seen}; {expiring}", todo)
    is_open = any(each.host and is_beyond_loopback(each.host) for each in addresses)
    if is_open and not uses_tls:
        todo = f"Set {setting('listeners.certificate_file')}, or listen on loopback behind a proxy with TLS."
        return warning(_CHECK, tried, f"{seen}: tokens and entries can be read on their way", todo)
    return ok(_CHECK, tried, seen)


def _expiring(path: str | None) -> str:
    """Return which tokens are not valid any more, or soon are not; empty if there are none."""
    if path is None:
        return ""
    now = time.time()
    tokens = read_tokens(path).tokens
    parts = []
    for what, chosen in (
        ("have expired", [each for each in tokens if each.expires_at <= now]),
        (
            f"expire within {_WARN_DAYS} days",
            [each for each in tokens if now < each.expires_at <= now + _WARN_DAYS * _DAY],
        ),
    ):
        if chosen:
            parts.append(f"tokens that {what}: {_names(chosen)}")
    return "; ".join(parts)


def _names(tokens: Sequence[TokenRecord]) -> str:
    names = [f"{each.name} ({each.id})" for each in tokens]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _problem_at(address: ListenAddress, uses_tls: bool, seconds: float) -> tuple[str, str] | None:
    """Return what is wrong at an address, and what to do; None if a daemon answers. Blocks."""
    host = _LOOPBACK.get(address.host, address.host)
    connection = http.client.HTTPConnection("localhost", timeout=seconds)
    try:
        connection.sock = _connected(address, host, seconds)
        if uses_tls and not address.path:
            # Only whether it answers is asked; `listeners` looks at the certificate.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
        for page in (HEALTHZ, READYZ):
            connection.request("GET", page)
            response = connection.getresponse()
            text = response.read(200).decode("utf-8", "replace").strip()
            if response.status == http.client.SERVICE_UNAVAILABLE:
                return (
                    f"answers: {text}",
                    "Read `journalctl -u redstreamd`; the other checks say more of Redis.",
                )
            if response.status != http.client.OK:
                what = f"answers {page} with status {response.status}, as no daemon does"
                return what, f"Find out what listens at {address}."
    except ssl.SSLError as refused:
        # A client certificate is demanded, which is not ours to have.
        if "CERTIFICATE_REQUIRED" in str(refused) or "certificate required" in str(refused).lower():
            return None
        return f"does not speak TLS as it should ({refused.reason})", f"Find out what listens at {address}."
    except PermissionError:
        return "may not be reached by this user", "Run doctor as a member of the socket's group."
    except OSError as refusal:
        what = f"cannot be reached: {refusal.strerror or refusal}"
        return what, "Start the daemon: `systemctl start redstreamd.service`, or `redstreamd serve`."
    except http.client.HTTPException:
        return "does not speak HTTP", f"Find out what listens at {address}."
    finally:
        connection.close()
    return None


def _connected(address: ListenAddress, host: str, seconds: float) -> socket.socket:
    if not address.path:
        return socket.create_connection((host, address.port), seconds)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(seconds)
        made.connect(address.path)
    except OSError:
        made.close()
        raise
    return made

"""The daemon as its clients find it: does it answer on its socket, and which Redis does it use."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from redstreamd.addresses.address_syntax import parse_daemon_address, unquoted, without_login
from redstreamd.addresses.default_paths import SOCKET_VARIABLE, candidates_for_clients
from redstreamd.doctor.report import Check, error, ok, warning
from redstreamd.settings import Kind, Settings
from redstreamd.startup.installed_version import replaced
from redstreamd.startup.unexpanded_variables import placeholder_in

#: Seconds for an answer. A daemon that its socket has to start first needs about one.
_ANSWER_SECONDS: Final = 10.0

#: Bytes of the answer that are read; it has two or three thousand.
_ANSWER_BYTES: Final = 64 * 1024

# Complete in itself in the 2026-07-28 revision: no handshake comes before it.
_HEALTH_REQUEST: Final = (
    json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "resources/read",
            "params": {
                "uri": "redstream://health",
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                },
            },
        }
    ).encode()
    + b"\n"
)


class _TurnedAwayError(Exception):
    """A start that failed, or a daemon without room, has said so in the form of an error of JSON-RPC."""


async def check_socket(
    settings: Settings, environ: Mapping[str, str], *, server: str, activated: Sequence[str] = ()
) -> Check:
    """Ask for the daemon's health through each place where a client would look for it.

    Args:
        settings: Where it may listen.
        environ: Where its clients look for it.
        server: The address of the Redis that the other checks examined; the daemon may use another.
        activated: Where systemd listens for it.
    """
    listens = [address.path for address in settings.daemon.listen if address.kind is Kind.UNIX]
    named = unquoted(environ.get(SOCKET_VARIABLE, ""))
    if named and placeholder_in(named):
        todo = f"Give {SOCKET_VARIABLE} the path of the daemon's socket, or leave it out."
        return error(
            "socket",
            f"reading {SOCKET_VARIABLE}",
            f"{placeholder_in(named)} is a placeholder that nobody has expanded",
            todo,
        )
    usual = candidates_for_clients({**environ, SOCKET_VARIABLE: ""})
    places = list(dict.fromkeys([*listens, *activated, *([named] if named else []), *usual]))
    tried = f"asking the daemon for its health over {', '.join(map(without_login, places))}"
    refusals: dict[str, OSError] = {}
    for place in places:
        try:
            with trio.fail_after(_ANSWER_SECONDS):
                report = await _report_of(place)
        except OSError as refusal:
            refusals[place] = refusal
        except trio.TooSlowError:
            todo = (
                "Read `journalctl -u redstreamd`; `systemctl kill -s QUIT redstreamd` ends it and adds its "
                "stacks."
            )
            return error("socket", tried, f"{place} accepts, but does not answer", todo)
        except _TurnedAwayError as turned_away:
            todo = (
                "Mend what it names; the next client, or `systemctl restart redstreamd`, starts it again "
                "then. `journalctl -u redstreamd` has the records."
            )
            return error("socket", tried, f"{place} answers: {turned_away}", todo)
        except (ValueError, trio.BrokenResourceError):
            todo = f"Find out what listens at {place}; the daemon's journal says if it turned us away."
            return error("socket", tried, f"{place} is answered by something else, or turns us away", todo)
        else:
            seen = f"a daemon answers at {place}"
            wrong = [*_other_redis(report, server), *_other_version(report)]
            if not wrong:
                return ok("socket", tried, seen)
            seen = "; ".join([seen, *(what for what, _ in wrong)])
            return warning("socket", tried, seen, " ".join(todo for _, todo in wrong))
    seen = "; ".join(
        f"{without_login(place)}: {refusal.strerror or refusal}" for place, refusal in refusals.items()
    )
    todo = "Start it: `systemctl start redstreamd.socket`, or `redstreamd serve`."
    if any(isinstance(refusal, PermissionError) for refusal in refusals.values()):
        todo = "Become a member of the socket's group: `gpasswd -a <user> redstreamd-clients`."
    return warning("socket", tried, f"no daemon answers ({seen})", todo)


def _other_redis(report: Mapping[str, Any], server: str) -> list[tuple[str, str]]:
    """Return what is wrong and what to do, if the daemon uses another Redis than the one examined."""
    redis = report.get("redis")
    used = redis.get("address") if isinstance(redis, Mapping) else None
    if used is None or _is_same(str(used), server):
        return []
    todo = f"To examine that one, give doctor the daemon's settings ({_settings_of(str(used))})."
    return [(f"it uses another Redis, at {used}", todo)]


def _other_version(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong and what to do, if the daemon is not of the version that is installed."""
    found = replaced(report)
    return [] if found is None else [found]


async def _report_of(place: str) -> Mapping[str, Any]:
    """Ask the daemon for its health and return the report; empty if there is none in the answer.

    Raises:
        OSError: Nobody is there.
        _TurnedAwayError: The daemon says why it does not serve.
        ValueError: The answer is not that of a daemon.
        trio.BrokenResourceError: It hung up.
    """
    async with await _open(place) as stream:
        await stream.send_all(_HEALTH_REQUEST)
        received = bytearray()
        while b"\n" not in received and len(received) < _ANSWER_BYTES:
            chunk = await stream.receive_some()
            if not chunk:
                break
            received += chunk
    answer = json.loads(bytes(received).partition(b"\n")[0])
    if isinstance(answer, dict) and isinstance(refusal := answer.get("error"), dict):
        raise _TurnedAwayError(str(refusal.get("message", "an error without a message")))
    if not isinstance(answer, dict) or answer.get("id") != 1 or "result" not in answer:
        raise ValueError("no answer to a request")
    try:
        report = json.loads(answer["result"]["contents"][0]["text"])
    except (LookupError, TypeError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _is_same(used: str, server: str) -> bool:
    """Whether two addresses are one: a service's state directory has two paths (`DynamicUser=`)."""
    return used == server or (server.startswith("/") and os.path.realpath(used) == os.path.realpath(server))


async def _open(place: str) -> trio.SocketStream:
    """Connect to an address as clients name it.

    Raises:
        OSError: Nobody is there, or it is no address.
    """
    try:
        found = parse_daemon_address(place)
    except ValueError as wrong:
        raise OSError(f"it takes a path, unix:PATH or tcp:HOST:PORT: {wrong}") from None
    if found.kind == "tcp":
        return await trio.open_tcp_stream(found.host, found.port)
    return await trio.open_unix_socket(found.path)


def _settings_of(address: str) -> str:
    """Return what makes doctor look at the same Redis as the daemon that uses `address`."""
    state, embedded, _ = address.rpartition("/embedded/")
    if embedded:
        return f"--embedded --set {shlex.quote(f'daemon.state_directory={state}')}"
    return "--config, REDIS_..."


def runs_systemd() -> bool:
    """Whether systemd runs this host, as sd_booted(3) finds it out."""
    return Path("/run/systemd/system").exists()

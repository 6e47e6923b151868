"""The daemon as its clients find it: does it answer on its socket, and which Redis does it use."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from redstreamd.doctor.report import Check, error, ok, warning
from redstreamd.paths import candidates_for_clients
from redstreamd.settings import Kind, Settings

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
    places = list(dict.fromkeys([*listens, *activated, *candidates_for_clients(environ)]))
    tried = f"asking the daemon for its health over {', '.join(places)}"
    refusals: dict[str, OSError] = {}
    for place in places:
        try:
            with trio.fail_after(_ANSWER_SECONDS):
                used = await _redis_of(place)
        except OSError as refusal:
            refusals[place] = refusal
        except trio.TooSlowError:
            todo = (
                "Read `journalctl -u redstreamd`; `systemctl kill -s QUIT redstreamd` ends it and adds its "
                "stacks."
            )
            return error("socket", tried, f"{place} accepts, but does not answer", todo)
        except (ValueError, trio.BrokenResourceError):
            todo = f"Find out what listens at {place}; the daemon's journal says if it turned us away."
            return error("socket", tried, f"{place} is answered by something else, or turns us away", todo)
        else:
            seen = f"a daemon answers at {place}"
            if used is None or _is_same(used, server):
                return ok("socket", tried, seen)
            todo = f"To examine that one, give doctor the daemon's settings ({_settings_of(used)})."
            return warning("socket", tried, f"{seen}, and uses another Redis, at {used}", todo)
    seen = "; ".join(f"{place}: {refusal.strerror or refusal}" for place, refusal in refusals.items())
    todo = "Start it: `systemctl start redstreamd.socket`, or `redstreamd serve`."
    if any(isinstance(refusal, PermissionError) for refusal in refusals.values()):
        todo = "Become a member of the socket's group: `gpasswd -a <user> redstreamd-clients`."
    return warning("socket", tried, f"no daemon answers ({seen})", todo)


async def _redis_of(place: str) -> str | None:
    """Ask the daemon for its health and return the address of its Redis; None if it does not say.

    Raises:
        OSError: Nobody is there.
        ValueError: The answer is not that of a daemon.
        trio.BrokenResourceError: It hung up.
    """
    async with await trio.open_unix_socket(place) as stream:
        await stream.send_all(_HEALTH_REQUEST)
        received = bytearray()
        while b"\n" not in received and len(received) < _ANSWER_BYTES:
            chunk = await stream.receive_some()
            if not chunk:
                break
            received += chunk
    answer = json.loads(bytes(received).partition(b"\n")[0])
    if not isinstance(answer, dict) or answer.get("id") != 1 or "result" not in answer:
        raise ValueError("no answer to a request")
    try:
        address = json.loads(answer["result"]["contents"][0]["text"])["redis"]["address"]
    except (LookupError, TypeError, ValueError):
        return None
    return str(address)


def _is_same(used: str, server: str) -> bool:
    """Whether two addresses are one: a service's state directory has two paths (`DynamicUser=`)."""
    return used == server or (server.startswith("/") and os.path.realpath(used) == os.path.realpath(server))


def _settings_of(address: str) -> str:
    """Return what makes doctor look at the same Redis as the daemon that uses `address`."""
    state, embedded, _ = address.rpartition("/embedded/")
    if embedded:
        return f"--embedded --set {shlex.quote(f'daemon.state_directory={state}')}"
    return "--config, REDIS_..."


def runs_systemd() -> bool:
    """Whether systemd runs this host, as sd_booted(3) finds it out."""
    return Path("/run/systemd/system").exists()

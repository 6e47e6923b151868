"""The text for a person who starts the daemon by hand: where it listens, and how to try it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from redstreamd.addresses import default_paths
from redstreamd.settings import Kind, ListenAddress, Settings

_WITHOUT_SOCKET = """
An MCP client connects there and sends one JSON-RPC message a line. Clients that start a command, and
`redstreamd call`, need a Unix socket: add --listen unix:PATH, with an absolute path.
"""


def banner(settings: Settings, addresses: Sequence[ListenAddress]) -> str:
    """Return the text to print once the daemon serves."""
    socket = next((address.path for address in addresses if address.kind is Kind.UNIX), None)
    return f"""
redstreamd listens on {", ".join(str(address) for address in addresses)}
and keeps its streams in {_store(settings)}.
{_WITHOUT_SOCKET if socket is None else _first_steps(socket)}
Ctrl-C stops it; the streams are kept.
"""


def _first_steps(socket: str) -> str:
    program, *words = _program()
    # MCP clients pass few variables to their servers, so those of this shell do not count.
    where = () if socket in default_paths.candidates_for_clients({}) else ("--socket", socket)
    client = {"mcpServers": {"redstreamd": {"command": program, "args": [*words, "connect", *where]}}}
    call = shlex.join([program, *words, "call", *where])
    return f"""
Configuration for an MCP client that starts a command (stdio):

  {msgspec.json.encode(client).decode()}

To try it from another terminal:

  {call} stream_add '{{"stream": "demo:hello:world", "entries": [{{"text": "hello"}}]}}'
  {call} stream_read '{{"stream": "demo:hello:world"}}'
"""


def _store(settings: Settings) -> str:
    if settings.daemon.embedded:
        return f"an embedded Valkey, data in {settings.daemon.state_directory / 'embedded'}"
    redis = settings.redis
    return f"Redis at {redis.path or f'{redis.host}:{redis.port}'}"


def _program() -> list[str]:
    """Return the shortest command that starts this program: its name if the PATH finds this one."""
    own = Path(sys.argv[0]).absolute()
    if own.name == "__main__.py":  # python -m redstreamd
        return [sys.executable, "-m", "redstreamd"]
    found = shutil.which(own.name)
    return [own.name if found is not None and Path(found) == own else str(own)]

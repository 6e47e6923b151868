"""What a person sees who starts the daemon by hand: where it listens, and the first things to try."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from redstreamd import paths
from redstreamd.settings import Kind, ListenAddress, Settings


def banner(settings: Settings, addresses: Sequence[ListenAddress]) -> str:
    """Return the lines to print once the daemon serves."""
    program = _program()
    where: tuple[str, ...] = ()
    socket = next((address.path for address in addresses if address.kind is Kind.UNIX), None)
    if socket is not None and socket not in paths.candidates_for_clients():
        where = ("--socket", socket)
    client = {"mcpServers": {"redstreamd": {"command": program, "args": ["connect", *where]}}}
    call = shlex.join([program, "call", *where])
    return f"""
redstreamd listens on {", ".join(str(address) for address in addresses)}
and keeps its streams in {_store(settings)}.

Configuration for an MCP client that starts a command (stdio):

  {msgspec.json.encode(client).decode()}

To try it from another terminal:

  {call} stream_add '{{"stream": "demo:hello:world", "entries": [{{"text": "hello"}}]}}'
  {call} stream_read '{{"stream": "demo:hello:world"}}'

Ctrl-C stops it; the streams are kept.
"""


def _store(settings: Settings) -> str:
    if settings.daemon.embedded:
        return f"an embedded Valkey, data in {settings.daemon.state_directory / 'embedded'}"
    redis = settings.redis
    return f"Redis at {redis.path or f'{redis.host}:{redis.port}'}"


def _program() -> str:
    """Return the shortest way to call this program: by name if the shell would find this one."""
    own = Path(sys.argv[0]).absolute()
    found = shutil.which(own.name)
    return own.name if found is not None and Path(found) == own else str(own)

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
from redstreamd.settings.redis_topology import nodes_of

_WITHOUT_SOCKET = """
Over TCP a client sends one JSON-RPC message a line. Clients that start a command, and `redstreamd call`, need
a Unix socket: add --listen unix:PATH, with an absolute path.
"""


def banner(settings: Settings, addresses: Sequence[ListenAddress]) -> str:
    """Return the text to print once the daemon serves."""
    socket = next((address.path for address in addresses if address.kind is Kind.UNIX), None)
    urls = [url for address in addresses if (url := _url(address, settings)) is not None]
    listening = ", ".join(_url(address, settings) or str(address) for address in addresses)
    return f"""
redstreamd listens on {listening}
and keeps its streams in {_store(settings)}.
{_over_http(urls[0], settings) if urls else ""}{_WITHOUT_SOCKET if socket is None else _first_steps(socket)}
Ctrl-C stops it; the streams are kept.
"""


def _url(address: ListenAddress, settings: Settings) -> str | None:
    """Return the URL of MCP at an address; None if it has none."""
    if address.kind is not Kind.HTTP or not address.host:
        return None
    scheme = "http" if settings.listeners.certificate_file is None else "https"
    return f"{scheme}://{str(address).removeprefix(f'{address.kind}:')}{settings.http.path}"


def _over_http(url: str, settings: Settings) -> str:
    client = {"mcpServers": {"redstreamd": {"type": "http", "url": url}}}
    asks = settings.http.token_file is not None or settings.http.oauth_issuer is not None
    token = ", which has to send a token (`redstreamd tokens new NAME`)" if asks else ""
    return f"""
Configuration for an MCP client that speaks Streamable HTTP{token}:

  {msgspec.json.encode(client).decode()}
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
    nodes = ", ".join(map(str, nodes_of(redis)))
    if redis.topology == "sentinel":
        return f"Redis, the primary {redis.sentinel_primary} of the sentinels {nodes}"
    if redis.topology == "cluster":
        return f"the Redis cluster of {nodes}"
    return f"Redis at {redis.path or f'{redis.host}:{redis.port}'}"


def _program() -> list[str]:
    """Return the shortest command that starts this program: its name if the PATH finds this one."""
    own = Path(sys.argv[0]).absolute()
    if own.name == "__main__.py":  # python -m redstreamd
        return [sys.executable, "-m", "redstreamd"]
    found = shutil.which(own.name)
    return [own.name if found is not None and Path(found) == own else str(own)]

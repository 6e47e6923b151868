"""What the tests run of the npm registry's, installed from it into a cache outside the checkout."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import missing

#: Node.js and npm from the development environment, whatever the machine has.
BIN = Path(sys.executable).parent

#: Exactly these, so that a failure tells of a change of ours and not of theirs.
VERSIONS = {
    "@anthropic-ai/claude-code": "2.1.331",
    "@modelcontextprotocol/conformance": "0.2.0-alpha.12",
    "@modelcontextprotocol/inspector": "2.12.0",
    "@modelcontextprotocol/sdk": "1.32.2",
    "@openai/codex": "0.169.0",
    "mcp-remote": "0.15.1",
}

#: Seconds for one installation. The largest takes seven here; a slow registry may take its time.
_PATIENCE = 600


def installed(package: str, command: str | None = None) -> Path:
    """Return the node_modules with an npm package, installing it at the first use.

    Args:
        package: Its name.
        command: A command of it that must run. npm takes an optional dependency that it could not
            fetch for a success, and the programs of some clients are one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redstreamd-tests"
    version = VERSIONS[package]
    place = cache / f"{package.replace('/', '-')}-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other test runs on this machine may want the same
        if not place.exists():
            # Made elsewhere and renamed, so that an interrupted installation is never taken for one.
            with tempfile.TemporaryDirectory(dir=cache) as workshop:
                draft = Path(workshop) / "whole"
                draft.mkdir()
                try:
                    # Retries after at most ten seconds: without a network this skips, and should soon.
                    how = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retry-maxtimeout=10000")
                    _run(BIN / "npm", "install", *how, "--prefix", draft, f"{package}@{version}")
                    if command is not None:
                        _run(draft / "node_modules" / ".bin" / command, "--version", HOME=workshop)
                except (OSError, subprocess.SubprocessError) as failure:
                    reason = " ".join((getattr(failure, "stderr", None) or str(failure)).split())
                    missing(f"npm package {package}", f"npm install {package}@{version}: {reason[:200]}")
                draft.rename(place)
    return place / "node_modules"


def _run(*words: str | Path, **variables: str) -> None:
    path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run(
        words,
        env=os.environ | path | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=True,
    )


@pytest.fixture(scope="session")
def inspector() -> Path:
    """The command of the MCP inspector."""
    return installed("@modelcontextprotocol/inspector") / ".bin" / "mcp-inspector"


@pytest.fixture(scope="session")
def claude_code() -> Path:
    """The command of Claude Code."""
    return installed("@anthropic-ai/claude-code", "claude") / ".bin" / "claude"


@pytest.fixture(scope="session")
def codex() -> Path:
    """The command of Codex."""
    return installed("@openai/codex", "codex") / ".bin" / "codex"


@pytest.fixture(scope="session")
def typescript_sdk() -> Path:
    """The node_modules with the TypeScript SDK."""
    return installed("@modelcontextprotocol/sdk")


@pytest.fixture(scope="session")
def mcp_remote() -> Path:
    """The command of mcp-remote, by which clients that start programs reach servers over HTTP."""
    return installed("mcp-remote") / ".bin" / "mcp-remote"


@pytest.fixture(scope="session")
def conformance_suite() -> Path:
    """The command of the official conformance suite."""
    return installed("@modelcontextprotocol/conformance", "conformance") / ".bin" / "conformance"


def inspect(inspector: Path, socket: str, *words: str) -> Any:
    """Run the inspector once with the configuration in contrib and return the JSON it prints."""
    configuration = Path(__file__).parents[2] / "contrib" / "clients" / "inspector.json"
    return inspect_with(inspector, configuration, "-e", f"REDSTREAMD_SOCKET={socket}", *words)


def inspect_with(inspector: Path, configuration: Path, *words: str) -> Any:
    """Run the inspector once with a configuration and return the JSON it prints."""
    done = subprocess.run(
        [inspector, "--cli", "--config", configuration, "--server", "redstreamd", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # `redstreamd` is where Node.js is. It keeps no secrets of ours, and is to look for no keychain.
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "MCP_INSPECTOR_SECRET_STORE": "memory"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

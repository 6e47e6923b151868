"""One daemon for all clients, and the surroundings in which they are run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.clients.restarted_host import Host, running_host
from tests.support.daemon import HASTY, PROGRAM, Daemon, clean_environment, running_daemon
from tests.support.http_daemon import HttpDaemon, new_token, running_http_daemon
from tests.support.models import Model, scripted_model
from tests.support.node import claude_code, codex, mcp_remote, typescript_sdk
from tests.support.servers import Server

__all__ = [
    "claude_code",
    "codex",
    "mcp_remote",
    "typescript_sdk",
]  # fixtures, found here by whoever names them

#: The configurations that users are given.
CONTRIB = Path(__file__).parents[2] / "contrib" / "clients"


@pytest.fixture(scope="package")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    """A daemon on an empty Redis."""
    redis_server.flush()
    with running_daemon(redis_server, program=HASTY) as running:
        yield running


@pytest.fixture(scope="package")
def http(redis_server: Server) -> Iterator[HttpDaemon]:
    """A daemon that serves HTTP on loopback and demands nothing of its clients."""
    with running_http_daemon(redis_server, program=HASTY) as running:
        yield running


@pytest.fixture(scope="package")
def _guarded(
    redis_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HttpDaemon, str]]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.json"
    token = new_token(tokens, "agent")
    with running_http_daemon(redis_server, "--set", f"http.token_file={tokens}", program=HASTY) as running:
        yield running, token


@pytest.fixture(scope="package")
def guarded_http(_guarded: tuple[HttpDaemon, str]) -> HttpDaemon:
    """A daemon that demands a bearer token of its HTTP clients."""
    return _guarded[0]


@pytest.fixture(scope="package")
def token(_guarded: tuple[HttpDaemon, str]) -> str:
    """A token for it."""
    return _guarded[1]


@pytest.fixture(scope="module")
def _module_host(redis_server: Server) -> Iterator[Host]:
    with running_host(redis_server) as host:
        yield host


@pytest.fixture
def host(redis: Server, _module_host: Host) -> Host:
    """A daemon on an empty Redis that may be restarted and killed; its home is shared by a module."""
    _module_host.ensure()
    return _module_host


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """A scripted model; no client of the module asked the network for anything else."""
    with scripted_model() as running:
        yield running
    assert running.strays == []


@attrs.frozen
class Agent:
    """A client's command line with a home and a project of its own.

    Attributes:
        home: Where its settings are; also its project.
        command: The program.
        environment: All that it inherits. `redstreamd` is on its PATH, as in contrib.
    """

    home: Path
    command: Path
    environment: dict[str, str]

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, without input."""
        return subprocess.run(
            [self.command, *words],
            cwd=self.home,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def agent(home: Path, command: Path, daemon: Daemon, model: Model) -> Agent:
    """Return a client that finds the daemon, and nothing of the person who runs the tests."""
    environment = clean_environment(daemon.directory, HOME=str(home))
    environment["PATH"] = f"{PROGRAM.parent}:{environment['PATH']}"
    # Whatever it would fetch from elsewhere arrives at the model, which refuses and remembers it.
    environment |= {"HTTPS_PROXY": model.url, "HTTP_PROXY": model.url, "NO_PROXY": "127.0.0.1"}
    return Agent(home, command, environment)

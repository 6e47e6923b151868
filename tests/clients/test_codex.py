"""Codex itself, with the configuration in contrib, a real daemon and a scripted model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import CONTRIB, Agent, agent
from tests.support.daemon import Daemon
from tests.support.models import FINAL, Call, Model
from tests.support.servers import Server


@pytest.fixture(scope="module")
def codex_cli(codex: Path, daemon: Daemon, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Codex with our config.toml in its home."""
    home = tmp_path_factory.mktemp("codex")
    shutil.copy(CONTRIB / "codex.config.toml", home / "config.toml")
    found = agent(home, codex, daemon, model)
    found.environment["CODEX_HOME"] = str(home)
    return found


def settings(model: Model, **server: str) -> list[str]:
    """Return the words that give it the scripted model and nothing else to fetch.

    Args:
        model: The model.
        server: Settings of its server for MCP: where the tests' daemon is.
    """
    provider = f'{{name = "scripted", base_url = "{model.url}/v1", wire_api = "responses"}}'
    chosen = {
        "model": '"scripted"',
        "model_provider": '"scripted"',
        "model_providers.scripted": provider,
        "analytics.enabled": "false",
        "check_for_update_on_startup": "false",
        "features.plugins": "false",
        "features.apps": "false",
        "mcp_servers.redstreamd.required": "true",
        # On a busy machine the bridge may take longer to start than the ten seconds it is given.
        "mcp_servers.redstreamd.startup_timeout_sec": "120",
        "mcp_servers.redstreamd.default_tools_approval_mode": '"approve"',
    }
    chosen |= {f"mcp_servers.redstreamd.{name}": value for name, value in server.items()}
    return [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]


def on_socket(path: str) -> dict[str, str]:
    """Return the setting by which the bridge finds a socket: it is started with a few variables only."""
    return {"env": f'{{REDSTREAMD_SOCKET = "{path}"}}'}


def turn(codex_cli: Agent, daemon: Daemon, model: Model, *script: Call) -> list[dict[str, Any]]:
    """Let it work through a prompt whose answers are `script`, and return the finished items of the turn."""
    return turn_with(codex_cli, model, on_socket(daemon.path), *script)


def turn_with(
    codex_cli: Agent, model: Model, server: dict[str, str], *script: Call, **variables: str
) -> list[dict[str, Any]]:
    """As `turn`, with settings of its server and with variables."""
    model.play(*((f"mcp__redstreamd__{tool}", arguments) for tool, arguments in script))
    words = ("exec", "--json", "--ephemeral", "--skip-git-repo-check", *settings(model, **server))
    done = codex_cli.run(*words, "Use the bus.", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert items[-1]["text"] == FINAL
    return [item for item in items if item["type"] == "mcp_tool_call"]


def test_it_reads_the_configuration(codex_cli: Agent) -> None:
    done = codex_cli.run("mcp", "list", "--json")
    assert done.returncode == 0, done.stderr
    (server,) = json.loads(done.stdout)
    assert (server["name"], server["enabled"]) == ("redstreamd", True)
    transport = server["transport"]
    assert (transport["type"], transport["command"], transport["args"]) == (
        "stdio",
        "redstreamd",
        ["connect"],
    )


def test_a_turn_adds_an_entry(codex_cli: Agent, daemon: Daemon, model: Model, redis_server: Server) -> None:
    script = ("stream_add", {"stream": "codex:a:b", "entries": [{"n": 1}]})
    (call,) = turn(codex_cli, daemon, model, script)
    assert call["status"] == "completed"
    ((entry_id, fields),) = redis_server.command("XRANGE", "codex:a:b", "-", "+")
    assert call["result"]["structured_content"]["ids"] == [entry_id.decode()]
    assert fields[:2] == [b"n", b"1"]
    ((text, _),) = model.outcomes
    assert entry_id.decode() in text


def test_the_model_is_told_how_to_use_the_bus(codex_cli: Agent, daemon: Daemon, model: Model) -> None:
    turn(codex_cli, daemon, model)
    (bus,) = [tool for tool in model.prompts[0]["tools"] if tool.get("name") == "mcp__redstreamd"]
    assert "To publish, call stream_add." in bus["description"]
    tools = {tool["name"]: tool for tool in bus["tools"]}
    assert tools["work_take"]["description"].endswith("work_extend while you need longer.")
    assert tools["work_take"]["parameters"]["required"] == ["stream", "group", "consumer"]


def test_the_model_reads_cause_and_next_step_of_a_failed_call(
    codex_cli: Agent, daemon: Daemon, model: Model
) -> None:
    (call,) = turn(codex_cli, daemon, model, ("work_done", {"lease": "lease1.none"}))
    assert call["status"] == "failed"
    ((text, _),) = model.outcomes
    failure = json.loads(text.partition("Output:\n")[2])
    assert failure["code"] == "INVALID_ARGUMENT"
    assert failure["cause"]
    assert failure["next_step"].startswith("Pass the `lease` of the work_take answer")


def test_without_a_daemon_the_user_is_told_how_to_start_one(
    codex_cli: Agent, model: Model, tmp_path: Path
) -> None:
    done = codex_cli.run(
        "exec",
        "--skip-git-repo-check",
        *settings(model, **on_socket(str(tmp_path / "none" / "mcp.sock"))),
        "Hello.",
    )
    assert done.returncode != 0
    assert "start it with `systemctl start redstreamd.socket` or `redstreamd serve`" in done.stderr

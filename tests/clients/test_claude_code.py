"""Claude Code itself, with the configuration in contrib, a real daemon and a scripted model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import CONTRIB, Agent, agent
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.models import FINAL, Call, Model
from tests.support.servers import Server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def claude(
    claude_code: Path, daemon: Daemon, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Agent:
    """Claude Code in a project whose .mcp.json is ours, approved by its user's settings."""
    home = tmp_path_factory.mktemp("claude")
    shutil.copy(CONTRIB / "claude-code.mcp.json", home / ".mcp.json")
    (home / "settings.json").write_text('{"enableAllProjectMcpServers": true}')
    found = agent(home, claude_code, daemon, model)
    found.environment.update(
        CLAUDE_CONFIG_DIR=str(home),
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="none",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
        # Otherwise it begins without servers that have not answered after a few seconds.
        CLAUDE_CODE_MCP_STARTUP_WAIT_MS="120000",
    )
    return found


def turn(
    claude: Agent,
    model: Model,
    *script: Call,
    before: Callable[[int], None] | None = None,
    **variables: str,
) -> dict[str, Any]:
    """Let it work through a prompt whose answers are `script`, and return its own account of the session."""
    model.play(*((f"mcp__redstreamd__{tool}", arguments) for tool, arguments in script), before=before)
    words = ("--verbose", "--output-format", "stream-json", "--allowedTools", "mcp__redstreamd")
    done = claude.run("-p", "Use the bus.", *words, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    began, *_, ended = map(json.loads, done.stdout.splitlines())
    assert ended["result"] == FINAL
    assert isinstance(began, dict)
    return began


def test_its_health_check_connects(claude: Agent) -> None:
    done = claude.run("mcp", "get", "redstreamd")
    assert done.returncode == 0
    assert "Connected" in done.stdout


def test_a_turn_lists_the_tools_and_adds_an_entry(claude: Agent, model: Model, redis_server: Server) -> None:
    began = turn(claude, model, ("stream_add", {"stream": "claude:a:b", "entries": [{"n": 1}]}))
    assert [(server["name"], server["status"]) for server in began["mcp_servers"]] == [
        ("redstreamd", "connected")
    ]
    assert {"mcp__redstreamd__stream_add", "mcp__redstreamd__work_take"} <= set(began["tools"])
    ((text, failed),) = model.outcomes
    assert not failed
    ((entry_id, fields),) = redis_server.command("XRANGE", "claude:a:b", "-", "+")
    assert json.loads(text)["ids"] == [entry_id.decode()]
    assert fields[:2] == [b"n", b"1"]


def test_the_model_is_told_how_to_use_the_bus(claude: Agent, model: Model) -> None:
    # Without its search for tools, which would show the model their names only.
    turn(claude, model, ENABLE_TOOL_SEARCH="false")
    (prompt,) = model.prompts
    assert "To publish, call stream_add." in json.dumps(prompt["messages"])
    tools = {tool["name"]: tool for tool in prompt["tools"]}
    tool = tools["mcp__redstreamd__work_take"]
    assert tool["description"].endswith("work_extend while you need longer.")
    assert tool["input_schema"]["required"] == ["stream", "group", "consumer"]


def test_the_model_reads_cause_and_next_step_of_a_failed_call(claude: Agent, model: Model) -> None:
    turn(claude, model, ("work_done", {"lease": "lease1.none"}))
    ((text, failed),) = model.outcomes
    assert failed
    assert text.startswith("INVALID_ARGUMENT: lease='lease1.none' is not a lease of this bus. Cause: ")
    assert "Next step: Pass the `lease` of the work_take answer" in text


def test_without_a_daemon_user_and_model_are_told_how_to_start_one(
    claude: Agent, model: Model, tmp_path: Path
) -> None:
    done = claude.run("mcp", "get", "redstreamd", XDG_RUNTIME_DIR=str(tmp_path))
    assert "Failed to connect" in done.stdout
    assert "start it with `systemctl start redstreamd.socket` or `redstreamd serve`" in done.stdout
    turn(claude, model, XDG_RUNTIME_DIR=str(tmp_path))
    assert "start it with `systemctl start redstreamd.socket` or `redstreamd serve`" in json.dumps(
        model.prompts[0]
    )


def bridges(directory: Path) -> list[int]:
    """Return the processes that connect clients to the daemon in `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            if b"connect" in words and f"XDG_RUNTIME_DIR={directory}".encode() in variables:
                found.append(int(process.name))
    return found


def test_a_call_while_the_daemon_restarts_succeeds(claude: Agent, model: Model, redis_server: Server) -> None:
    """It is away for a second, which is what its imports take on a machine that has nothing else to do.

    So the daemon that comes back runs already, elsewhere, and only its socket appears.
    """
    with (
        home() as directory,
        running_daemon(redis_server) as again,
        running_daemon(redis_server, directory=directory) as running,
    ):
        back = threading.Timer(1, os.symlink, (again.path, running.path))

        def restart(answered: int) -> None:
            # The next call comes while there is none; it connects once, and gives the bus up if that fails.
            if answered == 1:
                used = bridges(directory)
                assert running.stop() == 0
                # Claude Code has to have noticed: what it sends to a bridge that is about to end is lost.
                wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in used))
                back.start()

        script = [("stream_add", {"stream": "claude:restart:b", "entries": [{"n": n}]}) for n in (1, 2)]
        turn(claude, model, *script, before=restart, XDG_RUNTIME_DIR=str(directory))
        back.join()
        assert [failed for _, failed in model.outcomes] == [False, False]
    assert redis_server.command("XLEN", "claude:restart:b") == 2

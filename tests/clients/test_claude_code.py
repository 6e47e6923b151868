"""Claude Code itself, with the configuration in contrib, a real daemon and a scripted model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import CONTRIB, Agent, agent
from tests.clients.restarted_host import Fault, Host
from tests.support.counts import long
from tests.support.daemon import Daemon
from tests.support.history import History, Line, Told, content, entries_of
from tests.support.models import FINAL, Call, Model
from tests.support.servers import Server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def claude(
    claude_code: Path, daemon: Daemon, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Agent:
    """Claude Code in a project whose .mcp.json is ours."""
    configuration = (CONTRIB / "claude-code.mcp.json").read_text("utf-8")
    return claude_in(tmp_path_factory.mktemp("claude"), configuration, claude_code, daemon, model)


def claude_in(home: Path, configuration: str, claude_code: Path, daemon: Daemon, model: Model) -> Agent:
    """Return Claude Code in a project with this .mcp.json, approved by its user's settings."""
    (home / ".mcp.json").write_text(configuration)
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
    at_once: int = 1,
    before: Callable[[int], None] | None = None,
    **variables: str,
) -> dict[str, Any]:
    """Let it work through a prompt whose answers are `script`, and return its own account of the session."""
    calls = [(f"mcp__redstreamd__{tool}", arguments) for tool, arguments in script]
    model.play(*calls, at_once=at_once, before=before)
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


def test_a_turn_lists_the_tools_adds_an_entry_and_reads_cause_and_next_step_of_a_failed_call(
    claude: Agent, model: Model, redis_server: Server
) -> None:
    began = turn(
        claude,
        model,
        ("stream_add", {"stream": "claude:a:b", "entries": [{"n": 1}]}),
        ("work_done", {"lease": "lease1.none"}),
    )
    assert [(server["name"], server["status"]) for server in began["mcp_servers"]] == [
        ("redstreamd", "connected")
    ]
    assert {"mcp__redstreamd__stream_add", "mcp__redstreamd__work_take"} <= set(began["tools"])
    ((text, failed), (reason, refused)) = model.outcomes
    assert (failed, refused) == (False, True)
    assert reason.startswith("INVALID_ARGUMENT: lease='lease1.none' is not a lease of this bus. Cause: ")
    assert "Next step: Pass the `lease` of the work_take answer" in reason
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


#: Calls that the model asks for in one turn.
AT_ONCE = 10
#: Which calls of a hundred wait for an entry that comes while the daemon is away, and why it is.
FAULTS_AT = dict(zip((20, 50, 80), Fault, strict=True))
STREAM = "claude:restarts:adds"


def call_number(number: int) -> Call:
    """Return a call of a session during which the daemon is away now and then."""
    if number in FAULTS_AT:
        bell = {"streams": [f"claude:bell:{number}"], "cursor": "0-0", "timeout_seconds": 60}
        return "stream_wait", bell
    if number % 3 == 2:
        return "stream_read", {"stream": STREAM, "count": 1}
    key = {"idempotency_key": f"key {number}"} if number % 3 else {}
    return "stream_add", {"stream": STREAM, "entries": [content(number)], **key}


def told(number: int, text: str, failed: bool) -> Line:
    """Return what the model was told of an add."""
    keyed = bool(number % 3)
    if not failed:
        answer = json.loads(text)
        return Line(Told.ACKNOWLEDGED, answer["ids"][0], keyed, answer.get("duplicate", False))
    return Line(Told.UNKNOWN if "OUTCOME_UNKNOWN" in text else Told.REFUSED, keyed=keyed, code=text)


@long
def test_it_goes_on_in_its_session_when_the_daemon_is_restarted_killed_and_stopped(
    claude: Agent, model: Model, redis: Server, host: Host
) -> None:
    used: set[tuple[int, ...]] = set()
    faults: dict[int, Future[None]] = {}

    def be_away(number: int) -> None:
        # The call is on its way to the daemon, where the client's listen is in flight all the time.
        wait_until(lambda: host.in_flight() == 2)
        host.suffer(FAULTS_AT[number], lambda: redis.command("XADD", f"claude:bell:{number}", "*", "n", "1"))

    with ThreadPoolExecutor(1) as thread:

        def before(answered: int) -> None:
            if answered:
                used.add(tuple(bridges(host.directory)))
            if answered in FAULTS_AT and answered not in faults:
                faults[answered] = thread.submit(be_away, answered)

        script = [call_number(number) for number in range(100)]
        turn(claude, model, *script, at_once=AT_ONCE, before=before, XDG_RUNTIME_DIR=str(host.directory))
    assert [fault.result() for fault in faults.values()] == [None, None, None]
    # It has had one bridge all the time.
    assert len(used) == 1
    assert len(*used) == 1
    assert len(model.outcomes) == len(script)
    history = History()
    for number, (text, failed) in enumerate(model.outcomes):
        if script[number][0] == "stream_add":
            history.lines[number] = told(number, text, failed)
        elif number not in FAULTS_AT:
            assert not failed or text.startswith("STREAM_NOT_FOUND"), (number, text)
        elif FAULTS_AT[number] is Fault.RESTART:
            # A daemon that stops answers those who wait.
            assert not failed, (number, text)
        else:
            assert len(json.loads(text)["entries"]) == 1
    # The calls that met a fault were waits; what was sent while the daemon stopped may be unknown.
    history.judge(entries_of(redis, STREAM), acknowledged=len(history.lines) - 1)
    assert all(line.told is Told.ACKNOWLEDGED for line in history.lines.values() if line.keyed)

"""What goes wrong in practice: Redis away, bad settings, a second daemon, signals, strange input."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import trio

from tests.support import preloaded
from tests.support.daemon import PROGRAM, clean_environment, home, running_daemon
from tests.support.fair_clock import Clock
from tests.support.mcp_client import raw_client
from tests.support.measured import measured
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import until


def processes_below(directory: Path) -> list[int]:
    """Return the processes that have `directory` in their command line or as their working directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                place = str((entry / "cwd").readlink())
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(directory) in place or str(directory) in command:
                found.append(int(entry.name))
    return found


async def test_redis_absent_is_an_error_in_time_and_its_return_is_noticed(clock: Clock) -> None:
    port = free_port()
    with home() as directory:
        variables = {"REDIS_PORT": str(port), "REDIS_HOST": "127.0.0.1"}
        with running_daemon("absent", directory=directory, **variables) as daemon:
            began = clock()
            answer = daemon.call("stream_add", stream="s", entries=[{"a": 1}])
            with measured:
                assert clock() - began < 5.5
            assert answer["isError"]
            error = answer["structuredContent"]
            assert error["code"] == "CONNECTION_ERROR"
            assert "refused" in error["cause"].lower()
            with start_redis("--port", str(port)):
                began = clock()
                while daemon.call("stream_add", stream="s", entries=[{"a": 1}])["isError"]:
                    with measured:
                        assert clock() - began < 5
            assert daemon.process.poll() is None
            # One record for each change, not for each attempt.
            assert daemon.log.count("refused") <= 3


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (["--set", "leases.lease_seconds=soon"], {}, ["leases.lease_seconds", "soon", "--set"]),
        ([], {"REDIS_PORT": "tcp://10.0.0.1:6379"}, ["redis.port", "REDIS_PORT", "tcp://10.0.0.1:6379"]),
        ([], {"REDSTREAMD_TOOLS_PROFIL": "worker"}, ["REDSTREAMD_TOOLS_PROFIL", "REDSTREAMD_TOOLS_PROFILE"]),
        (["--config", "/no/such/file.toml"], {}, ["/no/such/file.toml"]),
        (["--listen", "pigeon://loft:7"], {}, ["pigeon://loft:7", "tcp:HOST:PORT", "--listen"]),
    ],
)
def test_bad_settings_are_one_line_and_exit_status_78(
    options: list[str], variables: dict[str, str], words: list[str]
) -> None:
    with home() as directory:
        for command in ("serve", "check-config"):
            ended = preloaded.run(
                [PROGRAM, command, *options],
                env=clean_environment(directory, **variables),
                text=True,
                timeout=60,
            )
            assert ended.returncode == 78
            assert len(ended.stderr.splitlines()) == 1
            for word in words:
                assert word in ended.stderr


def test_a_second_daemon_on_the_same_socket_is_refused(redis: Server) -> None:
    with home() as directory, running_daemon(redis, directory=directory) as daemon:
        second = preloaded.run(
            [PROGRAM, "serve"],
            env=clean_environment(directory, REDIS_URL=f"unix://{redis.path}"),
            text=True,
            timeout=60,
        )
        assert second.returncode == 75
        assert "another process listens there" in second.stderr
        assert not daemon.call("stream_list")["isError"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_the_next_run_has_the_data(
    number: signal.Signals, clock: Clock
) -> None:
    with home() as directory:
        with running_daemon(None, directory=directory) as daemon:
            daemon.call("stream_add", stream="s", entries=[{"a": 1}])
            began = clock()
            assert daemon.stop(number) == 0
            with measured:
                assert clock() - began < 5
            assert processes_below(directory) == []
            assert not Path(daemon.path).exists()
        with running_daemon(None, directory=directory) as daemon:
            answer = daemon.call("stream_read", stream="s")["structuredContent"]
            assert [entry["fields"] for entry in answer["entries"]] == [{"a": 1}]
        assert processes_below(directory) == []


@pytest.mark.limit(180)
async def test_a_stop_answers_those_who_wait(redis: Server) -> None:
    # Whoever is not answered at once would keep it for longer than `stop` waits.
    with running_daemon(redis, "--set", "daemon.drain_seconds=60") as daemon:
        async with raw_client(daemon.path, era="modern") as client:
            wait = client.tool_call("stream_wait", {"streams": ["s"], "cursor": "5-5", "timeout_seconds": 60})
            await client.send(wait)
            await until(lambda: b"tracking_total_keys:1\r" in redis.command("INFO", "stats"))
            status = await trio.to_thread.run_sync(daemon.stop)
            answer = await client.answer_to(wait["id"])
            assert answer["result"]["structuredContent"]["next_cursor"] == "5-5"
            assert status == 0


async def test_strange_input_is_answered_and_the_connection_lives_on(redis: Server) -> None:
    with running_daemon(redis) as daemon:
        async with raw_client(daemon.path, era="modern") as client:
            await client.send_bytes(b"{this is no JSON}\n")
            answer = await client.receive()
            assert (answer["id"], answer["error"]["code"]) == (None, -32700)

            answer = await client.call_tool("stream_reed", {})
            assert answer["error"]["code"] == -32602
            assert "stream_read" in answer["error"]["message"]

            answer = await client.call_tool("stream_read", {"stream": "s", "cuont": 5, "count": "many"})
            error = answer["result"]["structuredContent"]
            assert error["code"] == "INVALID_ARGUMENT"
            for word in ("cuont", "count", "many"):
                assert word in json.dumps(error)

            # Member names that occur twice, far inside an entry: only the decoder has seen them.
            request = client.tool_call("stream_add", {"stream": "s", "entries": [{"a": {"TWICE": 1}}]})
            line = json.dumps(request).replace('{"TWICE": 1}', '{"x": 1, "x": 2}')
            await client.send_bytes(line.encode() + b"\n")
            answer = await client.answer_to(request["id"])
            assert answer["result"]["structuredContent"]["code"] == "INVALID_ARGUMENT"
            assert "'x'" in answer["result"]["structuredContent"]["cause"]
            assert redis.command("EXISTS", "s") == 0

            request = client.tool_call("stream_add", {"stream": "s", "entries": [{"a": "x" * 9_000_000}]})
            await client.send(request)
            answer = await client.answer_to(request["id"])
            assert "limits.max_message_bytes" in answer["error"]["message"]
            assert not (await client.call_tool("stream_list", {}))["result"]["isError"]
        async with raw_client(daemon.path, era="modern") as client:
            assert not (await client.call_tool("stream_list", {}))["result"]["isError"]


def test_a_value_of_another_program_too_deep_for_an_answer_keeps_nobody_out(redis: Server) -> None:
    deep = "[" * 500 + "]" * 500
    redis.command("XADD", "s", "1-0", "a", deep, "_rs.v", "1", "_rs.json", '["a"]')
    with running_daemon(redis, "--set", "tools.profile=worker,red-stream") as daemon:
        read = daemon.call("stream_read", stream="s")["structuredContent"]["entries"]
        assert read[0]["fields"]["a"] == deep
        taken = daemon.call("work_take", stream="s", group="g", consumer="c")["structuredContent"]
        assert taken["entries"][0]["fields"]["a"] == deep
        (text,) = daemon.call("get_stream_messages", stream="s")["content"]
        assert json.loads(text["text"])[0]["message"]["a"] == deep


async def test_stdio_serves_one_client_and_ends_with_it(redis: Server) -> None:
    from mcp import Client, StdioServerParameters

    with home() as directory:
        command = StdioServerParameters(
            command=str(PROGRAM),
            args=["stdio"],
            env=clean_environment(directory, REDIS_URL=f"unix://{redis.path}"),
        )
        async with Client(command, mode="legacy") as client:
            added = await client.call_tool("stream_add", {"stream": "s", "entries": [{"a": 1}]})
            assert not added.is_error
            read = await client.call_tool("stream_read", {"stream": "s"})
            assert read.structured_content is not None
            assert read.structured_content["entries"][0]["sender"] == "stdio"
        assert processes_below(directory) == []

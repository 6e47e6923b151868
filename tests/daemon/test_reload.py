"""Reloading the settings: what changes under clients that stay connected, and what a bad file does."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from redstreamd.daemon.reloader import Reloader
from redstreamd.errors import remedies
from redstreamd.presentation.uris import stream_uri
from redstreamd.service.reload_events import ReloadEvent, SettingsReloaded
from redstreamd.settings import load
from tests.support import preloaded
from tests.support.daemon import PROGRAM, Daemon, clean_environment, home, read_resource, running_daemon
from tests.support.mcp_client import RawClient, raw_client
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.sentinels import NAME, Sentinels, running_sentinels
from tests.support.servers import Server, free_port, start_redis
from tests.support.service_manager import ServiceManager
from tests.support.waiting import until, wait_until

OBSERVER = '[tools]\nprofile = ["observer"]\n'


class Reloaded:
    """A daemon with a settings file, and the service manager that it tells."""

    def __init__(self, daemon: Daemon, file: Path, manager: ServiceManager) -> None:
        self.daemon = daemon
        self.file = file
        self.manager = manager

    def reload(self, text: str) -> dict[str, Any]:
        """Write the file and have it read; return the daemon's report, when READY=1 has come."""
        self.file.write_text(text)
        self.daemon.process.send_signal(signal.SIGHUP)
        self.manager.wait_for(lambda told: "RELOADING=1" in told and "READY=1" in told)
        report: dict[str, Any] = read_resource(self.daemon.path, "redstream://health")["reload"]
        return report

    async def reload_beside(self, text: str) -> dict[str, Any]:
        """The same from trio."""
        return await trio.to_thread.run_sync(self.reload, text)


@contextlib.contextmanager
def reloading(server: Server, text: str = "", **variables: str) -> Iterator[Reloaded]:
    with home() as directory, contextlib.closing(ServiceManager(directory)) as manager:
        file = directory / "redstreamd.toml"
        file.write_text(text)
        with running_daemon(
            server, "--config", str(file), directory=directory, NOTIFY_SOCKET=manager.path, **variables
        ) as daemon:
            manager.wait_for(lambda told: "READY=1" in told)
            yield Reloaded(daemon, file, manager)


async def tools_of(client: RawClient) -> set[str]:
    return {tool["name"] for tool in (await client.call("tools/list"))["result"]["tools"]}


def test_a_reload_is_announced_with_its_time_and_says_what_it_changed(redis: Server) -> None:
    with reloading(redis, '[daemon]\nlog_level = "warning"\n') as run:
        report = run.reload('[daemon]\nlog_level = "info"\nlisten = ["unix:/nowhere/mcp.sock"]\n')
        assert report["changed"] == ["daemon.log_level"]
        assert report["restart"] == ["daemon.listen"]
        told = run.manager.told
        reloading_at = told.index("RELOADING=1")
        assert told[reloading_at + 1].startswith("MONOTONIC_USEC=")
        assert reloading_at < len(told) - told[::-1].index("READY=1")
        said = "settings reloaded; changed: daemon.log_level; restart to apply: daemon.listen"
        wait_until(lambda: said in run.daemon.log)
        # Again: what needs a restart still does, and nothing else has changed.
        report = run.reload(run.file.read_text())
        assert (report["changed"], report["restart"], report["reloads"]) == ([], ["daemon.listen"], 2)


WRONG = (
    ("[limits]\nmax_waits = 0\n", "setting limits.max_waits=0 from file "),
    ("[limits\n", " cannot be used: "),
    ('[limits]\nrates = ["stream_ad=1/s"]\n', "such as stream_add"),
    ('[listeners]\ntoken_file = "token"\n', "$CREDENTIALS_DIRECTORY"),
)


def test_settings_that_are_not_valid_change_nothing_and_say_what_check_config_says(redis: Server) -> None:
    with reloading(redis) as run:
        for number, (text, reason) in enumerate(WRONG, 1):
            report = run.reload(text)
            assert (report["reloads"], report["refused"]) == (0, number)
            assert reason in report["refusal"]
            checked = preloaded.run(
                [PROGRAM, "check-config", "--config", run.file],
                env=clean_environment(run.daemon.directory, REDIS_URL=f"unix://{redis.path}"),
                text=True,
            )
            assert checked.returncode == 78
            assert report["refusal"] in checked.stderr
            assert report["refusal"] in run.daemon.log
            ready = len(run.manager.told) - run.manager.told[::-1].index("READY=1")
            assert run.manager.told[ready].startswith("STATUS=settings not reloaded: ")
        run.file.unlink()
        run.daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "no such file" in run.daemon.log)
        # The next one that is valid takes it away.
        assert run.reload("")["refusal"] is None
        assert run.daemon.call("stream_list")["isError"] is False


def test_texts_name_the_places_of_the_settings_in_force(redis: Server) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_redis("--requirepass", "right"))
        address = f'[redis]\npath = "{server.path}"\n'
        # An empty variable counts as not set: a URL would end the password in the file.
        run = stack.enter_context(reloading(server, address, REDIS_URL=""))

        def step() -> str:
            return str(run.daemon.call("stream_list")["structuredContent"]["next_step"])

        wait_until(lambda: "Set REDIS_PASSWORD in the environment" in step())
        run.reload(f'{address}password = "wrong"\n')
        wait_until(lambda: f"Correct redis.password in {run.file}" in step())


async def test_texts_name_the_places_of_what_stays_in_force_until_a_restart(tmp_path: Path) -> None:
    file, secret = tmp_path / "redstreamd.toml", tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    remedies.note_files(str(file), "the environment")
    file.write_text(f'[redis]\nhost = "127.0.0.1"\npassword_file = "{secret}"\n')
    before = load(config=file, environ={"HOME": "/"})
    before.note_sources()
    named = remedies.password()
    assert "the file of redis.password_file" in named
    parts: Any = SimpleNamespace(bus=SimpleNamespace(), keys=SimpleNamespace(replace=lambda *_: False))
    told: list[ReloadEvent] = []
    reloader = Reloader(
        before.settings,
        lambda: load(config=file, environ={"HOME": "/"}),
        cast("Any", SimpleNamespace(parts=parts, check=lambda _settings: None)),
        cast("Any", SimpleNamespace(reloading=lambda: None, ready=lambda _status: None)),
        status=str,
        tell_clients=trio.lowlevel.checkpoint,
        report=told.append,
    )
    nodes = 'nodes = ["127.0.0.1:1"]\nsentinel_primary = "m"\n'
    for number in range(2):
        file.write_text(f'[redis]\ntopology = "sentinel"\n{nodes}password = "{number}"\n')
        file.chmod(0o600)
        await reloader.reload()
        assert {"redis.topology", "redis.password", "redis.password_file"} <= {*reloader.statistics().restart}
        assert remedies.password() == named
    assert [type(each) for each in told] == [SettingsReloaded] * 2
    assert parts.bus.settings.redis == before.settings.redis


@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_another_profile_is_offered_and_clients_that_listed_are_told(redis: Server, era: Any) -> None:
    with reloading(redis, OBSERVER) as run:
        async with raw_client(run.daemon.path, era=era) as client:
            if era == "handshake":
                await client.initialize()
            else:
                listen = client.request(
                    "subscriptions/listen",
                    {"notifications": {"toolsListChanged": True, "promptsListChanged": True}},
                )
                await client.send(listen)
                honored = (await client.receive())["params"]["notifications"]
                assert honored == {"toolsListChanged": True, "promptsListChanged": True}
            assert "stream_add" not in await tools_of(client)
            await run.reload_beside('[tools]\nprofile = ["operator"]\n')
            told = await client.receive()
            assert told["method"] == "notifications/tools/list_changed"
            if era == "modern":
                assert told["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": listen["id"]}
            assert {"stream_add", "stream_manage"} <= await tools_of(client)
            added = await client.call_tool("stream_add", {"stream": "a:b:c", "entries": [{"n": 1}]})
            assert not added["result"]["isError"]
            # Nothing is told if nothing changes for it.
            await run.reload_beside('[tools]\nprofile = ["operator"]\n[limits]\nmax_waits = 5\n')
            await run.reload_beside(OBSERVER)
            assert (await client.receive())["method"] == "notifications/tools/list_changed"
            refused = await client.call_tool("stream_add", {"stream": "a:b:c", "entries": [{"n": 1}]})
            assert "belongs to the profile worker" in refused["error"]["message"]


@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_another_policy_ends_subscriptions_that_it_does_not_permit(redis: Server, era: Any) -> None:
    kept, lost = stream_uri("kept:a"), stream_uri("lost:a")
    with reloading(redis) as run:
        async with raw_client(run.daemon.path, era=era) as client:
            if era == "handshake":
                await client.initialize()
                for uri in (kept, lost):
                    await client.call("resources/subscribe", {"uri": uri})
            else:
                await client.send(
                    client.request(
                        "subscriptions/listen",
                        {"notifications": {"resourceSubscriptions": [kept, lost]}},
                    )
                )
                await client.receive()
            added = await client.call_tool("stream_add", {"stream": "lost:a", "entries": [{"n": 1}]})
            assert not added["result"]["isError"]
            seen = [each["params"]["uri"] for each in client.passed_over]
            if not seen:
                seen = [(await client.receive())["params"]["uri"]]
            assert seen == [lost]
            client.passed_over.clear()
            await run.reload_beside('[policy]\nrules = ["* may read publish on kept:*"]\n')
            # The last of it: who reads now is told why not.
            last = await client.receive()
            assert (last["method"], last["params"]["uri"]) == ("notifications/resources/updated", lost)
            read = await client.call("resources/read", {"uri": lost})
            assert "may not read" in json.dumps(read["error"])
            refused = await client.call_tool("stream_add", {"stream": "lost:a", "entries": [{"n": 1}]})
            assert refused["result"]["structuredContent"]["code"] == "PERMISSION_DENIED"
            # The other goes on, and what happens to the lost one is told to nobody.
            redis.cli("XADD", "lost:a", "*", "f", "v")
            redis.cli("XADD", "kept:a", "*", "f", "v")
            assert (await client.receive())["params"]["uri"] == kept


async def test_a_policy_that_changes_before_a_listen_is_acknowledged_counts_for_all_of_it(
    redis: Server,
) -> None:
    kept, *lost = map(stream_uri, ("kept:a", "lost:a", "lost:b"))
    wanted = {"resourceSubscriptions": [kept, *lost], "resourcesListChanged": True, "toolsListChanged": True}
    with reloading(redis) as run:
        async with raw_client(run.daemon.path, era="modern") as client:
            # Its versions cannot be read yet, the first of them neither.
            redis.signal(signal.SIGSTOP)
            await client.send(client.request("subscriptions/listen", {"notifications": wanted}))
            await until(
                lambda: read_resource(run.daemon.path, "redstream://health")["subscriptions"]["topics"]
            )
            await run.reload_beside(
                '[tools]\nprofile = ["operator"]\n[policy]\nrules = ["* may read publish on kept:*"]\n'
            )
            redis.signal(signal.SIGCONT)
            told = await client.receive()
            assert told["method"] == "notifications/subscriptions/acknowledged"
            assert told["params"]["notifications"] == wanted | {"resourceSubscriptions": [kept]}
            for name in ("lost:a", "lost:b", "kept:a"):
                redis.cli("XADD", name, "*", "f", "v")
            assert (await client.receive())["params"].get("uri", kept) == kept


async def test_limits_change_for_connections_that_are_open(redis: Server) -> None:
    with reloading(redis) as run:
        async with raw_client(run.daemon.path, era="modern") as client:
            large = {"stream": "l:a:b", "entries": [{"text": "x" * 70_000}]}
            assert not (await client.call_tool("stream_add", large))["result"]["isError"]
            report = await run.reload_beside(
                "[limits]\nmax_message_bytes = 65536\nmax_waits = 1\nmax_connections = 2\n"
                'rates = ["stream_list=1/min"]\n[tools]\nmax_result_bytes = 1024\n'
            )
            assert "limits.max_message_bytes" in report["changed"]
            assert "longer than 65536" in (await client.call_tool("stream_add", large))["error"]["message"]
            read = await client.call_tool("stream_read", {"stream": "l:a:b"})
            assert len(json.dumps(read["result"]["structuredContent"])) < 2048
            first = await client.call_tool("stream_list")
            second = await client.call_tool("stream_list")
            assert not first["result"]["isError"]
            assert second["result"]["structuredContent"]["code"] == "RATE_LIMITED"
            clients = read_resource(run.daemon.path, "redstream://health")["clients"]
            assert clients["max_connections"] == 2
            report = await run.reload_beside(
                '[policy]\nquotas = ["* have waits=1 result_bytes=1024 stream_list=1/min burst 2"]\n'
            )
            assert "policy.quotas" in report["changed"]
            # What is new is a bucket of its own.
            lists = [await client.call_tool("stream_list") for _ in range(3)]
            assert [each["result"]["isError"] for each in lists] == [False, False, True]
            assert "policy.quotas" in lists[2]["result"]["structuredContent"]["cause"]
            read = await client.call_tool("stream_read", {"stream": "l:a:b"})
            assert len(json.dumps(read["result"]["structuredContent"])) < 2048
            # Of two that wait, one is refused; the other would go on.
            ended: list[dict[str, Any]] = []
            async with raw_client(run.daemon.path, era="modern") as other, trio.open_nursery() as nursery:

                async def wait(waiter: RawClient) -> None:
                    how = {"streams": ["l:a:b"], "timeout_seconds": 60}
                    ended.append(await waiter.call_tool("stream_wait", how))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(wait, client)
                nursery.start_soon(wait, other)
            (refused,) = ended
            assert refused["result"]["structuredContent"]["code"] == "RATE_LIMITED"
            assert "policy.quotas" in refused["result"]["structuredContent"]["next_step"]


async def test_another_redis_is_used_and_waits_go_on_there(redis: Server) -> None:
    with (
        start_redis() as other,
        home() as directory,
        contextlib.closing(ServiceManager(directory)) as manager,
    ):
        file = directory / "redstreamd.toml"
        file.write_text(f'[redis]\nurl = "unix://{redis.path}"\n')
        with running_daemon(
            "absent", "--config", str(file), directory=directory, NOTIFY_SOCKET=manager.path
        ) as daemon:
            manager.wait_for(lambda told: "READY=1" in told)
            run = Reloaded(daemon, file, manager)
            async with raw_client(daemon.path, era="modern") as client:
                await client.call_tool("stream_add", {"stream": "m:a:b", "entries": [{"on": "old"}]})
                wait = client.tool_call("stream_wait", {"streams": ["w:a:b"], "timeout_seconds": 60})
                await client.send(wait)
                await run.reload_beside(f'[redis]\nurl = "unix://{other.path}"\n')
                added = await client.call_tool("stream_add", {"stream": "m:a:b", "entries": [{"on": "new"}]})
                assert not added["result"]["isError"], added
                assert other.command("XLEN", "m:a:b") == redis.command("XLEN", "m:a:b") == 1
                other.cli("XADD", "w:a:b", "*", "f", "v")
                answer = await client.answer_to(wait["id"])
                assert len(answer["result"]["structuredContent"]["entries"]) == 1
                health = read_resource(daemon.path, "redstream://health")
                assert health["redis"]["address"] == other.path
                assert health["redis"]["troubles"] == []
            await until(lambda: "name=redstreamd" not in redis.command("CLIENT", "LIST").decode())


def test_another_topology_is_named_as_what_needs_a_restart_and_the_server_stays(redis: Server) -> None:
    with (
        home() as directory,
        contextlib.closing(ServiceManager(directory)) as manager,
    ):
        file = directory / "redstreamd.toml"
        file.write_text(f'[redis]\nurl = "unix://{redis.path}"\n')
        with running_daemon(
            "absent", "--config", str(file), directory=directory, NOTIFY_SOCKET=manager.path
        ) as daemon:
            manager.wait_for(lambda told: "READY=1" in told)
            run = Reloaded(daemon, file, manager)
            cluster = '[redis]\ntopology = "cluster"\nnodes = ["127.0.0.1:1"]\n[limits]\nmax_waits = 9\n'
            report = run.reload(cluster)
            assert report["changed"] == ["limits.max_waits"]
            assert set(report["restart"]) == {"redis.topology", "redis.nodes", "redis.url", "redis.path"}
            health = read_resource(daemon.path, "redstream://health")
            assert (health["redis"]["address"], health["redis"]["troubles"]) == (redis.path, [])


@pytest.mark.limit(90)
@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
def test_other_nodes_and_logins_of_a_topology_are_used_after_a_reload(topology: str) -> None:
    with (
        contextlib.ExitStack() as stack,
        home() as directory,
        contextlib.closing(ServiceManager(directory)) as manager,
    ):
        file = directory / "redstreamd.toml"
        file.write_text(f'[redis]\ntopology = "{topology}"\nnodes = ["127.0.0.1:{free_port()}"]\n')
        with running_daemon(
            "absent", "--config", str(file), directory=directory, NOTIFY_SOCKET=manager.path
        ) as daemon:
            manager.wait_for(lambda told: "READY=1" in told)
            wait_until(lambda: "REDIS_NODES in the environment" in daemon.log)
            deployed, keys, needed = _deployed(topology, stack)
            nodes = [f"{host}:{port}" for host, port in deployed.deployment().nodes[:2]]
            text = [f'topology = "{topology}"', f"nodes = {nodes}"]
            text += [f'{key} = "{value}"' for key, value in needed.items()]
            run = Reloaded(daemon, file, manager)
            report = run.reload("[redis]\n" + "\n".join(text))
            assert set(report["changed"]) == {"redis.nodes", *(f"redis.{key}" for key in needed)}
            assert report["restart"] == []
            for key in keys:
                add = [PROGRAM, "call", "--socket", daemon.path, "stream_add"]
                arguments = f'{{"stream": "{key}", "entries": [{{"f": "v"}}]}}'
                added = preloaded.run([*add, arguments], env=clean_environment(directory), text=True)
                assert added.returncode == 0, added
                assert deployed.command("XLEN", key) == 1


def _deployed(
    topology: str, stack: contextlib.ExitStack
) -> tuple[Cluster | Sentinels, list[str], dict[str, str]]:
    """Run one with passwords; return it, keys, and settings that it needs."""
    if topology == "cluster":
        cluster = running_cluster(replicas=0, node_timeout_ms=60_000, password="secret")
        running = stack.enter_context(cluster)
        return running, running.keys_on_each("m:a:"), {"password": "secret"}
    logins = {"password": "secret", "sentinel_password": "other"}
    sentinels = running_sentinels(replicas=1, sentinels=1, down_after_ms=60_000, **logins)
    return stack.enter_context(sentinels), ["m:a:b"], logins | {"sentinel_primary": NAME}


def test_sighups_before_the_daemon_is_ready_are_one_reload_after_it(redis: Server) -> None:
    with (
        home() as directory,
        contextlib.closing(ServiceManager(directory)) as manager,
        (directory / "log").open("wb") as log,
    ):
        file = directory / "redstreamd.toml"
        file.write_text("")
        process = subprocess.Popen(
            [PROGRAM, "serve", "--config", file],
            env=clean_environment(directory, REDIS_URL=f"unix://{redis.path}", NOTIFY_SOCKET=manager.path),
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        daemon = Daemon(directory, process)
        try:
            wait_until(lambda: Path(daemon.path).exists())
            for _ in range(3):
                process.send_signal(signal.SIGHUP)
            manager.wait_for(lambda told: told.count("READY=1") == 2)
            assert manager.told.index("READY=1") < manager.told.index("RELOADING=1")
            assert manager.told.count("RELOADING=1") == 1
            assert daemon.stop() == 0
        finally:
            process.kill()
            process.wait()


def test_a_daemon_ends_with_its_terminal_and_reloads_while_it_has_it(redis: Server) -> None:
    with home() as directory:
        environment = clean_environment(directory, REDIS_URL=f"unix://{redis.path}")
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(PROGRAM, [str(PROGRAM), "serve"], environment)
        said = b""
        try:
            while b"Ctrl-C stops it" not in said:
                said += os.read(terminal, 4096)
            os.kill(pid, signal.SIGHUP)
            while b"settings reloaded" not in said:
                said += os.read(terminal, 4096)
        finally:
            os.close(terminal)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

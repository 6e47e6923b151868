"""Keys and rules of encryption are replaced under connected clients, and a bad ring changes nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import trio

from redstreamd.encryption.new_key import make_key
from tests.daemon.test_reload import Reloaded, reloading
from tests.support import preloaded
from tests.support.daemon import PROGRAM, clean_environment, read_resource
from tests.support.mcp_client import raw_client
from tests.support.servers import Server
from tests.support.waiting import wait_until

STREAM = "jobs:mail:new"
RULES = ("jobs:* are encrypted except kind",)


def settings(keys: Path, writing: str | None, rules: tuple[str, ...] = RULES) -> str:
    lines = ["[encryption]", f'keys = "{keys}"', f"streams = {list(rules)}"]
    return "\n".join([*lines, *([f'writing_key = "{writing}"'] if writing else []), ""])


def ring(run: Reloaded) -> dict[str, Any]:
    figures: dict[str, Any] = read_resource(run.daemon.path, "redstream://health")["encryption"]
    return figures


def add(run: Reloaded, text: str) -> None:
    assert not run.daemon.call("stream_add", stream=STREAM, entries=[{"text": text, "kind": "k"}])["isError"]


def texts(run: Reloaded) -> list[str]:
    answer = run.daemon.call("stream_read", stream=STREAM)["structuredContent"]
    return [entry["fields"].get("text") or entry["unreadable"]["key"] for entry in answer["entries"]]


def stored(server: Server) -> list[str]:
    """What Redis has: the ID of each entry's key, or the text."""
    found = []
    for _, words in server.command("XRANGE", STREAM, "-", "+"):
        fields = dict(zip(words[::2], words[1::2], strict=True))
        found.append((fields[b"_rs.enc"].split()[1] if b"_rs.enc" in fields else fields[b"text"]).decode())
    return found


def waits(run: Reloaded) -> bool:
    report = read_resource(run.daemon.path, "redstream://health")
    return bool(report["waiting"]["watches"])


def status(run: Reloaded) -> str:
    words = [PROGRAM, "status", "--socket", run.daemon.path]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


async def test_a_key_is_rotated_and_encryption_turned_off_under_a_client_that_waits(
    redis: Server, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    make_key(keys, "a")
    with reloading(redis, settings(keys, "a")) as run:
        assert "keys of encryption: a; a writes; rules: 1" in run.daemon.log
        async with raw_client(run.daemon.path, era="modern") as client:
            await client.send(client.tool_call("stream_wait", {"streams": [STREAM], "timeout_seconds": 60}))
            await trio.to_thread.run_sync(wait_until, lambda: waits(run))
            make_key(keys, "b")
            # The settings are as they were, and the key is there.
            report = await run.reload_beside(settings(keys, "a"))
            assert (report["refusal"], report["changed"]) == (None, ["encryption.keys"])
            figures = await trio.to_thread.run_sync(ring, run)
            assert figures == {"writing_key": "a", "keys": 2, "key_ids": ["a", "b"], "rules": 1}
            report = await run.reload_beside(settings(keys, "b"))
            assert report["changed"] == ["encryption.writing_key"]
            await trio.to_thread.run_sync(add, run, "1")
            answer = (await client.receive())["result"]["structuredContent"]
            assert [entry["fields"] for entry in answer["entries"]] == [{"text": "1", "kind": "k"}]
        await run.reload_beside(settings(keys, "a"))
        await trio.to_thread.run_sync(add, run, "2")
        await run.reload_beside(settings(keys, "b", ()))
        await trio.to_thread.run_sync(add, run, "3")
        assert stored(redis) == ["b", "a", "3"]
        assert await trio.to_thread.run_sync(texts, run) == ["1", "2", "3"]
        # Whoever has no key any more can read the others.
        (keys / "a.key").unlink()
        await run.reload_beside(settings(keys, "b"))
        assert await trio.to_thread.run_sync(texts, run) == ["1", "a", "3"]
        assert "no longer there: a" in run.daemon.log
        assert "key b writes, of 1 key (b); 1 rules" in await trio.to_thread.run_sync(status, run)


def test_a_ring_that_cannot_be_used_leaves_the_one_before_and_says_so(redis: Server, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    made = make_key(keys, "a")
    secret = made.read_text().strip()
    with reloading(redis, settings(keys, "a")) as run:
        add(run, "1")
        other = make_key(keys, "b")
        other.chmod(0o644)
        refusal = run.reload(settings(keys, "b"))["refusal"]
        assert f"run `chmod 0600 {other}`" in refusal
        assert refusal in run.daemon.log
        other.unlink()
        assert "there is no " in run.reload(settings(keys, "b"))["refusal"]
        assert ring(run)["writing_key"] == "a"
        add(run, "2")
        assert stored(redis) == ["a", "a"]
        assert texts(run) == ["1", "2"]
        # Other bytes under the same ID are taken, and told of.
        made.unlink()
        make_key(keys, "a")
        assert run.reload(settings(keys, "a"))["refusal"] is None
        assert "of other bytes than before, under the same ID: a" in run.daemon.log
        assert texts(run) == ["a", "a"]
        assert secret not in run.daemon.log
        made.chmod(0o644)
        started = preloaded.run(
            [PROGRAM, "serve", "--config", run.file],
            env=clean_environment(tmp_path, REDIS_URL=f"unix://{redis.path}"),
            text=True,
        )
        assert started.returncode == 78
        assert "chmod 0600" in started.stderr

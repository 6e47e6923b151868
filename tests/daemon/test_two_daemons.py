"""Two daemons on one Redis, as on two hosts: with one key of leases they are one bus, else they say so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server

GROUP = {"stream": "jobs:two:daemons", "group": "g"}
KEY_FILE = "REDSTREAMD_DAEMON_LEASE_KEY_FILE"


@contextlib.contextmanager
def two_daemons(server: Server, *key_files: Path) -> Iterator[list[Daemon]]:
    """Run a daemon for each of the files."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                running_daemon(server, **{KEY_FILE: str(file)}, REDSTREAMD_TOOLS_PROFILE="operator")
            )
            for file in key_files
        ]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "lease.key"
    file.write_bytes(b"k" * 32)
    return file


def call(daemon: Daemon, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return its structured content, which may be an error."""
    content: dict[str, Any] = daemon.call(tool, **arguments)["structuredContent"]
    return content


async def test_what_one_daemon_gives_is_valid_on_another_that_has_the_key(
    redis: Server, key_file: Path
) -> None:
    with two_daemons(redis, key_file, key_file) as (one, other):
        assert not list(one.directory.rglob("lease.key"))
        added = {"stream": GROUP["stream"], "entries": [{"n": 1}, {"n": 2}, {"n": 3}], "idempotency_key": "k"}
        ids = call(one, "stream_add", **added)["ids"]
        # A repetition, and another body under the same key.
        repeated = call(other, "stream_add", **added)
        assert (repeated["ids"], repeated["duplicate"]) == (ids, True)
        conflict = call(other, "stream_add", **added | {"entries": [{"n": 4}]})
        assert "was used with other entries" in conflict["message"]

        # Each settles what the other has given, in each way.
        place = {**GROUP, "consumer": "w", "lease_seconds": 600}
        first = call(one, "work_take", **place, count=1, idempotency_key="t")
        assert call(other, "work_take", **place, count=1, idempotency_key="t")["lease"] == first["lease"]
        assert call(other, "work_extend", lease=first["lease"], lease_seconds=900)["extended"] == ids[:1]
        assert call(other, "work_done", lease=first["lease"])["done"] == ids[:1]
        assert call(one, "work_done", lease=first["lease"])["already_done"] == ids[:1]
        second = call(other, "work_take", **place, count=1)
        assert call(one, "work_fail", lease=second["lease"], action="retry")["retried"] == ids[1:2]

        # A dead letter of one is listed and replayed by the other.
        third = call(one, "work_take", **place, count=1)
        dead = third["entries"][0]["id"]
        failed = call(other, "work_fail", lease=third["lease"], action="dead_letter", reason="broken")
        assert failed["dead_lettered"] == [dead]
        (letter,) = call(one, "dead_letter_replay", **GROUP)["entries"]
        assert letter["dead_letter"]["id"] == dead
        replay = {**GROUP, "action": "replay", "dry_run": False}
        assert len(call(other, "dead_letter_replay", **replay)["replayed"]) == 1
        assert call(one, "dead_letter_replay", **GROUP)["entries"] == []

        # An agent of one asks, and one of the other answers.
        asked = {"stream": "jobs:two:ask", "entry": {"q": 1}, "timeout_seconds": 60}
        asking = {**GROUP, "stream": asked["stream"], "consumer": "w", "timeout_seconds": 60}
        answers: list[dict[str, Any]] = []

        async def ask() -> None:
            answers.append(await trio.to_thread.run_sync(lambda: call(one, "request_reply", **asked)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            taken = await trio.to_thread.run_sync(lambda: call(other, "work_take", **asking))
            done = {"lease": taken["lease"], "reply": {"a": 2}}
            await trio.to_thread.run_sync(lambda: call(other, "work_done", **done))
        assert answers[0]["reply"]["fields"] == {"a": 2}


def test_a_daemon_with_another_key_says_so_and_how_to_go_on(
    redis: Server, key_file: Path, tmp_path: Path
) -> None:
    another = tmp_path / "another.key"
    another.write_bytes(b"a" * 32)
    with two_daemons(redis, key_file, another) as (one, other):
        added = {"stream": GROUP["stream"], "entries": [{"n": 1}], "idempotency_key": "k"}
        ids = call(one, "stream_add", **added)["ids"]
        # Bodies cannot be compared, so the key alone decides: nothing is there twice.
        assert call(other, "stream_add", **added)["ids"] == ids
        taken = call(one, "work_take", **GROUP, consumer="w")
        refused = call(other, "work_done", lease=taken["lease"])
        assert refused["code"] == "INVALID_ARGUMENT"
        assert "a daemon with another lease key" in refused["cause"]
        assert "daemon.lease_key_file" in refused["next_step"]
        # What it says: the consumer takes its work up again, and settles it there.
        again = call(other, "work_take", **GROUP, consumer="w", resume=True)
        assert [entry["id"] for entry in again["entries"]] == ids
        assert call(other, "work_done", lease=again["lease"])["done"] == ids

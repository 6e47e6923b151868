"""``redstreamd status``: what an administrator sees of the running daemon, and what a script does."""

from __future__ import annotations

import json
import subprocess

import pytest

from redstreamd.cli.status_text import busy_text, connection_bounds, process_lines
from redstreamd.errors.remedies import setting, unit_setting
from tests.cli.conftest import read_all
from tests.cli.test_call import received
from tests.cli.test_whole import ready

RAISED = unit_setting("LimitNOFILE=")

FULL = "newcomers displace whoever holds most, or are rejected"


@pytest.mark.limit(60)
async def test_it_tells_how_the_daemon_its_clients_and_redis_are(
    finished, redstreamd, environ, place, tmp_path, redis
):
    environ |= {"REDIS_URL": f"unix://{redis.path}", "STATE_DIRECTORY": str(tmp_path)}
    daemon = await redstreamd("serve", "--listen", f"unix:{place}", stderr=subprocess.STDOUT)
    await ready(daemon)
    waiting = '{"streams": ["a:b:c"], "timeout_seconds": 300}'
    wait = await redstreamd("call", "--socket", str(place), "stream_wait", waiting)
    # Until the wait is under way. The daemon may also not have noticed yet that the one who asked before
    # has left.
    while True:
        as_json = await finished("status", "--json", "--socket", str(place))
        report = json.loads(as_json.stdout)
        if report["waiting"]["tracking"] and report["clients"]["connections"] == 2:
            break
    while True:
        text = await finished("status", "--socket", str(place))
        if "2 connected, 2 requests in flight" in text.stdout.decode():
            break
    wait.terminate()
    daemon.terminate()
    await daemon.wait()
    assert (as_json.returncode, text.returncode, text.stderr) == (0, 0, b"")
    assert report["process"]["pid"] == daemon.pid
    assert 20 << 20 < report["process"]["memory_bytes"] < 500 << 20
    assert report["process"]["cpu_seconds"] > 0
    lines = text.stdout.decode()
    for part in (
        f"process {daemon.pid}, up ",
        f"{redis.path}, answers in ",
        "waiting calls: redis 7.0",
        "1 waits on 1 streams, told by the server",
    ):
        assert part in lines


@pytest.mark.limit(60)
async def test_without_redis_it_says_why_and_what_to_do_and_ends_with_1(
    finished, redstreamd, environ, place, tmp_path
):
    environ |= {"REDIS_URL": f"unix://{tmp_path}/none.sock", "STATE_DIRECTORY": str(tmp_path)}
    daemon = await redstreamd("serve", "--listen", f"unix:{place}", stderr=subprocess.STDOUT)
    await ready(daemon)
    text = await finished("status", "--socket", str(place))
    daemon.terminate()
    await daemon.wait()
    lines = text.stdout.decode()
    assert text.returncode == 1
    assert f"{tmp_path}/none.sock, DEGRADED: " in lines
    assert "\n                  -> Start Redis" in lines
    assert "attempts failed" in lines


async def test_without_a_daemon_it_is_to_be_tried_later(nowhere, finished):
    done = await finished("status", "--socket", str(nowhere))
    assert done.returncode == 75
    assert f"{nowhere} (no such file)" in done.stderr.decode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "does not answer (connection closed)"),
        (b"HTTP/1.1 400 Bad Request\n", "is not a message of the daemon"),
        (b"[1]\n", "is not a message of the daemon"),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {"contents": []}}\n', "does not tell"),
        (b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "later"}}\n', "later (-32000)"),
    ],
)
async def test_an_answer_that_is_no_report_is_told(place, accept, redstreamd, answer, words):
    process = await redstreamd("status", "--socket", str(place))
    daemon = await accept()
    await received(daemon)
    await daemon.send_all(answer)
    await daemon.aclose()
    assert await process.wait() == 75
    assert words in (await read_all(process.stderr)).decode()


@pytest.mark.parametrize(
    ("redis", "code", "words"),
    [
        ({"ping": {"answered": True, "seconds": 0.001}, "troubles": []}, 0, ["answers in 1.0 ms"]),
        # As a daemon says it that was not restarted since an upgrade.
        ({"ping": {"answered": True, "seconds": 0.001}}, 0, ["answers in 1.0 ms"]),
        (
            {
                "ping": {"answered": True, "seconds": 0.001},
                "troubles": [
                    {"cause": "no bulk", "next_step": "A"},
                    {"cause": "no writes", "next_step": "B"},
                ],
            },
            1,
            ["DEGRADED: no bulk", "-> A", "no writes", "-> B"],
        ),
        (
            {
                "ping": {"answered": False, "cause": "no answer"},
                "troubles": [{"cause": "no bulk", "next_step": "A"}],
            },
            1,
            ["DEGRADED: no bulk", "no answer"],
        ),
        (
            {
                "topology": "cluster",
                "ping": {"answered": False, "cause": "n:2: refused"},
                "troubles": [{"cause": "n:2: no commands", "next_step": "Start it."}],
                "nodes": [
                    {
                        "address": "n:1",
                        "ping": {"answered": True, "seconds": 0.001},
                        "connections": {
                            "command": {"connected": True, "for_seconds": 1, "server": "redis 7.0.15"}
                        },
                    },
                    {
                        "address": "n:2",
                        "ping": {"answered": False, "cause": "refused"},
                        "connections": {
                            "command": {
                                "connected": False,
                                "for_seconds": 1,
                                "cause": "refused",
                                "failed_attempts": 3,
                            }
                        },
                    },
                ],
            },
            1,
            [
                "DEGRADED: n:2: no commands",
                "n:1: answers in 1.0 ms",
                "n:2: does not answer",
                "3 attempts failed",
            ],
        ),
    ],
)
async def test_everything_that_is_wrong_with_redis_is_listed(place, accept, redstreamd, redis, code, words):
    report = {
        "redstreamd": "1",
        "process": dict.fromkeys(("pid", "uptime_seconds", "memory_bytes", "cpu_seconds", "descriptors"), 1),
        "redis": {"address": "r:1", "connections": {}, **redis},
        "waiting": {"tracking": False, "watches": 0, "keys": 0},
        "subscriptions": {"subscriptions": 0, "topics": 0},
    }
    content = {"uri": "redstream://health", "text": json.dumps(report)}
    answer = {"jsonrpc": "2.0", "id": 1, "result": {"contents": [content]}}
    process = await redstreamd("status", "--socket", str(place))
    daemon = await accept()
    await received(daemon)
    await daemon.send_all(json.dumps(answer).encode() + b"\n")
    await daemon.aclose()
    assert await process.wait() == code
    text = (await read_all(process.stdout)).decode()
    for word in words:
        assert word in text


def test_those_who_use_most_are_listed():
    busy = {"principal": "unix", "user": "uid 1000", "process": "pid 7", "connections": 2}
    busy |= {"share": 0.4321, "running": 3, "queued": 8}
    assert busy_text(busy) == (
        "pid 7 (uid 1000, unix, 2 connections): 43.2% of a core, 3 commands at Redis, 8 waiting"
    )
    assert busy_text(busy | {"process": "::1", "connections": 1}).startswith(
        "::1 (uid 1000, unix, 1 connection):"
    )


CLIENTS = {
    "connections": 5,
    "accepted": 9,
    "refused": 0,
    "crashed": 0,
    "requests_in_flight": 0,
    "limit": 4096,
    "max_connections": 4096,
    "full": None,
    "holders": [{"connections": 1, "pid": 7, "process": None, "address": None}],
}
NODE = {"connections": 3, "pid": 4711, "process": "node", "address": None}


@pytest.mark.parametrize(
    ("clients", "lines"),
    [
        ({}, []),
        ({"holders": [NODE, *CLIENTS["holders"]]}, ["most are held by process 4711 (node): 3, process 7: 1"]),
        (
            {
                "full": "connections",
                "holders": [{"connections": 1, "pid": 0, "process": None, "address": None}],
            },
            [
                f"as many as can be (limits.max_connections): {FULL}",
                "most are held by an unknown process: 1",
            ],
        ),
        (
            {
                "full": "descriptors",
                "limit": 64,
                "holders": [{"connections": 5, "pid": None, "process": None, "address": "::1"}],
            },
            [
                f"as many as can be (the limit of file descriptors): {FULL}",
                "room for 64 of 4096, for want of file descriptors",
                f"-> Raise {RAISED} to 4400, or lower {setting('limits.max_connections')}.",
                "most are held by ::1: 5",
            ],
        ),
    ],
)
def test_the_bounds_of_connections_are_told_where_they_matter(clients, lines):
    assert [*connection_bounds({**CLIENTS, **clients})] == lines


def test_an_older_daemon_tells_nothing_of_bounds():
    older = {name: CLIENTS[name] for name in ("connections", "accepted", "refused", "requests_in_flight")}
    assert [*connection_bounds(older)] == []


def test_each_of_several_processes_is_named():
    two = [
        {"instance": "", "pid": 7, "connections": 101},
        {"instance": "2", "pid": 9, "connections": 99},
    ]
    lines = [(each.name, each.text) for each in process_lines({"processes": two}, 9)]
    assert lines == [
        ("processes", "main: process 7, 101 connected"),
        ("", "instance 2: process 9, 99 connected, which answers"),
    ]
    # One that has its sockets to itself is named by the first line alone.
    assert list(process_lines({"processes": two[:1]}, 7)) == []
    assert list(process_lines({}, 7)) == []

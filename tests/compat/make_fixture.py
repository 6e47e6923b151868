"""Makes the data of a release as a fixture: an RDB file, the lease key, and what the daemon answered.

Run from the checkout of the release whose data is to be kept, with Redis 6.2 built by .ci/redis62 (every
server that is supported reads its format):

    .venv/bin/python -m tests.compat.make_fixture tests/compat/data/0.1.0

The real daemon writes everything over its socket; what a program outside redstreamd leaves behind is written
by Redis commands. Nothing is edited afterwards, but for one thing: keys that expire lose their expiry just
before the save, since an RDB file holds times of day and a later load would drop them. The sidecar file keeps
what each had left, and `tests.compat.old_data` gives it back on load. Due times are kept as they are, and are
moved on load by the time since the save.

The sidecar, calls.json:
    release, server: Who wrote the data.
    saved_at: The server's time in milliseconds at the save.
    ttl: Key -> milliseconds it had left, for keys that expire.
    principal: Whose leases, keys and replies these are.
    calls: Name -> {tool, arguments, answer}, in the order in which they were made.
    stored: Name -> entry ID, for entries that a program outside redstreamd added.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from redstreamd import __version__
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.server_clock import milliseconds, next_millisecond
from tests.support.servers import Server, start_redis62

#: One entry for each thing that the format of entries tells apart.
SHAPES: dict[str, dict[str, Any]] = {
    "text": {
        "plain": "text",
        "empty": "",
        "unicode": "sp\u00e4\u00dfe \U0001f680 \u2028",
        "lines": "a\nb\r\n\x00c",
    },
    "like_json": {"number": "1", "list": "[1]", "string": '"x"', "null": "null", "bool": "true"},
    "numbers": {"zero": 0, "minus": -1, "half": -1.5, "large": 2**53 - 1, "tiny": 1e-7, "huge": 1e300},
    "values": {
        "true": True,
        "false": False,
        "null": None,
        "list": [1, "a", [], {}],
        "object": {"b": {"a": [None]}},
    },
    "empty": {},
    "names": {"": "no name", "with space": 1, "\u00fc": "u", "{brace}": "x", "a%b": "y"},
    "reserved": {"_rs.v": "2", "_rs.sender": "nobody", "_rs.json": ["a"], "_rs.=x": 1, "_rs.dead": {"a": 1}},
}
#: More fields than a script copies into a dead letter.
TOO_MANY_FIELDS = 3501


class Recorder:
    """Calls tools of one daemon and keeps what it answered."""

    def __init__(self, daemon: Daemon, server: Server) -> None:
        self.daemon = daemon
        self.server = server
        self.calls: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, str] = {}

    def __call__(self, name: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed, keep the answer under `name` and return it."""
        result = self.daemon.call(tool, **arguments)
        assert not result.get("isError"), (name, result)
        answer: dict[str, Any] = result.get("structuredContent") or {}
        assert name not in self.calls
        self.calls[name] = {"tool": tool, "arguments": arguments, "answer": answer}
        return answer

    def add(self, name: str, stream: str, *entries: dict[str, Any], **more: Any) -> list[str]:
        """Add entries and return their IDs."""
        ids: list[str] = self(name, "stream_add", stream=stream, entries=list(entries), **more)["ids"]
        return ids

    def take(self, name: str, stream: str, consumer: str, **more: Any) -> dict[str, Any]:
        """Take from the group that all use, and return the answer."""
        return self(name, "work_take", stream=stream, group="workers", consumer=consumer, **more)


def tasks(*names: str) -> list[dict[str, Any]]:
    """Return entries that are told apart by name."""
    return [{"task": name, "parts": [1, 2]} for name in names]


def write(record: Recorder) -> None:
    """Write all the cases; each has streams of its own."""
    for case in (entries, leases, returned, dead_letters, outsiders, repetitions, requests, cursors):
        case(record)
    # Last, so that the shortest leases have run out by then.
    run_out = milliseconds(record.server) + 1100
    while milliseconds(record.server) <= run_out:
        time.sleep(0.05)


def entries(record: Recorder) -> None:
    """Entries of every shape, ours and others'."""
    stream = "compat:entries:all"
    for name, shape in SHAPES.items():
        record.add(f"entries.{name}", stream, shape)
    record.add(
        "entries.stamped", stream, {"a": 1}, correlation_id="corr \u00e4", reply_to="compat:entries:replies"
    )
    record("entries.red_stream", "add_stream_message", stream=stream, message={"from": "red-stream", "n": 1})
    foreign: dict[str, tuple[str | bytes, ...]] = {
        "foreign": ("order", "1", "note", "by hand"),
        "repeated": ("a", "1", "b", "2", "a", "3"),
        "binary": ("raw", b"\xff\x00\xfe", "text", "t"),
        "claims": ("_rs.sender", "not stamped", "_rs.json", "[]"),
        "lies": ("_rs.v", "1", "_rs.json", '["a"]', "a", "{not json"),
    }
    for name, fields in foreign.items():
        record.stored[f"entries.{name}"] = record.server.command("XADD", stream, "*", *fields).decode()
    record("entries.read", "stream_read", stream=stream, count=100)


def leases(record: Recorder) -> None:
    """Leases that run, and leases that ran out."""
    record.add("running.add", "compat:work:running", *tasks("a", "b", "c", "d"))
    record.take(
        "running.take", "compat:work:running", "alice", count=4, lease_seconds=3600, idempotency_key="take-1"
    )
    record.add("resume.add", "compat:work:resume", *tasks("a", "b"))
    record.take("resume.take", "compat:work:resume", "alice", count=2, lease_seconds=3600)
    record.add("expired.add", "compat:work:expired", *tasks("a", "b"))
    record.take("expired.take", "compat:work:expired", "alice", count=2, lease_seconds=1)
    record.add("finished.add", "compat:work:finished", *tasks("a"))
    taken = record.take("finished.take", "compat:work:finished", "alice")
    record("finished.done", "work_done", lease=taken["lease"])


def returned(record: Recorder) -> None:
    """Entries that were given back: put off, released, left by a removed consumer."""
    stream = "compat:work:putoff"
    record.add("putoff.add", stream, *tasks("later", "soon"))
    taken = record.take("putoff.take", stream, "alice", count=2, lease_seconds=60)
    later, soon = (entry["id"] for entry in taken["entries"])
    give_back = {"lease": taken["lease"], "action": "retry"}
    record(
        "putoff.later",
        "work_fail",
        **give_back,
        entry_ids=[later],
        delay_seconds=600,
        reason="not yet \u00e4",
    )
    record("putoff.soon", "work_fail", **give_back, entry_ids=[soon], delay_seconds=1, reason="in a moment")

    stream = "compat:work:released"
    record.add("released.add", stream, *tasks("a"))
    taken = record.take("released.take", stream, "alice")
    record("released.fail", "work_fail", lease=taken["lease"], action="release", reason="busy")

    stream = "compat:work:removed"
    record.add("removed.add", stream, *tasks("a"))
    record.take("removed.take", stream, "alice", lease_seconds=3600)
    record(
        "removed.consumer",
        "group_manage",
        stream=stream,
        group="workers",
        action="remove_consumer",
        consumer="alice",
        pending="release",
        dry_run=False,
    )


def dead_letters(record: Recorder) -> None:
    """Dead letters with and without a history, one of them too large to be copied; and one that is to be."""
    stream = "compat:work:dead"
    record.add("dead.add", stream, *tasks("worn out", "refused"), correlation_id="c-1")
    for attempt, reason in enumerate(("first", "second")):
        # What is released comes due within a millisecond.
        next_millisecond(record.server)
        taken = record.take(f"dead.take{attempt}", stream, "alice", count=1, max_deliveries=2)
        record(f"dead.fail{attempt}", "work_fail", lease=taken["lease"], action="release", reason=reason)
    taken = record.take("dead.take2", stream, "bob", count=1)
    record("dead.refuse", "work_fail", lease=taken["lease"], action="dead_letter", reason="cannot be done")
    record("dead.list", "dead_letter_replay", stream=stream, group="workers")

    stream = "compat:work:last"
    record.add("last.add", stream, *tasks("a"))
    taken = record.take("last.take0", stream, "alice", max_deliveries=2)
    record("last.fail", "work_fail", lease=taken["lease"], action="release", reason="once")
    next_millisecond(record.server)
    record.take("last.take1", stream, "bob", max_deliveries=2, lease_seconds=1)

    stream = "compat:work:large"
    many = ("f", "") * TOO_MANY_FIELDS
    record.stored["large"] = record.server.command("XADD", stream, "*", *many).decode()
    # Not kept: the answer repeats all of them.
    taken = record.daemon.call("work_take", stream=stream, group="workers", consumer="alice")[
        "structuredContent"
    ]
    record("large.fail", "work_fail", lease=taken["lease"], action="dead_letter", reason="too large")


def outsiders(record: Recorder) -> None:
    """Another program that works on the same group, and died an hour ago with an entry."""
    stream = "compat:work:foreign"
    ids = record.add("foreign.add", stream, *tasks("theirs", "new"))
    record("foreign.group", "group_create", stream=stream, group="workers")
    server = record.server
    server.command("XREADGROUP", "GROUP", "workers", "cli", "COUNT", 1, "STREAMS", stream, ">")
    server.command(
        "XCLAIM", stream, "workers", "cli", 0, ids[0], "IDLE", 3_600_000, "RETRYCOUNT", 3, "JUSTID"
    )


def repetitions(record: Recorder) -> None:
    """Records of calls that may be repeated."""
    stream = "compat:repeated:adds"
    record.add("repeated.add", stream, *SHAPES.values(), idempotency_key="add-1")
    record.add(
        "repeated.stamped",
        stream,
        {"a": 1},
        idempotency_key="add \u00e4 {2}",
        correlation_id="c",
        reply_to="r:r:r",
    )
    record.add("repeated.trimmed", stream, {"a": 2}, idempotency_key="add-3", max_length=1000)


def requests(record: Recorder) -> None:
    """Requests: one that was answered, one under work, and one with a reply stream of the caller's."""
    stream = "compat:requests:answered"
    asked = {"stream": stream, "entry": {"question": "six times seven"}, "correlation_id": "q-1"}
    record("answered.ask", "request_reply", **asked, timeout_seconds=0)
    taken = record.take("answered.take", stream, "alice", lease_seconds=3600)
    record("answered.done", "work_done", lease=taken["lease"], reply={"answer": 42})

    stream = "compat:requests:open"
    record(
        "open.ask", "request_reply", stream=stream, entry={"q": 1}, idempotency_key="ask-1", timeout_seconds=0
    )
    record.take("open.take", stream, "alice", lease_seconds=3600)

    stream = "compat:requests:own"
    asked = {
        "stream": stream,
        "entry": {"q": 2},
        "correlation_id": "q-2",
        "reply_to": "compat:requests:replies",
    }
    record("own.ask", "request_reply", **asked, timeout_seconds=0)
    record.take("own.take", stream, "alice", lease_seconds=1)


def cursors(record: Recorder) -> None:
    """Cursors with something behind them."""
    first, second = "compat:cursors:first", "compat:cursors:second"
    begun = record("cursors.begin", "stream_wait", streams=[first, second], timeout_seconds=0)["next_cursor"]
    record.add("cursors.first", first, *({"n": n} for n in range(4)))
    record.add("cursors.second", second, *({"n": n} for n in range(10, 12)))
    record("cursors.read", "stream_read", stream=first, count=2)
    record("cursors.backward", "stream_read", stream=first, count=2, direction="backward")
    record("cursors.wait", "stream_wait", streams=[first, second], cursor=begun, count=3, timeout_seconds=0)
    record("cursors.list", "stream_list", pattern="compat:cursors:*", count=1)
    record.take("cursors.take", first, "alice", count=3, lease_seconds=3600)
    record("cursors.pending", "pending_list", stream=first, group="workers", count=1)
    record("cursors.dead", "dead_letter_replay", stream="compat:work:dead", group="workers", count=1)


def save(record: Recorder, directory: Path) -> dict[str, Any]:
    """Save the data into `directory` and return what the sidecar says besides the calls."""
    server = record.server
    ttl: dict[str, int] = {}
    for key in sorted(server.command("KEYS", "*")):
        left = server.command("PTTL", key)
        if left >= 0:
            ttl[key.decode()] = left
            assert server.command("PERSIST", key) == 1
    saved_at = milliseconds(server)
    assert server.command("SAVE") == b"OK"
    shutil.copy(server.directory / "dump.rdb", directory / "dump.rdb")
    version = server.command("INFO", "server").decode().split("redis_version:")[1].split()[0]
    return {"release": __version__, "server": f"Redis {version}", "saved_at": saved_at, "ttl": ttl}


def main(directory: Path) -> None:
    """Make the fixture in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    profile = {"REDSTREAMD_TOOLS_PROFILE": "operator,red-stream"}
    with (
        start_redis62() as server,
        home() as place,
        running_daemon(server, directory=place, **profile) as daemon,
    ):
        record = Recorder(daemon, server)
        write(record)
        about = save(record, directory)
        shutil.copy(place / "state" / "redstreamd" / "lease.key", directory / "lease.key")
    sender = record.calls["entries.read"]["answer"]["entries"][0]["sender"]
    about |= {"principal": sender, "stored": record.stored}
    # A line for each call, so that a change shows as one.
    calls = ",\n".join(f"{json.dumps(name)}: {json.dumps(call)}" for name, call in record.calls.items())
    text = f'{json.dumps(about, indent=1)[:-2]},\n "calls": {{\n{calls}\n}}}}\n'
    (directory / "calls.json").write_text(text, "utf-8")
    (directory / "lease.key").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A daemon does all that touches content: no value is in Redis, its files, the daemon's log or an error."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from redstreamd.presentation.uris import entry_uri, field_uri, stream_uri
from tests.encryption.marks import Marks, Monitor, files_of, open_redis
from tests.encryption.rings import KeyDirectory
from tests.support.daemon import Daemon, home, read_resource, request, running_daemon
from tests.support.servers import Server

RULES = ("open:* are clear", "*:hidden are encrypted with names except kind", "* are encrypted except kind")
SETTINGS = """
[daemon]
log_level = "debug"
access_log = true
[tools]
profile = ["operator", "red-stream"]
[leases]
max_deliveries = 3
[policy]
rules = [
  "* may read publish consume manage on open:* shop:orders*",
  "* may read submit consume manage on shop:new*",
]
"""
STREAMS = ("shop:orders:paid", "shop:orders:hidden")


@attrs.define
class Story:
    """A daemon, its Redis, and what clients said and were told."""

    server: Server
    monitor: Monitor
    daemon: Daemon
    secret: Marks = attrs.field(factory=Marks)
    shown: Marks = attrs.field(factory=Marks)
    errors: list[str] = attrs.field(factory=list)

    def entry(self, stream: str) -> dict[str, Any]:
        mark = self.secret.text
        members = {
            "kind": self.shown.text(),
            "text": mark(),
            "number": self.secret.number(),
            "list": [[mark()], None],
        }
        return members | (
            {mark(): {mark(): mark()}} if stream.endswith("hidden") else {"object": {mark(): mark()}}
        )

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = self.daemon.call(tool, **arguments)
        assert not result["isError"], result["content"]
        content: dict[str, Any] = result.get("structuredContent", {})
        return content

    def refused(self, tool: str, **arguments: Any) -> str:
        """Make a call that fails, keep what it is told, and return the code."""
        result = self.daemon.call(tool, **arguments)
        assert result["isError"], result
        self.errors.append(json.dumps(result))
        code: str = result["structuredContent"]["code"]
        return code

    def line(self, line: bytes) -> None:
        """Send a line that is no request, and keep the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self.daemon.path)
            connection.sendall(line + b"\n")
            self.errors.append(connection.recv(1 << 16).decode())


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    ring = KeyDirectory(tmp_path / "keys", "first")
    file = tmp_path / "redstreamd.toml"
    file.write_text(SETTINGS + ring.section("first", *RULES))
    with (
        open_redis() as (server, monitor),
        home() as directory,
        running_daemon(server, "--config", str(file), directory=directory) as daemon,
    ):
        server.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
        yield Story(server, monitor, daemon)


def add_read_and_filter(story: Story, stream: str) -> None:
    entries = [story.entry(stream) for _ in range(5)]
    ids = story.call("stream_add", stream=stream, entries=entries[:1])["ids"]
    key = {"idempotency_key": f"once for {stream}"}
    ids += story.call("stream_add", stream=stream, entries=entries[1:4], **key)["ids"]
    assert story.call("stream_add", stream=stream, entries=entries[1:4], **key)["duplicate"]
    told = story.daemon.call("add_stream_message", stream=stream, message=entries[4])
    ids.append(json.loads(told["content"][0]["text"])["id"])
    read = story.call("stream_read", stream=stream)
    assert [each["fields"] for each in read["entries"]] == entries
    found = story.call("stream_read", stream=stream, filter={"kind": entries[2]["kind"]})
    assert [each["id"] for each in found["entries"]] == ids[2:3]
    for filtered in (
        {"text": entries[0]["text"]},
        {"kind": entries[0]["kind"], "number": entries[0]["number"]},
    ):
        story.refused("stream_read", stream=stream, filter=filtered)
        story.refused("stream_wait", streams=[stream], filter=filtered, timeout_seconds=0)
    assert "'text'" in story.errors[-4]
    assert "'number'" in story.errors[-1]
    # Other entries under the same key, and what cannot be an entry at all.
    story.refused("stream_add", stream=stream, entries=entries[:2], **key)
    story.refused(
        "stream_add", stream=stream, entries=[entries[0] | {"text": story.secret.text() + "\ufffe"}]
    )
    story.refused("stream_add", stream=stream, entries=[entries[0] | {"number": 1 << 60}])
    many = {str(n): story.secret.text() for n in range(1_001)}
    story.refused("stream_add", stream=stream, entries=[many])
    story.refused("stream_add", stream=stream, entries=[story.secret.text()])
    whole = read_resource(story.daemon.path, entry_uri(stream, ids[0]))
    assert story.secret.found_in(json.dumps(whole))
    assert story.secret.found_in(json.dumps(read_resource(story.daemon.path, stream_uri(stream))))
    assert story.secret.found_in(
        json.dumps(read_resource(story.daemon.path, field_uri(entry_uri(stream, ids[0]), "list")))
    )


def work_and_fail(story: Story, stream: str) -> None:
    place = {"stream": stream, "group": "g"}
    reasons = [story.secret.text() + "x" * length for length in (0, 100, 1_900)]
    for reason in reasons:
        taken = story.call("work_take", **place, consumer="c", count=2)
        assert all(story.secret.found_in(json.dumps(each["fields"])) for each in taken["entries"])
        failed = story.call("work_fail", lease=taken["lease"], action="release", reason=reason)
    assert len(failed["dead_lettered"]) == 2
    listed = story.call("dead_letter_replay", **place)
    for letter in listed["entries"]:
        assert letter["dead_letter"]["reason"] == reasons[2]
        assert [each["reason"][:100] for each in letter["dead_letter"]["history"]] == [
            each[:100] for each in reasons[: len(letter["dead_letter"]["history"])]
        ]
        assert story.secret.found_in(json.dumps(letter["fields"]))
    replayed = story.call("dead_letter_replay", **place, action="replay", dry_run=False, count=1)
    again = story.call("stream_read", stream=stream, start=replayed["replayed"][0]["new_id"])
    assert again["entries"][0]["fields"] == listed["entries"][0]["fields"]
    taken = story.call("work_take", **place, consumer="c", count=100)
    # None of these has a reply_to.
    story.refused(
        "work_done",
        lease=taken["lease"],
        reply={"text": story.secret.text()},
        entry_ids=[taken["entries"][0]["id"]],
    )
    story.refused("work_done", lease="x", reply=story.entry(stream))
    story.call("work_done", lease=taken["lease"])


def ask_and_answer(story: Story, stream: str) -> None:
    question = {"stream": stream, "entry": story.entry(stream), "timeout_seconds": 0}
    asked = story.call("request_reply", **question, correlation_id="q")
    taken = story.call("work_take", stream=stream, group="answering", consumer="c", start=asked["request_id"])
    reply = story.entry(stream)
    story.call("work_done", lease=taken["lease"], reply=reply)
    answered = story.call("request_reply", **question, correlation_id="q")
    assert answered["reply"]["fields"] == reply
    story.refused(
        "request_reply",
        stream=stream,
        entry=story.entry(stream),
        timeout_seconds=0,
        correlation_id="q" * 9_000,
    )


def wait_in_quarantine(story: Story) -> None:
    stream = "shop:new:hidden"
    entries = [story.entry(stream) for _ in range(3)]
    for each in entries:
        story.call("stream_add", stream=stream, entries=[each], idempotency_key=f"k{entries.index(each)}")
    waiting = story.call("quarantine_release", stream=stream)
    assert [each["fields"] for each in waiting["entries"]] == entries
    ids = [each["id"] for each in waiting["entries"]]
    story.call("quarantine_release", stream=stream, action="discard", entry_ids=ids[:1], dry_run=False)
    story.call("quarantine_release", stream=stream, action="release", entry_ids=ids[1:], dry_run=False)
    read = story.call("stream_read", stream=stream)
    assert [each["fields"] for each in read["entries"]] == entries[1:]
    assert all(each["released"] for each in read["entries"])


def say_nonsense(story: Story) -> None:
    """Lines and arguments that are wrong, with values in them."""
    stream = STREAMS[0]
    entry = story.entry(stream)
    whole = request(1, "stream_add", {"stream": stream, "entries": [entry]}).rstrip()
    story.line(whole[:-2])
    story.line(whole.replace(b'"entries": [', b'"entries": [}'))
    story.line(whole.replace(b'"text": ', b'"text": "a", "text": '))
    story.refused("stream_add", stream=stream, entries=[entry], durability="x")
    story.refused("work_fail", lease="x", reason=[story.secret.text()])
    story.server.command("CONFIG", "SET", "maxmemory", "1")
    assert story.refused("stream_add", stream=stream, entries=[entry]) == "BACKEND_OUT_OF_MEMORY"
    story.server.command("CONFIG", "SET", "maxmemory", "0")
    story.server.command("SET", "shop:orders:none", "x")
    story.refused("stream_add", stream="shop:orders:none", entries=[entry])


def test_no_value_is_in_redis_its_files_the_log_or_an_error(story: Story) -> None:
    for stream in STREAMS:
        add_read_and_filter(story, stream)
        work_and_fail(story, stream)
        ask_and_answer(story, stream)
    wait_in_quarantine(story)
    say_nonsense(story)
    slow = repr(story.server.command("SLOWLOG", "GET", 1_000))
    monitored, files = story.monitor.shown(), files_of(story.server)
    # What dies tells where it was.
    story.daemon.process.send_signal(signal.SIGABRT)
    story.daemon.process.wait(30)
    log = "".join(
        each.read_text("utf-8", "replace") for each in story.daemon.directory.rglob("*") if each.is_file()
    )
    places = {"MONITOR": monitored, "RDB and AOF": files, "SLOWLOG": slow, "log and state": log}
    found = {name: story.secret.found_in(content) for name, content in places.items()}
    found |= {error: there for error in story.errors if (there := story.secret.found_in(error))}
    assert not any(found.values()), found
    # What stays clear is there, so the search finds what there is.
    assert all(story.shown.found_in(places[name]) for name in ("MONITOR", "RDB and AOF", "SLOWLOG"))
    assert len(story.errors) > 20
    # The log is not empty: it has the calls.
    assert log.count("stream_add") >= 10

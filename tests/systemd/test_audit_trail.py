"""In a real journal each call that destroys is found again, and the chain shows what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redstreamd.tools.argument_types import annotations_of
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from tests.support.waiting import wait_until
from tests.systemd.harness import PREFIX, Container
from tests.systemd.test_daemon import REDIS, SERVICE, SOCKET, Agent, drop_in, host, listening  # noqa: F401

STREAM = "jobs:test:s"
ON = {"stream": STREAM, "group": "g"}
#: Calls of every tool that may destroy, with each action that does.
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("stream_add", {"stream": STREAM, "entries": [{"n": 1}], "max_length": 50}),
    ("group_manage", {**ON, "action": "set_position", "start": "earliest"}),
    ("group_manage", {**ON, "action": "set_max_deliveries", "max_deliveries": 3}),
    ("group_manage", {**ON, "action": "remove_consumer", "consumer": "c", "pending": "lose"}),
    ("dead_letter_replay", {**ON, "action": "replay"}),
    ("dead_letter_replay", {**ON, "action": "delete"}),
    ("quarantine_release", {"stream": STREAM, "action": "release", "entry_ids": ["1-1"]}),
    ("quarantine_release", {"stream": STREAM, "action": "discard", "entry_ids": ["1-1"]}),
    ("stream_manage", {"stream": STREAM, "action": "trim", "max_length": 1, "force": True}),
    ("stream_manage", {"stream": STREAM, "action": "delete_entries", "entry_ids": ["1-1"]}),
    ("group_manage", {**ON, "action": "destroy", "delete_dead_letters": True}),
    ("stream_manage", {"stream": STREAM, "action": "delete", "force": True}),
]
SETTINGS = """
    [Service]
    Environment=REDSTREAMD_TOOLS_PROFILE=operator REDSTREAMD_DAEMON_AUDIT_CHAIN=true
    Environment=REDSTREAMD_DAEMON_ACCESS_LOG=true REDSTREAMD_DAEMON_LOG_LEVEL=error
    Environment="REDSTREAMD_POLICY_RULES=mcp may read publish consume manage on jobs:*"
"""


def found(container: Container, *matches: str) -> list[dict[str, Any]]:
    container.run("journalctl", "--sync")
    lines = container.run("journalctl", "--no-pager", "--output=json", "--all", *matches).stdout
    return [json.loads(line) for line in lines.splitlines()]


def verify(container: Container, export: bytes) -> tuple[int, str]:
    container.path("/run/export").write_bytes(export)
    key = "/var/lib/redstreamd/audit.key"
    command = (f"{PREFIX}/bin/redstreamd", "audit", "verify", "--key", key, "--to-end", "/run/export")
    done = container.run(*command, check=False)
    return done.returncode, done.stdout + done.stderr


def actions(tool: str) -> set[str]:
    effects = REGISTRY.get(tool).effects
    if effects.action is None:
        return {""}
    (literal, *_) = annotations_of(REGISTRY.get(tool).arguments)[effects.action].__args__
    return set(literal.__args__) - {"list"}


def test_every_way_to_destroy_is_tried() -> None:
    known = {each.name for each in REGISTRY.for_profiles([Profile.OPERATOR]) if each.effects.may_be_audited}
    assert known == {tool for tool, _ in CALLS} | {"work_done"}
    for tool in known - {"stream_add", "work_done"}:
        assert {arguments["action"] for name, arguments in CALLS if name == tool} == actions(tool)


@pytest.mark.limit(180)
def test_each_destructive_call_is_found_again_and_a_journal_that_was_changed_is_found_out(
    listening: Container,  # noqa: F811 - the fixture
) -> None:
    drop_in(listening, SETTINGS)
    listening.systemctl("start", REDIS)
    expected = []
    with Agent(listening) as agent:
        agent.settled("stream_list")
        agent.call("stream_add", stream=STREAM, entries=[{"secret": "s3cr3t"}, {"n": 2}])
        agent.call("group_create", **ON, start="earliest")
        lease = agent.call("work_take", **ON, consumer="c")["lease"]
        assert not agent.call("work_done", lease=lease, delete=True)["isError"]
        expected.append(("work_done", "delete"))
        agent.call("work_take", **ON, consumer="c")
        for tool, arguments in CALLS:
            dry = {} if tool == "stream_add" else {"dry_run": False}
            outcome = agent.call(tool, **arguments, **dry)
            assert not outcome["isError"], (tool, arguments, outcome)
            expected.append((tool, arguments.get("action", "max_length=50")))
        for _ in range(20):
            assert agent.call("stream_read", stream="others:test:s")["code"] == "PERMISSION_DENIED"
    listening.systemctl("restart", SERVICE)
    with Agent(listening) as agent:
        agent.settled("stream_list")
        gone = agent.call("stream_manage", stream=STREAM, action="delete", dry_run=False)
        assert gone["code"] == "STREAM_NOT_FOUND"
    expected.append(("stream_manage", "delete"))

    audited = ("REDSTREAMD_PRINCIPAL=mcp", "REDSTREAMD_EVENT=call_audited")
    # A record is written beside the answer.
    wait_until(lambda: len(found(listening, *audited)) >= len(expected))
    done = found(listening, *audited)
    told = [(each["REDSTREAMD_TOOL"], each["REDSTREAMD_ACTION"].split()[0]) for each in done]
    assert told == expected
    for each in done:
        assert each["REDSTREAMD_STREAM"] == STREAM
        assert each["_SYSTEMD_UNIT"] == SERVICE
        assert each["PRIORITY"] == "5"
        assert each["REDSTREAMD_CONNECTION"]
    refused = found(listening, "REDSTREAMD_EVENT=call_refused")
    assert [each.get("REDSTREAMD_REPEATS") for each in refused] == [None, "19"]
    assert found(listening, "REDSTREAMD_EVENT=call_served", "REDSTREAMD_TOOL=work_take")
    everything = listening.run("journalctl", "--no-pager", "--output=export").stdout
    assert "s3cr3t" not in everything
    explained = listening.run("journalctl", "-x", "--no-pager", f"MESSAGE_ID={done[0]['MESSAGE_ID']}").stdout
    assert "A client changed or removed what others rely on" in explained

    export = everything.encode()
    status, report = verify(listening, export)
    assert (status, "The chain is intact." in report) == (0, True), report
    entries = export.split(b"\n\n")
    place = next(number for number, each in enumerate(entries) if b"ACTION=destroy" in each)
    without = b"\n\n".join(entries[:place] + entries[place + 1 :])
    changed = export.replace(b"REDSTREAMD_ACTION=destroy", b"REDSTREAMD_ACTION=inspect")
    last = max(number for number, each in enumerate(entries) if b"REDSTREAMD_AUDIT_SEQ" in each)
    for tampered, complaint in (
        (without, "missing between"),
        (changed, "was changed or made up"),
        (b"\n\n".join(entries[:last] + entries[last + 1 :]), "The chain goes on to record"),
    ):
        status, report = verify(listening, tampered)
        assert (status, complaint in report) == (1, True), report
    # What somebody else writes into the journal in our name.
    forged = [
        f"{name}={value}"
        for name, value in done[-1].items()
        if name in ("MESSAGE", "MESSAGE_ID") or name.startswith("REDSTREAMD_")
    ]
    forged = [f"{each.partition('=')[0]}=group_manage" if "_TOOL=" in each else each for each in forged]
    listening.run("logger", "--journald", input="\n".join(forged) + "\n")
    listening.run("journalctl", "--sync")
    export = listening.run("journalctl", "--no-pager", "--output=export").stdout.encode()
    assert (export.count(b"REDSTREAMD_TOOL=group_manage"), verify(listening, export)[0]) == (
        everything.count("REDSTREAMD_TOOL=group_manage") + 1,
        1,
    )

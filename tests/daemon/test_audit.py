"""Who did that has an answer: records of a real daemon, found again, chained, and verified."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redstreamd.audit.access_log import BURST, CALLS_A_SECOND, SUMMARIES_A_SECOND
from tests.bench.access_log import FORM, ON, recorded, window
from tests.bench.peers import STREAM
from tests.support import preloaded
from tests.support.daemon import META, PROGRAM, Daemon, ask_line, clean_environment, home, running_daemon
from tests.support.servers import Server
from tests.support.waiting import wait_until

OPTIONS = (
    "--set=daemon.log_format=json",
    "--set=daemon.log_level=error",
    "--set=daemon.audit_chain=true",
    "--set=tools.profile=operator",
)
#: What the one principal of such a daemon may do.
RULES = "unix may read on open:*"


def records(directory: Path, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (directory / "log").read_text("utf-8").splitlines()]
    return [each for each in found if each["REDSTREAMD_EVENT"] == event]


def values(found: list[dict[str, Any]], *names: str) -> list[tuple[str | None, ...]]:
    return [tuple(each.get(f"REDSTREAMD_{name}") for name in names) for each in found]


def verify(directory: Path, *options: str, stdin: bytes | None = None) -> tuple[int, str]:
    done = preloaded.run(
        [PROGRAM, "audit", "verify", *options],
        input=stdin,
        env=clean_environment(directory),
        timeout=60,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def refused(ask: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError):
        ask()


def ask(daemon: Daemon, method: str, **params: Any) -> Any:
    """Make one request in the 2026-07-28 era."""
    line = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    return ask_line(daemon.path, json.dumps(line).encode() + b"\n", 30)


@pytest.mark.limit(90)
def test_what_was_done_is_found_and_the_chain_over_two_starts_shows_each_change(redis: Server) -> None:
    with home() as directory:
        with running_daemon(redis, *OPTIONS, directory=directory) as daemon:
            daemon.call("stream_add", stream="a:b:c", entries=[{"secret": "s3cr3t-value"}])
            daemon.call("stream_read", stream="a:b:c")
            daemon.call("group_create", stream="a:b:c", group="g", start="earliest")
            for number in range(5):
                daemon.call("stream_add", stream="a:b:c", entries=[{"n": number}], max_length=3)
            # Not a plain call: JSON as text goes the SDK's way.
            daemon.call("stream_manage", stream="a:b:c", action="trim", max_length="1", dry_run="false")
            daemon.call("group_manage", stream="a:b:c", group="g", action="destroy")
            daemon.call("group_manage", stream="a:b:c", group="g", action="destroy", dry_run=False)
            daemon.call("stream_manage", stream="a:b:c", action="delete", dry_run=False, force=True)
        with running_daemon(redis, *OPTIONS, directory=directory) as daemon:
            daemon.call("stream_manage", stream="none", action="delete", dry_run=False)
        done = records(directory, "call_audited")
        assert values(done, "TOOL", "ACTION", "OUTCOME", "REPEATS") == [
            ("stream_add", "max_length=3", "ok", None),
            ("stream_manage", "trim max_length=1", "INVALID_ARGUMENT", None),
            ("group_manage", "destroy", "ok", None),
            ("stream_manage", "delete force", "ok", None),
            ("stream_add", "max_length=3", "ok", "4"),
            ("stream_manage", "delete", "STREAM_NOT_FOUND", None),
        ]
        for each in done:
            assert each["REDSTREAMD_PRINCIPAL"] == "unix"
            assert int(each["REDSTREAMD_PEER_PID"]) > 0
            assert each["REDSTREAMD_CONNECTION"]
            assert each["PRIORITY"] == "5"
        assert done[2]["REDSTREAMD_GROUP"] == "g"
        assert done[-1]["REDSTREAMD_ERROR_CODE"] == "STREAM_NOT_FOUND"
        log = (directory / "log").read_bytes()
        assert b"s3cr3t-value" not in log
        # Nothing else, at this level.
        assert len(log.splitlines()) == 8
        status, report = verify(directory, "--to-end", str(directory / "log"))
        assert (status, "intact: records 1 to 8 (8)" in report) == (0, True), report
        lines = log.splitlines(keepends=True)
        for changed, complaint in (
            (lines[:3] + lines[4:], "Record 4 is missing"),
            ([*lines[:3], lines[3].replace(b"destroy", b"restore"), *lines[4:]], "Record 4 of"),
            (lines[:-1], "The chain goes on to record 8"),
            ([*lines, lines[2]], "Record 3 is there 2 times"),
        ):
            status, report = verify(directory, "--to-end", stdin=b"".join(changed))
            assert (status, complaint in report) == (1, True), report
        assert verify(directory, stdin=b"nonsense\0")[0] == 65
        assert verify(directory, "--key", str(directory / "none"))[0] == 66
        assert json.loads(verify(directory, "--json", str(directory / "log"))[1])["intact"]


@pytest.mark.limit(60)
def test_what_the_policy_refuses_is_recorded_once_and_counted_whatever_was_asked(redis: Server) -> None:
    with home() as directory:
        with running_daemon(redis, *OPTIONS, REDSTREAMD_POLICY_RULES=RULES, directory=directory) as daemon:
            for _ in range(50):
                assert daemon.call("stream_read", stream="secret:s")["isError"]
            refused(lambda: daemon.call("stream_manage", stream="open:s", action="delete"))
            for _ in range(3):
                refused(lambda: ask(daemon, "resources/read", uri="redstream://streams/secret%3As"))
            refused(
                lambda: ask(
                    daemon, "prompts/get", name="drain-a-queue", arguments={"stream": "open:s", "group": "g"}
                )
            )
        calls, requests = records(directory, "call_refused"), records(directory, "request_refused")
        assert values(calls, "TOOL", "STREAM", "REPEATS") == [
            ("stream_read", "secret:s", None),
            ("stream_manage", None, None),
            ("stream_read", "secret:s", "49"),
        ]
        assert set(values(requests, "METHOD", "REPEATS")) == {
            ("resources/read", None),
            ("resources/read", "2"),
            ("prompts/get", None),
        }
        assert set(values(calls + requests, "ERROR_CODE")) == {("PERMISSION_DENIED",)}
        assert verify(directory, str(directory / "log"))[0] == 0


def test_the_access_log_has_each_other_call_with_who_and_how_long(redis: Server) -> None:
    options = ("--set=daemon.log_format=json", "--set=daemon.access_log=true")
    with home() as directory:
        with running_daemon(redis, *options, directory=directory) as daemon:
            began = time.time()
            daemon.call("stream_add", stream="a:b:c", entries=[{"a": 1}])
            daemon.call("stream_wait", streams=["a:b:c"], cursor="9999999999999-0", timeout_seconds=0.2)
            daemon.call("stream_read", stream="none")
            wait_until(lambda: len(records(directory, "call_served")) == 3)
        added, waited, failed = records(directory, "call_served")
        assert added["REDSTREAMD_STREAM"] == "a:b:c"
        assert int(added["REDSTREAMD_BYTES"]) > 0
        assert 0.2 <= float(waited["REDSTREAMD_SECONDS"]) < time.time() - began
        assert (failed["REDSTREAMD_OUTCOME"], failed["REDSTREAMD_ERROR_CODE"]) == ("STREAM_NOT_FOUND",) * 2
        assert {each["PRIORITY"] for each in (added, waited, failed)} == {"7"}


@pytest.mark.limit(60)
def test_under_load_each_call_is_in_some_record_and_records_are_few(redis: Server) -> None:
    with home() as directory:
        with running_daemon(redis, FORM, ON, directory=directory) as daemon:
            began = time.monotonic()
            for _ in range(3):
                window(daemon, depth=16, seconds=0.5)
            seconds = time.monotonic() - began
        written, told = recorded(directory)
    assert told == redis.command("XLEN", STREAM)
    assert written <= BURST + (CALLS_A_SECOND + SUMMARIES_A_SECOND) * (seconds + 1)

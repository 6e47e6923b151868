"""The TypeScript SDK's client, which most clients are built on, through `redstreamd connect`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM, Daemon
from tests.support.node import BIN

SCRIPT = Path(__file__).with_name("typescript_client.mjs")


@pytest.fixture(scope="module")
def seen(typescript_sdk: Path, daemon: Daemon) -> Any:
    """What the script's client saw."""
    done = subprocess.run(
        [BIN / "node", SCRIPT, typescript_sdk, PROGRAM, daemon.path],
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_results_hold_against_their_output_schemas(seen: Any) -> None:
    assert {"stream_add", "stream_read", "stream_wait", "stream_list", "work_done"} <= set(seen["checked"])
    (entry,) = seen["read"]["entries"]
    assert [entry["id"]] == seen["added"]["ids"]
    assert entry["fields"] == {"n": 1}


def test_a_failed_call_is_shown_as_we_worded_it(seen: Any) -> None:
    # The client checks failures against the output schema, too.
    assert seen["failed"]["isError"]
    assert seen["failed"]["structuredContent"]["code"] == "INVALID_ARGUMENT"
    assert "Next step: " in seen["failed"]["content"][0]["text"]


def test_a_subscriber_is_told_of_a_new_entry_and_can_read_it(seen: Any) -> None:
    assert seen["updated"] == "redstream://streams/ts%3Aa%3Ab"
    assert seen["lastEntryId"] > seen["added"]["ids"][0]


def test_a_wait_reports_progress_and_then_answers(seen: Any) -> None:
    assert 0 < seen["progress"]["progress"] < seen["progress"]["total"] == 120
    assert [entry["fields"] for entry in seen["waited"]["entries"]] == [{"n": 3}]


def test_a_cancelled_wait_ends_in_the_daemon_too(seen: Any) -> None:
    assert "had enough" in seen["abandoned"]
    assert seen["inFlight"] == 1

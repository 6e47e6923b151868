"""The TypeScript SDK's client, which most clients are built on, through the bridge and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM
from tests.support.http_daemon import HttpDaemon
from tests.support.node import BIN
from tests.support.servers import Server

SCRIPT = Path(__file__).with_name("typescript_client.mjs")


OVER_HTTP = pytest.mark.parametrize("seen", ["HTTP", "HTTP with a token"], indirect=True)
ON_EACH_WAY = pytest.mark.parametrize("seen", ["bridge", "HTTP", "HTTP with a token"], indirect=True)


@pytest.fixture(scope="module")
def seen(request: pytest.FixtureRequest, redis_server: Server, typescript_sdk: Path) -> Any:
    """What the script's client saw."""
    redis_server.flush()
    words: list[str | Path]
    variables = {}
    if request.param == "bridge":
        words = [PROGRAM, "connect", "--socket", request.getfixturevalue("daemon").path]
    else:
        http: HttpDaemon = request.getfixturevalue("http" if request.param == "HTTP" else "guarded_http")
        words = [http.url]
        if request.param != "HTTP":
            words.append("BUS_TOKEN")
            variables["BUS_TOKEN"] = request.getfixturevalue("token")
    done = subprocess.run(
        [BIN / "node", SCRIPT, typescript_sdk, *words],
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@ON_EACH_WAY
def test_results_hold_against_their_output_schemas(seen: Any) -> None:
    assert {"stream_add", "stream_read", "stream_wait", "stream_list", "work_done"} <= set(seen["checked"])
    (entry,) = seen["read"]["entries"]
    assert [entry["id"]] == seen["added"]["ids"]
    assert entry["fields"] == {"n": 1}


@ON_EACH_WAY
def test_a_failed_call_is_shown_as_we_worded_it(seen: Any) -> None:
    # The client checks failures against the output schema, too.
    assert seen["failed"]["isError"]
    assert seen["failed"]["structuredContent"]["code"] == "INVALID_ARGUMENT"
    assert "Next step: " in seen["failed"]["content"][0]["text"]


@ON_EACH_WAY
def test_a_subscriber_is_told_of_a_new_entry_and_can_read_it(seen: Any) -> None:
    assert seen["updated"] == "redstream://streams/ts%3Aa%3Ab"
    assert seen["lastEntryId"] > seen["added"]["ids"][0]


@ON_EACH_WAY
def test_a_wait_reports_progress_and_then_answers(seen: Any) -> None:
    assert 0 < seen["progress"]["progress"] < seen["progress"]["total"] == 120
    assert [entry["fields"] for entry in seen["waited"]["entries"]] == [{"n": 3}]


@ON_EACH_WAY
def test_a_cancelled_wait_ends_in_the_daemon_too(seen: Any) -> None:
    assert "had enough" in seen["abandoned"]
    assert seen["inFlight"] == 1


@OVER_HTTP
def test_a_cut_connection_is_no_loss_and_a_session_that_was_ended_is_unknown(seen: Any) -> None:
    assert [entry["fields"] for entry in seen["resumed"]["entries"]] == [{"n": 4}]
    assert seen["updatedAfterCut"] == "redstream://streams/ts%3Aa%3Ab"
    assert seen["afterDelete"] == 404

"""The commands together, over the real daemon with its embedded server."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
import trio

from tests.cli.conftest import read_all
from tests.support.servers import valkey_binary

pytestmark = pytest.mark.limit(60)


async def ready(process: trio.Process) -> None:
    """Read what a started daemon says until it names the next step."""
    said = b""
    while b"Ctrl-C stops it" not in said:
        chunk = await process.stdout.receive_some()
        assert chunk, f"the daemon ended: {said.decode()}"
        said += chunk


async def test_entries_called_in_are_there_after_ctrl_c_and_a_restart(place, redstreamd, finished):
    valkey_binary()
    serve = ("serve", "--embedded", "--listen", f"unix:{place}")
    call = ("call", "--socket", str(place))
    # Like a terminal: Ctrl-C goes to the whole foreground group.
    daemon = await redstreamd(*serve, start_new_session=True, stderr=subprocess.STDOUT)
    await ready(daemon)
    added = await finished(*call, "stream_add", '{"stream": "a:b:c", "entries": [{"text": "é"}]}')
    assert added.returncode == 0, added.stderr
    os.killpg(daemon.pid, signal.SIGINT)
    await read_all(daemon.stdout)
    assert await daemon.wait() == 0

    daemon = await redstreamd(*serve, stderr=subprocess.STDOUT)
    await ready(daemon)
    page = await finished(*call, "stream_read", '{"stream": "a:b:c"}')
    assert [entry["fields"] for entry in json.loads(page.stdout)["entries"]] == [{"text": "é"}]
    daemon.terminate()
    await read_all(daemon.stdout)
    assert await daemon.wait() == 0


async def test_a_second_daemon_on_the_same_state_is_refused_and_the_bridge_reaches_the_first(
    place, redstreamd, finished
):
    valkey_binary()
    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "a client", "version": "1"},
        },
    }
    daemon = await redstreamd("serve", "--embedded", "--listen", f"unix:{place}", stderr=subprocess.STDOUT)
    await ready(daemon)
    second = await finished("serve", "--embedded", "--listen", f"unix:{place}-2")
    # It is to be tried later.
    assert second.returncode == 75
    assert f"process {daemon.pid} is using the state directory" in second.stderr.decode()
    line = json.dumps(opening).encode() + b"\n"
    bridged = await finished("connect", "--socket", str(place), stdin=line)
    assert (bridged.returncode, bridged.stderr) == (0, b"")
    assert json.loads(bridged.stdout)["result"]["serverInfo"]["name"] == "redstreamd"
    daemon.terminate()
    await read_all(daemon.stdout)
    assert await daemon.wait() == 0

"""The bridge ends with its client, and not before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.clients.bridged_client import bridge_words
from tests.clients.restarted_host import Host
from tests.support.daemon import request
from tests.support.waiting import wait_until

#: A client that starts a process which inherits all its descriptors, as a fork does, and prints its number.
CLIENT = """
import os, signal, sys
import trio
from mcp import Client, StdioServerParameters

async def main():
    async with Client(StdioServerParameters(command=sys.argv[1], args=sys.argv[2:])) as client:
        assert not (await client.call_tool("stream_list", {})).is_error
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            while True:
                signal.pause()
        print(child, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    # They are listed with the thread that started them.
    listed = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(each) for each in " ".join(listed).split()]


def runs(pid: int) -> bool:
    """Return whether a process has not ended; it may wait for its parent to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_ends_when_its_client_is_killed_though_another_process_holds_the_pipe(host: Host) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, *bridge_words(host.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        holder = None
        try:
            assert client.stdout is not None
            holder = int(client.stdout.readline())
            (bridge,) = {*children(client.pid)} - {holder}
            assert b"connect" in Path(f"/proc/{bridge}/cmdline").read_bytes().split(b"\0")
            pipe = Path(f"/proc/{bridge}/fd/0").readlink()
            client.kill()
            client.wait()
            wait_until(lambda: not runs(bridge))
            # It was not the end of the pipe that ended it.
            held = {each.readlink() for each in Path(f"/proc/{holder}/fd").iterdir()}
            assert pipe in held
        finally:
            client.kill()
            if holder is not None:
                os.kill(holder, signal.SIGKILL)
    # To the daemon it is gone, too: what is connected asks.
    wait_until(lambda: host.report["clients"]["connections"] == 1)


def test_it_goes_on_when_only_the_thread_that_started_it_ends(host: Host) -> None:
    """What the kernel calls the death of the parent is that of a thread (PR_SET_PDEATHSIG(2const))."""
    started: list[subprocess.Popen[bytes]] = []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    thread = threading.Thread(
        target=lambda: started.append(subprocess.Popen(bridge_words(host.path), **pipes))
    )
    thread.start()
    thread.join()
    with started[0] as bridge:
        try:
            assert bridge.stdin is not None
            assert bridge.stdout is not None
            for number in range(2):
                bridge.stdin.write(request(number, "stream_list", {}))
                bridge.stdin.flush()
                assert json.loads(bridge.stdout.readline())["id"] == number
            bridge.stdin.close()
            assert bridge.wait(timeout=120) == 0
        finally:
            bridge.kill()

"""The kernel's OOM killer ends the embedded server: a real kill, in a control group of the test's own.

Needs control groups that can be written to. Where they cannot, the reading of recorded files shows what
is made of the kernel's counters (tests/service/test_oom_detection.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from redstreamd.service.embedded.process_lock import listener_of
from tests.support.daemon import running_daemon
from tests.support.servers import valkey_binary
from tests.support.waiting import wait_until

LIMIT = 256 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group whose processes may have so much memory; skips the test where none can be made."""
    valkey_binary()
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    version_1 = [path for _, controllers, path in own if "memory" in controllers.split(",")]
    mount = Path("/sys/fs/cgroup/memory" if version_1 else "/sys/fs/cgroup")
    [path] = version_1 or [path for number, _, path in own if number == "0"]
    made = mount / path.lstrip("/") / f"rs-oom-{os.getpid()}"
    limit = made / ("memory.limit_in_bytes" if version_1 else "memory.max")
    try:
        made.mkdir()
        limit.write_text(str(LIMIT))
    except OSError as error:
        with contextlib.suppress(OSError):
            made.rmdir()
        pytest.skip(
            f"no control group for memory can be made here ({error}); see tests/service/test_oom_detection.py"
        )
    yield made
    made.rmdir()


def test_a_server_that_the_oom_killer_ended_is_back_and_the_record_says_who_it_was(group: Path) -> None:
    with running_daemon(None) as daemon:
        server = str(daemon.directory / "state" / "redstreamd" / "embedded" / "server.sock")

        def add(key: str) -> bool:
            # The answer of a call that was executed may be lost with the server.
            entry = {"stream": "a:b:c", "entries": [{"n": 1}], "idempotency_key": key}
            return "ids" in daemon.call("stream_add", **entry)["structuredContent"]

        wait_until(lambda: add("before"))
        pid = listener_of(server)
        for each in (daemon.process.pid, pid):
            (group / "cgroup.procs").write_text(str(each))
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(60)
            client.connect(server)
            # A value that is never complete: it needs memory, and is not in the data that are loaded next.
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (2 * LIMIT))
            for _ in range(2 * LIMIT >> 20):
                client.sendall(bytes(1 << 20))
        wait_until(lambda: "OOM killer" in daemon.log)
        wait_until(lambda: add("after"))
        assert listener_of(server) != pid
        assert daemon.process.poll() is None
        assert "was ended by SIGKILL: the kernel's OOM killer ended it" in daemon.log
        assert "raise MemoryMax=" in daemon.log
        read = {"stream": "a:b:c", "start": "earliest"}
        # Connections to the server are made anew one by one.
        entries = wait_until(lambda: daemon.call("stream_read", **read)["structuredContent"].get("entries"))
        assert len(entries) == 2

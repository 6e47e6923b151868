"""A small daemon on redstreamd's service modules, for tests of these with a real service manager.

Runs inside the container in the place of `redstreamd serve`. Each connection sends one line and
gets one line back; what it does in between is the test's wish.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time

import trio

from redstreamd.service.activation import adopt_sockets
from redstreamd.service.child import Child
from redstreamd.service.lastwords import install_last_words
from redstreamd.service.log import set_up_logging
from redstreamd.service.notify import Notifier
from redstreamd.service.progress import Marks
from redstreamd.service.supervisor import Supervisor
from redstreamd.service.watchdog import Watchdog, watchdog_interval

LOG = logging.getLogger("redstreamd.probe")


async def main() -> None:
    output = set_up_logging()
    install_last_words()
    notifier = Notifier.from_environment()
    interval_seconds = watchdog_interval()
    listeners = adopt_sockets().named("mcp")
    served = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal served
        served += 1
        async with stream:
            wish = (await stream.receive_some(1000)).decode().strip()
            await stream.send_all(json.dumps(do(wish)).encode() + b"\n")

    def do(wish: str) -> object:
        match wish.split():
            case ["hang"]:
                time.sleep(1000)
            case ["log", count]:
                longest = 0.0
                for number in range(int(count)):
                    begun_at = time.perf_counter()
                    LOG.info("record %06d %s", number, "x" * 400)
                    longest = max(longest, time.perf_counter() - begun_at)
                return {"longest_seconds": longest, "dropped": output.statistics().dropped}
            case ["notify", count]:
                longest = 0.0
                for number in range(int(count)):
                    begun_at = time.perf_counter()
                    notifier.status(f"status {number}")
                    longest = max(longest, time.perf_counter() - begun_at)
                return {"longest_seconds": longest, "full": notifier.statistics().full}
            case ["exit", status]:
                os._exit(int(status))
        return {"pid": os.getpid(), "environ": dict(os.environ), "uid": os.getuid()}

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(trio.serve_listeners, answer, [listener])
            task_status.started()

    async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            await anext(signals)
            notifier.stopping("on the way out")
            supervisor.request_stop()
            await trio.sleep_forever()

    watchdog = Watchdog(
        notifier, Marks(), interval_seconds=interval_seconds, status=lambda: f"served {served}"
    )
    supervisor = Supervisor(
        "probe",
        [
            Child("log", output.run),
            Child("watchdog", watchdog.run),
            Child("signals", stop_on_signal),
            Child("listeners", serve),
        ],
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        LOG.info("ready with %d listeners", len(listeners))
        notifier.ready()


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(int(sys.argv[1]))
    trio.run(main)

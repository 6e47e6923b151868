"""`redstreamd connect` under systemd: the service is restarted and killed in the middle of clients' calls."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import trio

from tests.clients.restart_traffic import IN_FLIGHT, Party, all_call, by_lines, pause_after
from tests.support.counts import counts
from tests.support.waiting import wait_until
from tests.systemd.harness import PREFIX, Container, clean_up, install_units
from tests.systemd.test_daemon import REDIS, SERVICE, SOCKET, drop_in

#: Calls of each client before a fault, and as many after it; fewer where there are many faults.
HALF, FEW = 50, 20
#: For a state of the service; a busy machine may take its time.
TIMEOUT = 180.0


@pytest.fixture
def service(container: Container) -> Iterator[Container]:
    """The container with our units installed, and the door open."""
    install_units(container)
    container.systemctl("start", REDIS)
    container.run("redis-cli", "FLUSHALL")
    container.systemctl("start", SOCKET)
    container.forget_journal()
    yield container
    clean_up(container, SOCKET, SERVICE, REDIS)


def restart(service: Container) -> None:
    service.systemctl("restart", SERVICE)


def end_by(service: Container, number: signal.Signals) -> None:
    """Send the daemon a signal that is its end, and wait until systemd has started another."""

    def restarts() -> int:
        return int(service.show(SERVICE, "NRestarts")["NRestarts"])

    before = restarts()
    service.kill(service.main_pid(SERVICE), number)
    wait_until(lambda: restarts() > before, timeout_seconds=TIMEOUT)
    service.wait_for(SERVICE, ActiveState="active", timeout_seconds=TIMEOUT)


@pytest.mark.parametrize("times", counts(1, ci=10, full=100)[1:])
@pytest.mark.limit(180, times=30)
async def test_restarts_a_kill_and_the_end_by_the_watchdog_end_no_session_and_lose_no_call(
    service: Container, times: int
) -> None:
    # With time to say where it hung, on a machine that is slow.
    drop_in(service, "[Service]\nWatchdogSec=5\nTimeoutAbortSec=60\n")
    service.systemctl("start", SERVICE)
    # One that is stopped does not feed the watchdog, and is ended by it.
    faults = [partial(end_by, number=number) for number in (signal.SIGKILL, signal.SIGSTOP)]
    await under_traffic(service, [*[restart] * times, *faults])
    service.wait_for_journal(SERVICE, "Failed with result 'watchdog'")
    # journald may read the dump later than the daemon is back.
    service.wait_for_journal(SERVICE, "<supervisor redstreamd>")
    journal = service.journal(SERVICE)
    assert "Watchdog timeout (limit 5s)" in journal
    assert "killed by SIGABRT; trio tasks:" in journal
    # It died of that, before systemd lost its patience. What systemd says of the end is not looked for,
    # because it waits 10 ms for a journal that is busy with the dump, and then drops its message.
    assert "stop-watchdog' timed out" not in journal


async def under_traffic(service: Container, faults: Sequence[Callable[[Container], object]]) -> None:
    """Let the service have faults, each in the middle of the calls of a client of each era."""
    half = HALF if len(faults) < 5 else FEW
    parties = [Party("handshake"), Party("modern")]
    stopping = False
    words = service.words(str(PREFIX / "bin" / "redstreamd"), "connect")
    async with trio.open_nursery() as nursery:
        for era, party in zip(("handshake", "modern"), parties, strict=True):
            nursery.start_soon(by_lines, party, words, era, lambda: not stopping)
        for fault in faults:
            await all_call(parties, half)
            # They call while it happens, and leave the processor to a daemon that starts.
            pause_after(parties, 4 * HALF)
            await trio.to_thread.run_sync(fault, service)
        await all_call(parties, half)
        stopping = True
    problems: list[str] = []
    for party in parties:
        print(party)
        found = service.run("redis-cli", "-3", "--json", "XRANGE", party.stream, "-", "+").stdout
        entries = [
            (entry_id, dict(zip(flat[::2], flat[1::2], strict=True))) for entry_id, flat in json.loads(found)
        ]
        problems += party.problems(entries, most_unknown=len(faults) * IN_FLIGHT)
    assert not problems, f"{len(problems)} problems: {problems[:20]}"

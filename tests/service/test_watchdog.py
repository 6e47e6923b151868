"""The watchdog: when it pings, when it does not, and what it says. Virtual clock, real notify socket."""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from redstreamd.errors.defects import Defect
from redstreamd.service.heartbeats import Heartbeats
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.notify import Notifier
from redstreamd.service.watchdog import (
    PingsResumed,
    PingsWithheld,
    Watchdog,
    WatchdogEvent,
    watchdog_interval,
)
from tests.support.measured import measured


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio with a clock that jumps as soon as everybody waits."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


class ServiceManager:
    """The reading end of the notify socket."""

    def __init__(self) -> None:
        self.name = f"redstreamd-test-{secrets.token_hex(8)}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{self.name}")
        self.socket.setblocking(False)
        self.notifier = Notifier(f"@{self.name}")

    def received(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(1 << 16).decode("ascii"))
            except BlockingIOError:
                return messages


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    manager = ServiceManager()
    with manager.socket:
        yield manager
        manager.notifier.close()


async def watch(watchdog: Watchdog, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await watchdog.run()


PING = "WATCHDOG=1"


async def test_it_pings_at_once_and_then_at_the_interval(manager: ServiceManager) -> None:
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=15.0)
    times: list[float] = []

    async def note_pings() -> None:
        begun_at = trio.current_time()
        while True:
            times.extend(trio.current_time() - begun_at for _ in manager.received())
            await trio.sleep(0.5)

    with trio.move_on_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchdog.run)
            nursery.start_soon(note_pings)
    # Noted up to half a second late.
    assert [math.floor(at / 15) for at in times] == [0, 1, 2, 3]
    assert all(at % 15 <= 0.51 for at in times)
    assert watchdog.statistics().pings == 4


@pytest.mark.parametrize(("interval", "pings"), [(0.05, 200), (0.7, 15), (1.0, 10), (1.5, 7), (4.9, 3)])
async def test_any_interval_is_kept(manager: ServiceManager, interval: float, pings: int) -> None:
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=interval)

    async def read() -> None:
        # The manager's queue is short, and a full one delays pings.
        while True:
            manager.received()
            await trio.sleep(0.01)

    with trio.move_on_after(9.99):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchdog.run)
            nursery.start_soon(read)
    assert watchdog.statistics().pings == pings


async def test_without_an_interval_it_never_pings_but_still_reports(manager: ServiceManager) -> None:
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=None, status=lambda: "42 clients")
    await watch(watchdog, 100)
    assert manager.received() == ["STATUS=42 clients"]


async def test_a_part_without_progress_stops_the_pings_and_its_progress_resumes_them_at_once(
    manager: ServiceManager,
) -> None:
    heartbeats = Heartbeats()
    heartbeat = heartbeats.register("tail hub", max_age_seconds=20)
    events: list[WatchdogEvent] = []
    watchdog = Watchdog(manager.notifier, heartbeats, interval_seconds=10, on_event=events.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        await trio.sleep(25)
        # At 0, 10 and 20 s it was fresh.
        assert manager.received() == [PING] * 3
        await trio.sleep(100)
        assert manager.received() == []
        assert watchdog.statistics().stale == ("tail hub",)
        assert watchdog.statistics().pings_withheld > 90
        heartbeat.beat()
        # Not a whole interval later: systemd's limit is two of them.
        await trio.sleep(1.5)
        assert manager.received() == [PING]
        assert watchdog.statistics().stale == ()
        nursery.cancel_scope.cancel()
    withheld, resumed = events
    assert isinstance(withheld, PingsWithheld)
    assert "tail hub showed no progress for 2" in str(withheld.stale[0])
    assert resumed == PingsResumed()


async def test_a_full_notify_socket_delays_the_ping_by_a_tick_and_not_by_an_interval(
    manager: ServiceManager,
) -> None:
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=10)
    while manager.notifier.watchdog().name == "SENT":
        pass
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        await trio.sleep(5.5)
        assert watchdog.statistics().pings == 0
        manager.received()
        await trio.sleep(1)
        assert manager.received() == [PING]
        nursery.cancel_scope.cancel()


async def test_the_status_is_told_when_it_changes_and_at_most_once_a_second(manager: ServiceManager) -> None:
    watchdog = Watchdog(
        manager.notifier,
        Heartbeats(),
        interval_seconds=None,
        status=lambda: f"{int(trio.current_time() - begun_at) // 3} clients",
    )
    begun_at = trio.current_time()
    await watch(watchdog, 8.5)
    assert manager.received() == ["STATUS=0 clients", "STATUS=1 clients", "STATUS=2 clients"]

    counter = iter(range(1000))
    busy = Watchdog(manager.notifier, Heartbeats(), interval_seconds=None, status=lambda: str(next(counter)))
    await watch(busy, 8.5)
    assert len(manager.received()) == 9


async def test_a_status_that_cannot_be_made_is_reported_once_and_does_not_stop_the_pings(
    manager: ServiceManager, defects: list[Defect]
) -> None:
    def broken() -> str:
        raise ZeroDivisionError

    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=2, status=broken)
    await watch(watchdog, 9)
    assert manager.received() == [PING] * 5
    assert [each.what for each in defects] == ["the status line failed"]


async def test_without_a_service_manager_the_status_is_not_even_made() -> None:
    asked = 0

    def status() -> str:
        nonlocal asked
        asked += 1
        return "x"

    await watch(Watchdog(Notifier(None), Heartbeats(), interval_seconds=None, status=status), 10)
    assert asked == 0


async def test_what_the_notifier_owes_is_tried_again_every_tick(manager: ServiceManager) -> None:
    while manager.notifier.watchdog().name == "SENT":
        pass
    manager.notifier.ready()
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=None)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        manager.received()
        await trio.sleep(1.5)
        assert manager.received() == ["READY=1"]
        nursery.cancel_scope.cancel()


async def test_the_lag_is_the_longest_time_that_the_loop_was_held_up(manager: ServiceManager) -> None:
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=None)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        await trio.sleep(0.25)
        # The clock is virtual; this is real, and what is measured is real.
        time.sleep(0.3)  # noqa: ASYNC251 -- the fault under test
        await trio.sleep(0.25)
        time.sleep(0.01)  # noqa: ASYNC251
        await trio.sleep(1)
        worst = watchdog.statistics().loop_lag_seconds
        assert worst >= 0.3
        with measured:
            assert worst < 10
        assert watchdog.statistics().worst_loop_lag_seconds == worst
        await trio.sleep(1)
        # The interval after it was quieter; the worst is remembered.
        with measured:
            assert watchdog.statistics().loop_lag_seconds < worst
        assert watchdog.statistics().worst_loop_lag_seconds == worst
        nursery.cancel_scope.cancel()


async def test_a_watchdog_that_has_ended_measures_no_more(manager: ServiceManager) -> None:
    lag = LoopLag()
    await watch(Watchdog(manager.notifier, Heartbeats(), interval_seconds=None, lag=lag), 5)
    with pytest.raises(KeyError):
        trio.lowlevel.remove_instrument(lag)


async def test_after_a_long_standstill_missed_ticks_are_not_made_up_for(manager: ServiceManager) -> None:
    looks = 0

    def status() -> str:
        nonlocal looks
        looks += 1
        return "same"

    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    watchdog = Watchdog(manager.notifier, Heartbeats(), interval_seconds=None, status=status)
    async with trio.open_nursery() as nursery:
        await nursery.start(watchdog.run)
        await trio.sleep(0.5)
        clock.jump(5000)
        await trio.sleep(1.6)
        nursery.cancel_scope.cancel()
    assert looks == 3


# The environment


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_the_interval_is_half_of_what_was_asked_for_if_it_was_asked_of_us(
    environ: dict[str, str], interval: float | None
) -> None:
    assert watchdog_interval(environ) == interval
    assert environ == {}

"""How an acceptor goes on when the system will not accept, on virtual time, with a listener made to fail."""

from __future__ import annotations

import errno
import itertools
import os
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcpio.accept_loop import MAX_PAUSE_SECONDS
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.connection_events import AcceptPaused, AcceptResumed, Event
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.mcpio.spare_descriptors import SPARE_DESCRIPTORS
from tests.mcpio.serving import PRINCIPAL, make_server


@pytest.fixture
def anyio_backend() -> Any:
    """Let time pass at once when everybody waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class BrokenListener(trio.abc.Listener[trio.SocketStream]):
    """Refuses to accept until a time, and then waits for ever."""

    def __init__(self, number: int, until: float) -> None:
        self.number = number
        self.until = until
        self.attempts: list[float] = []

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        assert len(self.attempts) < 5000, "accepting is retried without a pause"
        if trio.current_time() < self.until:
            raise OSError(self.number, os.strerror(self.number))
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINVAL])
async def test_accepting_is_retried_with_growing_pauses_and_reported_once(number: int) -> None:
    events: list[Event] = []
    began = trio.current_time()
    listener = BrokenListener(number, until=began + 60)
    acceptor = Acceptor([ServedListener(listener, PRINCIPAL)], Kernels(make_server()), on_event=events.append)
    with trio.move_on_after(100):
        await acceptor.run()
    attempts = listener.attempts
    if number == errno.EMFILE:
        # It is tried at once with each of the spare descriptors.
        assert attempts[:SPARE_DESCRIPTORS] == [began] * SPARE_DESCRIPTORS
        del attempts[:SPARE_DESCRIPTORS]
    pauses = [round(later - earlier, 3) for earlier, later in itertools.pairwise(attempts)]
    assert sorted(pauses) == pauses
    assert 0 < pauses[0] <= 0.1
    assert pauses[-1] == MAX_PAUSE_SECONDS <= 1
    assert 60 < len(attempts) < 80
    (paused,) = events
    assert isinstance(paused, AcceptPaused)
    assert paused.exception.errno == number


async def test_a_pause_is_over_once_somebody_was_let_in() -> None:
    class Recovering(BrokenListener):
        async def accept(self) -> trio.SocketStream:
            if len(self.attempts) in (3, 8):
                self.attempts.append(trio.current_time())
                ours, theirs = trio.socket.socketpair()
                theirs.close()
                return trio.SocketStream(ours)
            return await super().accept()

    events: list[Event] = []
    listener = Recovering(errno.EMFILE, until=trio.current_time() + 3600)
    acceptor = Acceptor(
        [ServedListener(listener, PRINCIPAL)],
        Kernels(make_server()),
        spare_descriptors=0,
        on_event=events.append,
    )
    with trio.move_on_after(30):
        await acceptor.run()
    about_accepting = [event for event in events if isinstance(event, AcceptPaused | AcceptResumed)]
    assert [type(event) for event in about_accepting] == [AcceptPaused, AcceptResumed] * 2 + [AcceptPaused]
    # Each pause begins with a short one again.
    assert listener.attempts[5] - listener.attempts[4] < 0.1
    resumed = about_accepting[1]
    assert isinstance(resumed, AcceptResumed)
    assert resumed.paused_seconds == pytest.approx(listener.attempts[3] - listener.attempts[0])

"""What is looked at within a pass, whoever has a descriptor by then."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from redstreamd.admission.arrivals import Arrivals


class _Server:
    def send_now(self) -> None:
        """Send nothing."""

    def take_replies(self) -> bool:
        """Have none."""
        return False


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """More pairs, one after the other, than are looked at."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(each) for _ in range(20) for each in socket.socketpair()]


def test_a_connection_to_a_server_that_has_the_descriptor_of_a_light_client_is_looked_at(
    sockets: list[socket.socket],
) -> None:
    arrivals, (ours, theirs, *others) = Arrivals(), sockets
    arrivals.expect(ours.fileno())
    # The client has gone, and the next descriptor that was opened is the same.
    arrivals.watch(ours.fileno(), _Server())
    theirs.send(b"a reply")
    assert arrivals.look(replies=False) == []
    for each in others[::2]:
        arrivals.expect(each.fileno())
    assert arrivals.look(replies=True) == [ours.fileno()]
    arrivals.forget(ours.fileno())
    # Now a client has it again.
    arrivals.expect(ours.fileno())
    assert arrivals.look(replies=True) == [ours.fileno()]
    assert arrivals.look(replies=True) == []


def test_where_a_client_closes_nothing_is_expected(sockets: list[socket.socket]) -> None:
    arrivals, (ours, theirs, *others) = Arrivals(), sockets
    arrivals.expect(ours.fileno())
    theirs.send(b"a message")
    arrivals.expect_none(ours.fileno())
    arrivals.expect_none(ours.fileno())
    assert arrivals.look(replies=True) == []
    for each in others[::2]:
        arrivals.expect(each.fileno())
    assert ours.fileno() not in arrivals.light

"""sd_notify against real datagram sockets: the form of the messages, and a manager that does not listen."""

from __future__ import annotations

import os
import secrets
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.service.notify import MAX_DATAGRAM_BYTES, Notifier, Sent, one_line
from tests.support.measured import measured


def bound(address: str) -> socket.socket:
    """A socket that plays the service manager's part."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("\0" + address[1:] if address.startswith("@") else address)
    manager.setblocking(False)
    return manager


def received(manager: socket.socket) -> list[str]:
    """Everything that has arrived, without waiting."""
    messages = []
    while True:
        try:
            messages.append(manager.recv(1 << 16).decode("ascii"))
        except BlockingIOError:
            return messages


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "abstract":
        yield f"@redstreamd-test-{secrets.token_hex(8)}"
    else:
        with tempfile.TemporaryDirectory(prefix="rs-") as short:
            yield f"{short}/notify"


@pytest.fixture
def manager(address: str) -> Iterator[socket.socket]:
    with bound(address) as manager:
        yield manager


@pytest.fixture
def notifier(address: str) -> Iterator[Notifier]:
    notifier = Notifier(address)
    yield notifier
    notifier.close()


def fill(notifier: Notifier) -> int:
    """Send until the manager's queue is full; return how many messages fitted."""
    for sent in range(10_000):
        if notifier.watchdog() is Sent.FULL:
            return sent
    raise AssertionError("the queue never filled")


def test_each_message_is_one_datagram_as_sd_notify_has_it(manager: socket.socket, notifier: Notifier) -> None:
    before = time.monotonic_ns() // 1000
    outcomes = [
        *(notifier.ready("serving"), notifier.status("42 clients"), notifier.watchdog()),
        *(
            notifier.reloading(),
            notifier.ready(),
            notifier.extend_timeout(2.5),
            notifier.stopping("draining"),
        ),
    ]
    after = time.monotonic_ns() // 1000
    messages = received(manager)
    reloading = messages.pop(3)
    assert outcomes == [Sent.SENT] * 7
    assert messages == [
        *("READY=1\nSTATUS=serving", "STATUS=42 clients", "WATCHDOG=1"),
        *("READY=1", "EXTEND_TIMEOUT_USEC=2500000", "STOPPING=1\nSTATUS=draining"),
    ]
    first, second = reloading.split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after


def test_without_an_address_nothing_is_sent_and_that_is_known() -> None:
    notifier = Notifier(None)
    assert not notifier.is_enabled
    assert {notifier.ready("x"), notifier.status("y"), notifier.watchdog(), notifier.flush()} == {
        Sent.DISABLED
    }
    assert notifier.statistics().pending == 0


def test_the_address_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nowhere")
    assert Notifier.from_environment().is_enabled
    assert "NOTIFY_SOCKET" not in os.environ
    assert not Notifier.from_environment().is_enabled


def test_a_status_outside_latin_1_does_not_swallow_the_ready_it_came_with(
    manager: socket.socket, notifier: Notifier
) -> None:
    assert notifier.ready("läuft \u2013 \u4e2d\u6587") is Sent.SENT
    assert received(manager) == ["READY=1\nSTATUS=l\\xe4uft \\u2013 \\u4e2d\\u6587"]


def test_a_status_cannot_smuggle_a_field(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status("fine\nMAINPID=1\r\nREADY=1\x00\x1b[31m")
    assert received(manager) == ["STATUS=fine MAINPID=1 READY=1\\u0000\\u001b[31m"]


@given(st.text())
def test_any_text_becomes_one_line_of_printable_ascii(text: str) -> None:
    line = one_line(text)
    assert line.isascii()
    assert line.isprintable() or not line


def test_a_message_never_exceeds_what_systemd_accepts(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("x" * 10_000)
    notifier.status("\u2013" * 10_000)
    lengths = [len(message) for message in received(manager)]
    assert lengths == [MAX_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES]


def test_a_manager_that_does_not_read_blocks_nobody(manager: socket.socket, notifier: Notifier) -> None:
    fill(notifier)
    outcomes, took_seconds = set(), []
    for _ in range(1000):
        begun_at = time.perf_counter()
        outcomes.add(notifier.watchdog())
        took_seconds.append(time.perf_counter() - begun_at)
    assert outcomes == {Sent.FULL}
    # Not the mean: this process may be held up in the middle of a call, for whatever time.
    with measured:
        assert statistics.median(took_seconds) < 0.001
    assert notifier.statistics().full == 1001


def test_what_matters_later_is_owed_while_the_queue_is_full_and_sent_once_it_is_read(
    manager: socket.socket, notifier: Notifier
) -> None:
    fill(notifier)
    assert notifier.ready("starting") is Sent.FULL
    assert notifier.status("one") is Sent.FULL
    assert notifier.status("two") is Sent.FULL
    assert notifier.watchdog() is Sent.FULL
    assert notifier.statistics().pending == 2
    assert set(received(manager)) == {"WATCHDOG=1"}
    assert notifier.watchdog() is Sent.SENT
    # In order, the older status replaced by the newer one, and the watchdog's only once.
    assert received(manager) == ["READY=1\nSTATUS=starting", "STATUS=two", "WATCHDOG=1"]
    assert notifier.statistics().pending == 0


def test_a_text_that_comes_with_a_state_replaces_an_older_one_that_is_owed(
    manager: socket.socket, notifier: Notifier
) -> None:
    fill(notifier)
    notifier.status("starting")
    notifier.ready("serving")
    received(manager)
    assert notifier.flush() is Sent.SENT
    assert received(manager) == ["READY=1\nSTATUS=serving"]


def test_only_the_latest_state_is_owed(manager: socket.socket, notifier: Notifier) -> None:
    fill(notifier)
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    received(manager)
    assert notifier.flush() is Sent.SENT
    assert received(manager) == ["STOPPING=1"]


def test_a_vanished_manager_is_survived_and_a_new_one_at_its_address_is_found(
    address: str, notifier: Notifier
) -> None:
    with bound(address) as first:
        assert notifier.ready() is Sent.SENT
        assert received(first) == ["READY=1"]
    Path(address).unlink(missing_ok=True)
    assert notifier.status("alone") is Sent.GONE
    assert notifier.watchdog() is Sent.GONE
    assert notifier.statistics().last_error
    with bound(address) as second:
        assert notifier.watchdog() is Sent.SENT
        assert received(second) == ["STATUS=alone", "WATCHDOG=1"]


def test_a_manager_that_was_replaced_between_two_messages_costs_nothing(
    address: str, notifier: Notifier
) -> None:
    with bound(address):
        assert notifier.ready() is Sent.SENT
    Path(address).unlink(missing_ok=True)
    with bound(address) as second:
        assert notifier.watchdog() is Sent.SENT
        assert received(second) == ["WATCHDOG=1"]
    assert notifier.statistics().gone == 0

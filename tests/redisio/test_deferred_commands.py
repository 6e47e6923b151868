"""What is sent when more is asked of Redis than fits in a few milliseconds; without a server."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import Turns
from redstreamd.policy import Principal
from redstreamd.redisio import connect_errors
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.redis_errors import NotSent, ReplyLost
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.work_window import BYTE_SECONDS, STEPS_COUNT_BEYOND, WINDOW_SECONDS

# No time passes but what commands are taken to take: else a client would be charged for what other programs
# have of the processor, and come later.
pytestmark = pytest.mark.usefixtures("turns_clock")

#: A command that is a quarter of what may be in flight.
LARGE = b"x" * int(WINDOW_SECONDS / 4 / BYTE_SECONDS)


class Calls:
    """A pipeline, and who calls."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.pipeline = Pipeline(self.queued_first, self.turns)
        # Whether somebody was told to send what is queued.
        self.is_told = False
        self.accounts = Accounts()
        self.replies: list[tuple[str, Any]] = []

    def queued_first(self) -> None:
        self.is_told = True

    def client(self, pid: int) -> Account:
        return self.accounts.open(Principal("me", "unix"), Peer(1000, pid), str(pid))

    def send(self, account: Account | None, name: str, payload: bytes = LARGE) -> Request:
        self.turns.work_for(account)
        return self.pipeline.enqueue(("ECHO", payload), lambda reply: self.replies.append((name, reply)))

    def answer(self, count: int) -> list[str]:
        """Send what may be sent, answer so many, and return whose they were."""
        before = len(self.replies)
        assert self.is_told or not self.pipeline.sendable
        while self.pipeline.sendable:
            self.pipeline.take(0.0)
        self.is_told = False
        assert self.pipeline.awaited.answer([b"ok"] * count, print) == ()
        return [name for name, _ in self.replies[before:]]


def test_a_command_waits_for_few_of_anothers_however_many_these_are() -> None:
    calls = Calls()
    greedy, polite = calls.client(1), calls.client(2)
    for number in range(100):
        calls.send(greedy, f"greedy {number}")
    calls.send(polite, "polite")
    assert calls.pipeline.deferred == 98
    # Each counts as two, for its size.
    assert (calls.accounts.all.queued, greedy.queued) == (2 * 98, 2 * 97)
    order = [name for _ in range(101) for name in calls.answer(1)]
    assert order.index("polite") <= 6
    # Each client's own keep their order, and nothing is left.
    assert [name for name in order if name != "polite"] == [f"greedy {number}" for number in range(100)]
    assert (calls.pipeline.deferred, calls.accounts.all.queued, greedy.running) == (0, 0, 0)


def test_who_got_little_is_not_deferred_unless_it_has_much() -> None:
    calls = Calls()
    greedy, polite = calls.client(1), calls.client(2)
    for number in range(8):
        calls.send(greedy, f"greedy {number}")
    # Those who wait have got much.
    greedy.charge(1.0, 0.0)
    calls.answer(2)
    deferred = calls.pipeline.deferred
    assert deferred > 0
    calls.send(polite, "polite")
    assert calls.pipeline.deferred == deferred
    calls.pipeline.take(0.0)
    sent = [calls.send(polite, f"further {number}") for number in range(100)]
    # It got its share with these.
    assert polite.queued > 0
    first = next(number for number, request in enumerate(sent) if request.deferred is not None)
    assert all(request.deferred is not None for request in sent[first:])


def test_new_clients_do_not_keep_those_out_that_wait() -> None:
    calls = Calls()
    greedy = calls.client(1)
    for number in range(10):
        calls.send(greedy, f"greedy {number}")
    greedy.charge(1.0, 0.0)
    served: list[str] = []
    # Each of them got little.
    for pid in range(2, 1_000):
        calls.send(calls.client(pid), "new")
        served += calls.answer(1)
    assert sum(name != "new" for name in served) == 10


def test_small_commands_are_sent_at_once_and_the_daemons_own_always() -> None:
    calls = Calls()
    client = calls.client(1)
    for number in range(100):
        calls.send(client, str(number), b"small")
    assert calls.pipeline.deferred == 0
    for number in range(10):
        calls.send(client, str(number))
    assert calls.pipeline.deferred > 0
    own = calls.send(None, "own")
    while calls.pipeline.sendable:
        calls.pipeline.take(0.0)
    assert own.sent


def test_a_large_command_is_sent_behind_one_of_the_daemons_own_whatever_came_and_went_before() -> None:
    calls = Calls()
    client = calls.client(1)
    for number in range(64):
        calls.send(client, str(number), b"x" * (number % 7))
    calls.answer(64)
    own = calls.send(None, "own", b"")
    large = calls.send(client, "large", LARGE * 8)
    assert calls.pipeline.deferred == 0
    # Nothing that is sent for a client is left to admit what would be deferred.
    own.take_back()
    assert calls.answer(1) == ["large"]
    assert large.sent


def test_a_deferred_command_can_be_taken_back_and_the_next_takes_its_place() -> None:
    calls = Calls()
    client = calls.client(1)
    requests = [calls.send(client, str(number)) for number in range(8)]
    calls.pipeline.take(0.0)
    deferred = [request for request in requests if not request.sent]
    assert deferred
    assert deferred[0].take_back()
    assert not requests[0].take_back()
    order = [name for _ in range(7) for name in calls.answer(1)]
    assert order == [str(number) for number, request in enumerate(requests) if request is not deferred[0]]
    assert (client.queued, client.running, calls.pipeline.queued_bytes) == (0, 0, 0)


def test_of_a_lost_connection_deferred_commands_were_not_sent() -> None:
    calls = Calls()
    client = calls.client(1)
    for number in range(8):
        calls.send(client, str(number))
    calls.pipeline.take(0.0)
    in_flight = calls.pipeline.in_flight
    calls.pipeline.abandon(connect_errors.SHUTTING_DOWN)
    kinds = [type(reply) for _, reply in calls.replies]
    assert kinds == [ReplyLost] * in_flight + [NotSent] * (8 - in_flight)
    assert (client.queued, client.running) == (0, 0)


def test_a_client_whose_replies_are_large_has_fewer_commands_under_way() -> None:
    calls = Calls()
    client, other = calls.client(1), calls.client(2)
    for _ in range(8):
        calls.send(client, "first", b"small")
        calls.pipeline.take(0.0)
        calls.pipeline.awaited.answer([b"ok"], print, size=1_000_000)
    for number in range(8):
        calls.send(client, str(number), b"small")
    assert calls.pipeline.deferred == 7
    while calls.pipeline.queued or calls.pipeline.in_flight:
        calls.answer(1)
    for number in range(8):
        calls.send(other, str(number), b"small")
    assert calls.pipeline.deferred == 0


def test_what_serves_many_calls_counts_for_each_of_them_and_for_each_task_that_it_wakes() -> None:
    calls = Calls()
    client = calls.client(1)
    calls.turns.work_for(client)
    enqueue = calls.pipeline.enqueue

    def joint(tasks: int) -> Request:
        return enqueue(("ECHO", b"small"), print, calls=10, tasks=tasks)

    calls.turns.is_shared = True
    # With few in flight, what tasks take does not count.
    for _ in range(STEPS_COUNT_BEYOND):
        enqueue(("ECHO", b"small"), print)
    assert [joint(0).deferred is None for _ in range(3)] == [True] * 3
    # A task takes 0.3 ms of the window of 1.5, and counts twice.
    deferred = joint(3)
    assert deferred.deferred is not None
    assert (client.queued, calls.accounts.all.queued) == (10, 10)
    assert deferred.take_back()
    assert (client.queued, calls.accounts.all.queued) == (0, 0)
    assert joint(1).deferred is None


def test_replies_are_handed_out_in_parts_and_none_is_lost() -> None:
    calls = Calls()
    client = calls.client(1)
    for number in range(10):
        calls.send(client, str(number), b"small")
    calls.pipeline.take(0.0)
    rest: Any = list(range(10))
    parts = 0
    while rest:
        rest = calls.pipeline.awaited.answer(rest, print, seconds=0.0)
        parts += 1
    assert calls.replies == [(str(number), number) for number in range(10)]
    assert parts == 10

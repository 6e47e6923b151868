"""One budget of memory: whoever holds most gives back first, from the principal down to the connection."""

from __future__ import annotations

import attrs

from redstreamd.admission.accounts import Account, Accounts, Held, Peer
from redstreamd.admission.memory import Memory, Share
from redstreamd.policy import Principal

AGENTS, ADMIN = Principal("agents", "unix"), Principal("admin", "unix")


@attrs.define(eq=False)
class Client:
    """A connection that holds something, and gives back half of it.

    Attributes:
        account: Its account.
        share: Its share.
        asked: How often it had to give back.
        refused: How often a request of it was refused.
    """

    account: Account
    share: Share = attrs.field(init=False)
    asked: int = 0
    refused: int = 0

    @property
    def held(self) -> int:
        return self.account.held[Held.BYTES]

    def give_back(self) -> bool:
        self.asked += 1
        self.share.hold(-(self.held // 2))
        return True

    def on_refused(self) -> None:
        self.refused += 1


@attrs.define
class Bus:
    """Clients with a budget of 1,000 bytes."""

    accounts: Accounts = attrs.field(factory=Accounts)
    memory: Memory = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.memory = Memory(self.accounts, 1_000)

    def client(self, principal: Principal = AGENTS, pid: int = 1, uid: int = 1000) -> Client:
        name = str(len(self.memory._holders))
        client = Client(self.accounts.open(principal, Peer(uid=uid, pid=pid), name))
        client.share = self.memory.open(client.account, client)
        return client


def test_within_the_budget_nobody_is_asked() -> None:
    bus = Bus()
    first, second = bus.client(), bus.client(pid=2)
    first.share.hold(600)
    second.share.hold(400)
    assert second.share.may_hold(0)
    assert (first.asked, second.asked) == (0, 0)
    assert not bus.memory.is_exceeded


def test_who_holds_most_gives_back_until_the_budget_is_met() -> None:
    bus = Bus()
    small, large, newcomer = bus.client(), bus.client(), bus.client()
    small.share.hold(100)
    large.share.hold(900)
    newcomer.share.hold(200)
    assert (small.asked, large.asked, newcomer.asked) == (0, 1, 0)
    assert bus.accounts.all.held[Held.BYTES] == 100 + 450 + 200


def test_a_process_with_many_small_connections_pays_before_one_that_holds_less_in_all() -> None:
    bus = Bus()
    many = [bus.client(pid=1) for _ in range(20)]
    single = bus.client(pid=2)
    for each in many:
        each.share.hold(35)
    single.share.hold(300)
    single.share.hold(50)
    assert single.asked == 0
    assert sum(each.asked for each in many) > 0
    assert not bus.memory.is_exceeded


def test_a_request_is_refused_only_to_who_holds_most() -> None:
    bus = Bus()
    greedy, polite, other = bus.client(pid=1), bus.client(pid=2), bus.client(ADMIN, pid=3)
    greedy.share.hold(950)
    assert not greedy.share.may_hold(100)
    assert greedy.held == 950
    assert polite.share.may_hold(100)
    assert (greedy.asked, polite.asked, other.asked) == (1, 0, 0)
    # Nothing is held by anybody of this principal, but this one would hold more than all others.
    assert not other.share.may_hold(900)
    assert not bus.memory.is_exceeded


def test_what_a_closed_connection_held_is_free_again() -> None:
    bus = Bus()
    first, second = bus.client(), bus.client()
    first.share.hold(900)
    first.share.close()
    bus.accounts.close(first.account)
    assert bus.accounts.all.held[Held.BYTES] == 0
    second.share.hold(900)
    assert second.asked == 0


def test_a_client_that_is_not_opened_yet_is_not_asked() -> None:
    bus = Bus()
    client = bus.client()
    bus.accounts.open(AGENTS, Peer(uid=1000, pid=1), "unopened")
    # Half of it is still more than the budget.
    client.share.hold(5_000)
    assert client.asked

"""At a limit whoever holds most gives way: to other processes, users and principals."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redstreamd.admission.accounts import Account, Accounts, Held, Peer, gives_way
from redstreamd.admission.claims import SUBSCRIPTIONS, WAITS, Claim, Limit, SharedLimit
from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.policy.quotas import Most, Quantity, Quota, Quotas

AGENTS, ADMIN = Principal("agents", "unix"), Principal("admin", "unix")


def per_principal(most: int | None) -> Quotas:
    """As many waits for each principal."""
    return Quotas((), {Quantity.WAITS: Most(most, "limits.max_waits_per_principal")})


class Clients:
    """Connections that claim places, and which of them were told to end."""

    def __init__(self, limit: Limit) -> None:
        """Claim places of `limit`."""
        self.accounts = Accounts()
        self.limit = limit
        self.ended: list[str] = []
        self.claims: dict[str, list[Claim]] = {}

    def connect(self, name: str, pid: int, uid: int = 1000, principal: Principal = AGENTS) -> Account:
        """Open a connection."""
        return self.accounts.open(principal, Peer(uid=uid, pid=pid), name)

    def claim(self, account: Account, times: int = 1, *, can_end: bool = True) -> list[Claim]:
        """Take places for a connection."""
        end = partial(self.ended.append, account.name) if can_end else None
        return [self.limit.claim(account, end) for _ in range(times)]


def test_whoever_holds_most_gives_its_oldest_wait_to_a_newcomer_and_is_refused_itself() -> None:
    clients = Clients(Limit(WAITS, 10))
    greedy = clients.connect("greedy", pid=7)
    for number in range(10):
        clients.limit.claim(greedy, partial(clients.ended.append, f"greedy {number}"))
    with pytest.raises(BusError) as refused:
        clients.claim(greedy)
    assert refused.value.code is Code.RATE_LIMITED
    assert "this client has 10 of them" in refused.value.cause
    assert "limits.max_waits in" in refused.value.next_step
    clients.claim(clients.connect("polite", pid=8))
    assert clients.ended == ["greedy 0"]
    assert clients.limit.total == clients.accounts.all.held[Held.WAITS] == 10
    with pytest.raises(BusError):
        clients.claim(greedy)
    # Many connections of one process are one.
    with pytest.raises(BusError):
        clients.claim(clients.connect("greedy too", pid=7))


def test_two_processes_end_with_equal_parts_and_do_not_take_them_from_each_other_over_and_over() -> None:
    clients = Clients(Limit(WAITS, 10))
    first, second = clients.connect("first", pid=7), clients.connect("second", pid=8)
    clients.claim(first, 10)
    clients.claim(second, 5)
    assert clients.ended == ["first"] * 5
    for account in (first, second):
        with pytest.raises(BusError):
            clients.claim(account)
    assert clients.ended == ["first"] * 5


def test_a_user_with_many_processes_is_one_and_so_is_a_principal_with_many_users() -> None:
    clients = Clients(Limit(WAITS, 12))
    for pid in range(12):
        clients.claim(clients.connect(f"many {pid}", pid))
    with pytest.raises(BusError):
        clients.claim(clients.connect("one more", pid=20))
    # All of them have one, and together they have most.
    clients.claim(clients.connect("other user", pid=21, uid=1001))
    assert clients.ended == ["many 0"]
    clients.claim(clients.connect("administrator", pid=1, uid=0, principal=ADMIN))
    assert clients.ended == ["many 0", "many 1"]


def test_who_cannot_take_from_another_branch_may_take_from_the_greatest_of_its_own() -> None:
    clients = Clients(Limit(WAITS, 10))
    clients.claim(clients.connect("admin", pid=1, uid=0, principal=ADMIN), 5)
    clients.claim(clients.connect("greedy", pid=7), 5)
    clients.claim(clients.connect("polite", pid=8))
    assert clients.ended == ["greedy"]


def test_a_limit_of_each_principal_is_of_its_own_and_ends_nothing_of_another() -> None:
    clients = Clients(Limit(WAITS, 10, per_principal(3)))
    greedy = clients.connect("greedy", pid=7)
    clients.claim(greedy, 3)
    with pytest.raises(BusError) as refused:
        clients.claim(greedy)
    assert "limits.max_waits_per_principal" in refused.value.next_step
    clients.claim(clients.connect("admin", pid=7, principal=ADMIN), 3)
    assert clients.ended == []
    clients.claim(clients.connect("polite", pid=8))
    assert clients.ended == ["greedy"]


def test_quotas_of_principals_differ_and_new_ones_take_nothing_away() -> None:
    quotas = Quotas([Quota.parse("agents have waits=3"), Quota.parse("* have waits=5")])
    clients = Clients(Limit(WAITS, 10, quotas))
    agent = clients.connect("agent", pid=7)
    admin = clients.connect("admin", pid=8, principal=ADMIN)
    clients.claim(agent, 3)
    clients.claim(admin, 5)
    for each in (agent, admin):
        with pytest.raises(BusError) as refused:
            clients.claim(each)
        assert refused.value.code is Code.RATE_LIMITED
        assert "policy.quotas" in refused.value.next_step
    quotas.replace([Quota.parse("* have waits=4")])
    clients.claim(agent)
    with pytest.raises(BusError):
        clients.claim(admin)
    assert (agent.held[Held.WAITS], admin.held[Held.WAITS], clients.ended) == (4, 5, [])
    quotas.replace([])
    clients.claim(admin)


def test_what_cannot_be_ended_is_kept_and_the_newcomer_is_refused() -> None:
    clients = Clients(Limit(WAITS, 2))
    clients.claim(clients.connect("greedy", pid=7), 2, can_end=False)
    with pytest.raises(BusError):
        clients.claim(clients.connect("polite", pid=8))


def test_the_daemons_own_places_count_in_all_and_for_nobody() -> None:
    limit = Limit(WAITS, 2)
    own = limit.claim(None)
    clients = Clients(limit)
    (claim,) = clients.claim(clients.connect("one", pid=7))
    for account in (None, clients.connect("two", pid=7)):
        with pytest.raises(BusError):
            limit.claim(account)
    limit.release(own)
    limit.release(own)
    limit.release(claim)
    assert limit.total == 0


def test_a_place_that_is_released_after_its_connection_has_closed_counts_once() -> None:
    clients = Clients(Limit(WAITS, 5))
    account, other = clients.connect("one", pid=7), clients.connect("two", pid=7)
    (claim,) = clients.claim(account)
    clients.claim(other)
    clients.accounts.close(account)
    clients.limit.release(claim)
    assert clients.accounts.all.held[Held.WAITS] == clients.limit.total == 1


def test_places_that_are_released_together_count_as_if_each_were_released_alone() -> None:
    clients = Clients(Limit(WAITS, 9))
    closed, one = clients.connect("one", pid=7), clients.connect("one", pid=7)
    other = clients.connect("other", pid=8)
    claims = [
        *clients.claim(closed),
        *clients.claim(one, 2),
        *clients.claim(other, 3),
        clients.limit.claim(None),
    ]
    clients.accounts.close(closed)
    clients.limit.release(claims[1])
    # The second of them is released already, the first has gone with its connection.
    clients.limit.release_all([*claims[:4], claims[-1]])
    assert clients.limit.total == clients.accounts.all.held[Held.WAITS] == 2
    assert (one.held[Held.WAITS], other.held[Held.WAITS]) == (0, 2)
    clients.limit.release_all(claims)
    assert clients.limit.total == clients.accounts.all.held[Held.WAITS] == 0


def test_the_last_quarter_of_subscriptions_is_for_those_who_hold_little() -> None:
    clients = Clients(SharedLimit(SUBSCRIPTIONS, 1000))
    greedy = clients.connect("greedy", pid=7)
    with pytest.raises(BusError) as refused:
        clients.claim(greedy, 1000, can_end=False)
    assert refused.value.code is Code.TOO_MANY_SUBSCRIPTIONS
    assert clients.limit.total == 750
    for pid in range(100, 110):
        clients.claim(clients.connect(f"polite {pid}", pid), 4, can_end=False)
    # Each further one that takes all it can finds something, too.
    for pid in range(200, 215):
        account = clients.connect(f"greedy {pid}", pid)
        with pytest.raises(BusError):
            clients.claim(account, 1000, can_end=False)
        assert account.held[Held.SUBSCRIPTIONS] >= 1
    assert clients.limit.total < 1000


Step = tuple[int, int, int, int]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 12),
    st.none() | st.integers(1, 8),
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2), st.integers(-2, 3)), max_size=120
    ),
)
def test_counts_agree_and_nobody_is_refused_beside_one_who_holds_two_more(
    most: int, own: int | None, steps: list[Step]
) -> None:
    limit = Limit(WAITS, most, per_principal(own))
    accounts = Accounts()
    connections: dict[tuple[int, int, int], Account] = {}
    held: dict[Account, list[Claim]] = {}

    def end(account: Account, claims: list[Claim]) -> None:
        # What has ended releases its place once more, as a wait does.
        claim = claims.pop()
        held[account].remove(claim)
        limit.release(claim)

    for principal, uid, pid, amount in steps:
        where = (principal, uid, pid)
        if where not in connections:
            connections[where] = accounts.open(
                (AGENTS, ADMIN)[principal], Peer(uid=uid, pid=pid + 1), f"{where}"
            )
            held[connections[where]] = []
        account = connections[where]
        if amount < 0:
            limit.release_all(held[account][:-amount])
            del held[account][:-amount]
        for _ in range(amount):
            claims: list[Claim] = []
            try:
                claim = limit.claim(account, partial(end, account, claims))
            except BusError:
                scopes = [accounts.all] if own is None else list(account.path()[:2])
                full = [
                    scope
                    for scope in scopes
                    if scope.held[Held.WAITS] >= (most if scope is accounts.all else own or 0)
                ]
                assert full
                assert any(gives_way(scope, Held.WAITS, account) is None for scope in full)
                brothers = account.path()[-2].parent
                assert brothers is not None
                mine = account.path()[-2].held[Held.WAITS]
                assert all(each.held[Held.WAITS] < mine + 2 for each in brothers.members.values())
            else:
                claims.append(claim)
                held[account].append(claim)
        counts = Counter({each: len(of) for each, of in held.items()})
        assert limit.total == counts.total() == accounts.all.held[Held.WAITS] <= most
        assert all(each.held[Held.WAITS] == counts[each] for each in held)
        if own is not None:
            assert all(each.held[Held.WAITS] <= own for each in accounts.all.members.values())
